"""
The blocking client: requests.

``retrying.py`` decides what is repeated and which token a request bears, ``calls.py`` what goes out and what a response
means.
"""

from __future__ import annotations

import http.client
import io
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from decimal import Decimal
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import exceptions as failures
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from airflow_provider_rtisms.api import calls, errors
from airflow_provider_rtisms.api.auth import TokenCache
from airflow_provider_rtisms.api.models import SmsDetails, Submission
from airflow_provider_rtisms.api.retrying import Attempts, Stats, check_retry_args
from airflow_provider_rtisms.api.settings import ApiSettings

T = TypeVar("T")

#: How many interim responses a client reads before it fails; servers send one or two.
MAX_INTERIM_RESPONSES = 20


class RtiSmsClient:
    """
    Call the API and wait for the response. Many threads may use one client at once.

    ::

        with RtiSmsClient(ApiSettings(client_id="me", client_secret=Secret("..."))) as client:
            print(client.get_sms("4193366853543393").status)

    :param settings: where the API is, with which credentials, and within which limits.
    :param tokens: a token cache to share with other clients of the same settings; default one of its own.
    :param on_secret: called with each new token before it is used, so that logs can mask it.
    :param stats: what counts the requests of this client, and may report them; default one of its own.
    :param retry_args: arguments of tenacity that replace ours: ``stop``, ``wait``, ``retry``, ``before_sleep``.
    :raises RtiSmsInputError: ``retry_args`` holds anything else.
    :raises RtiSmsConfigError: the certificates that verify the server cannot be read.
    """

    def __init__(
        self,
        settings: ApiSettings,
        tokens: TokenCache | None = None,
        on_secret: Callable[[str], Any] | None = None,
        stats: Stats | None = None,
        retry_args: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.settings = settings
        self.tokens = tokens or TokenCache()
        self.stats = stats or Stats()
        self._on_secret = on_secret
        self._secrets = settings.secrets()
        self._retry_args = {} if retry_args is None else check_retry_args(retry_args)
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        #: A request holds one of these locks. A semaphore would lose the permits of threads that signals interrupt.
        self._permits = [threading.Lock() for _ in range(self.settings.max_concurrency)]
        #: The only one: a signal handler may call the API while its thread holds it.
        self._only_permit = threading.RLock() if self.settings.max_concurrency == 1 else None
        self._session = self._new_session()

    def get_sms(self, submission_id: str | int) -> SmsDetails:
        """
        Fetch the details of one submission.

        :param submission_id: ASCII decimal string or whole number; no float.
        :raises RtiSmsError: see :meth:`perform`.
        """
        return self.perform(calls.get_sms(submission_id))

    def send_sms(
        self, *, recipients: str | Sequence[str], text: str, sender: str, charset: int | None = None
    ) -> list[Submission]:
        """
        Send one text in one request. The request is not repeated if its response is lost.

        :param recipients: phone numbers in international form.
        :param text: the message.
        :param sender: as allowed for the account.
        :param charset: 0, 1, 6 or 8; None picks by the text.
        :return: one submission per distinct recipient, by position.
        :raises RtiSmsUncertainError: the response was lost.
        :raises RtiSmsError: see :meth:`perform`.
        """
        return self.perform(calls.send_sms(recipients=recipients, text=text, sender=sender, charset=charset))

    def get_balance(self) -> Decimal:
        """
        Fetch the balance of the account.

        :raises RtiSmsError: see :meth:`perform`.
        """
        return self.perform(calls.get_balance())

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        idempotent: bool | None = None,
    ) -> Any:
        """
        Do a call that this package does not know, with the token, the retries and the errors of every other call.

        The parameters are those of :func:`~airflow_provider_rtisms.api.calls.request`.

        :return: the decoded JSON.
        :raises RtiSmsInputError: an argument has another form; nothing was sent.
        :raises RtiSmsError: see :meth:`perform`.
        """
        return self.perform(calls.request(method, path, params=params, json=json, idempotent=idempotent))

    def perform(self, call: calls.Call[T]) -> T:
        """
        Do one call: get a token if necessary, send, renew the token once on 401, retry what may succeed later.

        :param call: from ``airflow_provider_rtisms.api.calls``.
        :return: its result.
        :raises RtiSmsError: a permanent failure, or a transient one in every attempt.
        """
        attempts = Attempts(call, self.settings, self.tokens, self.stats, time.monotonic, self._retry_args)
        result: T = attempts.run(self._attempt)
        return result

    def _attempt(self, attempts: Attempts) -> Any:
        call = attempts.call
        token = attempts.token = None if call.name == calls.AUTHENTICATE else self.tokens.get(self._authenticate)
        secrets = self._secrets if token is None else (token.value, *self._secrets)
        request = call.request(None if token is None else token.value)
        status: int | None = None
        try:
            response = self.send(request)
            status = response.status
        except calls.TransportError as failure:
            raise call.failure(failure, secrets) from None
        finally:
            self.stats.on_request(call, status)
        result = call.read(response, secrets)
        if token is not None:
            self.tokens.on_accepted()
        return result

    def _authenticate(self) -> calls.TokenGrant:
        grant = self.perform(calls.authenticate(self.settings))
        if self._on_secret is not None:
            self._on_secret(grant.access_token.get_secret_value())
        return grant

    def close(self) -> None:
        """Close all sockets."""
        self._session.close()

    def __enter__(self) -> RtiSmsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, request: calls.HttpRequest) -> calls.HttpResponse:
        """
        Send a request once, and read the response.

        :raises TransportError: there was no complete response.
        """
        if self._pid != os.getpid():
            self._open()  # the parent process goes on to use the sockets that a fork has copied
        try:
            with (
                self._permit(),
                self._session_for(request) as session,
                session.request(
                    request.method,
                    self.settings.base_url + request.path,
                    data=request.body,
                    auth=_Auth(request.headers),
                    # The total counts from connect; _Response makes it hold for all reads together.
                    timeout=urllib3.Timeout(total=self.settings.timeout),  # type: ignore[arg-type]
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                body = bytearray()
                while chunk := response.raw.read(65536, decode_content=False):
                    body += chunk
                    if len(body) > calls.MAX_RESPONSE_BYTES:
                        raise calls.too_large(response.status_code)
                return calls.HttpResponse(response.status_code, response.headers, bytes(body))
        except calls.TransportError:
            raise
        except (requests.RequestException, failures.HTTPError) as error:
            raise _failure(error, self.settings) from None
        except BaseException:  # a signal may have come while urllib3 held the lock of its idle connections
            self._session = self._new_session()
            raise

    def _permit(self) -> AbstractContextManager[Any]:
        if self._only_permit is not None:
            return self._only_permit
        return next((one for one in self._permits if not one.locked()), None) or random.choice(self._permits)  # noqa: S311

    def _session_for(self, request: calls.HttpRequest) -> AbstractContextManager[requests.Session]:
        return self._new_session() if request.on_new_connection else nullcontext(self._session)

    def _new_session(self) -> requests.Session:
        session = _Session()
        session.trust_env = False  # see ApiSettings.proxy_to_use
        proxy = self.settings.proxy_to_use()
        session.proxies = {"all": proxy} if proxy else {}
        if self.settings.needs_certificates:
            session.verify = self.settings.trusted_certificates()
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount(self.settings.base_url, _Adapter(pool_maxsize=self.settings.max_concurrency))
        return session


class _Auth(AuthBase):
    """Set our headers, the Bearer token among them, as the last step, so that no .netrc and no session replaces any."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.headers.update(self._headers)
        return prepared


class _Session(requests.Session):
    """Ignore redirects; requests would read the whole body and parse Location to prepare the next request."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _failure(error: Exception, settings: ApiSettings) -> calls.TransportError:
    """Say what a failure of requests or urllib3 means."""
    reason = error.args[0] if error.args and isinstance(error.args[0], Exception) else error  # urllib3's
    if isinstance(reason, failures.MaxRetryError):
        reason = reason.reason or reason
    is_at_proxy = isinstance(error, requests.exceptions.ProxyError)
    if is_at_proxy or isinstance(reason, failures.ConnectTimeoutError | failures.NewConnectionError):
        return calls.no_connection(error, settings, is_at_proxy=is_at_proxy)
    if isinstance(error, requests.exceptions.ReadTimeout | failures.ReadTimeoutError):
        what = f"no complete response within {settings.timeout:g} s"
        return calls.TransportError(errors.RtiSmsTimeoutError, what)
    inner = reason.args[-1] if isinstance(reason, failures.ProtocolError) and reason.args else reason
    broken = calls.describe_break(inner if isinstance(inner, Exception) else reason)
    return calls.TransportError(errors.RtiSmsConnectionLostError, f"the connection broke ({broken})")


# What requests, urllib3 and http.client lack: one deadline for all reads of a response, interim responses, and an eye
# for bytes that belong to no request. urllib3's read timeout starts again with each byte, so a server that sends one
# byte a second could block a request forever. http.client takes an interim response other than 100 for the final one,
# which RFC 9110, section 15.2, forbids.


class _DeadlineReader(io.RawIOBase):
    """Read from a socket until a deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._deadline = deadline
        self.sock = sock
        #: Whether the response is complete, so that no further byte belongs to it.
        self.is_complete = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_complete:
            return 0
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the request has passed")
        self.sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _ResponseFile(io.BufferedReader):
    """The bytes of one response. A connection that holds more of them at its end is not used again."""

    raw: _DeadlineReader

    def close(self) -> None:
        if not self.closed:
            self.raw.is_complete = True
            sock = self.raw.sock
            # urllib3 looks at the socket itself before it uses it again, but it sees neither of these buffers.
            if self.peek() or getattr(sock, "pending", lambda: 0)():
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        super().close()


class _Response(http.client.HTTPResponse):
    """A response that is read within what is left of the total timeout. Interim responses are skipped."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        deadline = time.monotonic() + sock.gettimeout()
        self.fp = _ResponseFile(_DeadlineReader(self.fp.detach(), sock, deadline))

    def begin(self) -> None:
        super().begin()
        interim = 0
        while self.status // 100 == 1 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS:
            interim += 1
            if interim == MAX_INTERIM_RESPONSES:
                raise http.client.HTTPException("too many interim responses")
            self.headers = self.msg = None  # type: ignore[assignment]  # else begin() takes the response for read
            super().begin()
        # urllib3 logs header lines that it cannot parse, and a server can fill these with our secrets.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _HttpPool(HTTPConnectionPool):
    class ConnectionCls(HTTPConnection):
        response_class = _Response


class _HttpsPool(HTTPSConnectionPool):
    class ConnectionCls(HTTPSConnection):
        response_class = _Response

        def connect(self) -> None:
            """Connect, and tell a failure of TLS from a later one: the request has not left yet."""
            try:
                super().connect()
            except (ssl.SSLError, TimeoutError) as error:
                raise failures.NewConnectionError(self, "no TLS") from error


class _Adapter(HTTPAdapter):
    """An adapter with our connections, for direct ones and for those through a proxy. Its pools never block."""

    _POOLS = {"http": _HttpPool, "https": _HttpsPool}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._POOLS

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Verify the certificate of a proxy for plain http too; requests looks at the scheme of the URL alone."""
        super().cert_verify(conn, f"{conn.scheme}:", verify, cert)  # type: ignore[no-untyped-call]

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._POOLS
        return manager
