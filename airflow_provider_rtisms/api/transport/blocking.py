"""
The blocking transport: requests. Moves bytes and waits; decides nothing.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
)

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.policy.effects import Effect, MaskSecret, Send, Sleep, WaitFor
from airflow_provider_rtisms.api.policy.perform import Drive, TransportError, perform
from airflow_provider_rtisms.api.policy.token_cache import TokenCache
from airflow_provider_rtisms.api.protocol.request import MAX_RESPONSE_BYTES, Call, HttpRequest, HttpResponse
from airflow_provider_rtisms.api.settings import ApiSettings

T = TypeVar("T")


class RtiSmsClient:
    """
    Calls the API and waits for the response. May be used by many threads at once.

    :param settings: where, who, and within which limits.
    :param tokens: a token cache to share with other clients of the same settings; default one of its own.
    :param on_secret: told each new token before it is used, so that logs can hide it.
    """

    def __init__(
        self,
        settings: ApiSettings,
        tokens: TokenCache | None = None,
        on_secret: Callable[[str], Any] | None = None,
    ) -> None:
        self.settings = settings
        self.tokens = tokens or TokenCache()
        self._on_secret = on_secret
        self._session = _new_session(settings)

    def perform(self, call: Call[T]) -> T:
        """
        Do one call, retries and token included.

        :param call: from :mod:`~airflow_provider_rtisms.api.protocol.endpoints`.
        :return: its result.
        :raises RtiSmsError: see :func:`~airflow_provider_rtisms.api.policy.perform.perform`.
        """
        drive = Drive(perform(call, self.settings, self.tokens))
        for step in drive:
            with step:
                step.response = self._do(step.effect)
        return drive.result

    def close(self) -> None:
        """Close all sockets."""
        self._session.close()

    def __enter__(self) -> RtiSmsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, effect: Effect) -> Any:
        match effect:
            case Send(request):
                return self._exchange(request)
            case Sleep(seconds):
                time.sleep(seconds)
            case WaitFor(future):
                return future.result()
            case MaskSecret(secret):
                if self._on_secret is not None:
                    self._on_secret(secret)
        return None

    def _exchange(self, request: HttpRequest) -> HttpResponse:
        try:
            with (
                self._session_for(request) as session,
                session.request(
                    request.method,
                    self.settings.base_url + request.path,
                    data=request.body,
                    headers=dict(request.headers),
                    # urllib3's total counts from connect; _DeadlineResponse makes it hold for each read as well.
                    timeout=urllib3.Timeout(total=self.settings.timeout),  # type: ignore[arg-type]
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                body = _read_capped(response)
                return HttpResponse(response.status_code, response.headers, body)
        except (requests.RequestException, HTTPError) as error:
            raise _failure(error, self.settings.timeout) from None

    def _session_for(self, request: HttpRequest) -> AbstractContextManager[requests.Session]:
        return _new_session(self.settings) if request.on_new_connection else nullcontext(self._session)


def _new_session(settings: ApiSettings) -> requests.Session:
    session = _Session()
    session.trust_env = False  # see ApiSettings.proxy_to_use
    proxy = settings.proxy_to_use()
    session.proxies = {"http": proxy, "https": proxy} if proxy else {}
    session.verify = settings.trusted_certificates() if settings.is_tls else True
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # A thread beyond max_concurrency waits for a socket; without pool_block urllib3 would open one and drop it again.
    session.mount(settings.base_url, _DeadlineAdapter(pool_maxsize=settings.max_concurrency, pool_block=True))
    return session


class _Session(requests.Session):
    """Leaves redirects alone; requests would read the whole body, and parse Location, to prepare the next request."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _read_capped(response: requests.Response) -> bytes:
    body = bytearray()
    while chunk := response.raw.read(65536, decode_content=False):
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise TransportError(
                errors.RtiSmsResponseTooLargeError,
                f"the server responded HTTP {response.status_code} with more than {MAX_RESPONSE_BYTES} bytes",
            )
    return bytes(body)


def _failure(error: Exception, timeout: float) -> TransportError:
    """Tell what a failure of requests or urllib3 means; the text leaves out what may hold a secret."""
    reason = _root(error)
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return TransportError(errors.RtiSmsCertificateError, f"the certificate is not trusted ({reason})")
    if isinstance(reason, ConnectTimeoutError | NewConnectionError) or isinstance(
        error, requests.exceptions.ProxyError
    ):
        return TransportError(errors.RtiSmsConnectError, f"no connection could be made ({reason})")
    if isinstance(error, requests.exceptions.ReadTimeout | ReadTimeoutError):
        return TransportError(errors.RtiSmsTimeoutError, f"no complete response within {timeout:g} s")
    return TransportError(errors.RtiSmsConnectionLostError, f"the connection broke ({type(reason).__name__}: {reason})")


def _root(error: Exception) -> Exception:
    """Return the urllib3 error inside the requests error, and the reason inside that."""
    inner = error.args[0] if error.args else None
    if isinstance(error, requests.RequestException | MaxRetryError) and isinstance(inner, Exception):
        error = inner
    if isinstance(error, MaxRetryError) and isinstance(error.reason, Exception):
        error = error.reason
    return error


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket until a deadline, so that a byte a second cannot keep an exchange alive."""

    def __init__(self, raw: io.RawIOBase, sock: Any, deadline: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the exchange has passed")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """An response whose status line, headers and body share one deadline: what is left of the total timeout."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        left = sock.gettimeout()
        if left is not None:
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_DeadlineReader(raw, sock, time.monotonic() + left))


class _HttpConnection(HTTPConnection):
    response_class = _DeadlineResponse


class _HttpsConnection(HTTPSConnection):
    response_class = _DeadlineResponse


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _DeadlineAdapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _use_deadlines(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        _use_deadlines(manager)
        return manager


def _use_deadlines(manager: Any) -> None:
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
