"""The blocking client: requests. It moves bytes and waits; ``policy`` decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar

import requests
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SmsDetails, Submission
from airflow_provider_rtisms.api.policy.effects import Acquire, Effect, MaskSecret, Send, Sleep, Throttled, WaitFor
from airflow_provider_rtisms.api.policy.perform import TransportError, describe_break, perform
from airflow_provider_rtisms.api.policy.token_cache import TokenCache
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import MAX_RESPONSE_BYTES, Call, HttpRequest, HttpResponse
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport.deadline import DeadlineAdapter
from airflow_provider_rtisms.api.transport.stats import Stats
from airflow_provider_rtisms.api.transport.thread_slots import ThreadSlots
from airflow_provider_rtisms.api.values.forks import count_forks

T = TypeVar("T")


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
    :raises RtiSmsConfigError: the certificates that verify the server cannot be read.
    """

    def __init__(
        self,
        settings: ApiSettings,
        tokens: TokenCache | None = None,
        on_secret: Callable[[str], Any] | None = None,
        stats: Stats | None = None,
    ) -> None:
        self.settings = settings
        self.tokens = tokens or TokenCache()
        self.stats = stats or Stats()
        self._on_secret = on_secret
        self._open()

    def get_sms(self, submission_id: str | int) -> SmsDetails:
        """
        Fetch the details of one submission.

        :param submission_id: ASCII decimal string or whole number; no float.
        :raises RtiSmsError: see :meth:`perform`.
        """
        return self.perform(endpoints.get_sms(submission_id))

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
        return self.perform(endpoints.send_sms(recipients=recipients, text=text, sender=sender, charset=charset))

    def get_balance(self) -> Decimal:
        """
        Fetch the balance of the account.

        :raises RtiSmsError: see :meth:`perform`.
        """
        return self.perform(endpoints.get_balance())

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

        :param method: as for :func:`~airflow_provider_rtisms.api.endpoints.request`, like the other parameters.
        :return: the decoded JSON.
        :raises RtiSmsInputError: an argument has another form; nothing was sent.
        :raises RtiSmsError: see :meth:`perform`.
        """
        return self.perform(endpoints.request(method, path, params=params, json=json, idempotent=idempotent))

    def perform(self, call: Call[T]) -> T:
        """
        Do one call, with retries and token.

        :param call: from :mod:`~airflow_provider_rtisms.api.protocol.endpoints`.
        :return: its result.
        :raises RtiSmsError: see :func:`~airflow_provider_rtisms.api.policy.perform.perform`.
        """
        flow = perform(call, self.settings, self.tokens, observer=self.stats)
        try:
            effect = next(flow)
            while True:
                try:
                    result = self._do(effect)
                except BaseException as error:  # the flow decides what it means
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            flow.close()  # it has not ended if an interrupt came between two effects

    def close(self) -> None:
        """Close all sockets."""
        self._session.close()

    def __enter__(self) -> RtiSmsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._forks = count_forks()
        self._slots = ThreadSlots(self.settings.max_concurrency, longest=2 * self.settings.timeout)
        self._session = new_session(self.settings)

    def _do(self, effect: Effect) -> Any:
        match effect:
            case Send(request):
                return self._exchange(request)
            case Sleep(seconds):
                time.sleep(seconds)
            case WaitFor(flight):
                return flight.wait()
            case MaskSecret(secret):
                if self._on_secret is not None:
                    self._on_secret(secret.get_secret_value())
            case Acquire() | Throttled():
                pass  # blocking calls have no limiter; each one retries a 429 by itself
        return None

    def _exchange(self, request: HttpRequest) -> HttpResponse:
        if self._forks != count_forks():
            self._open()  # the parent process goes on to use the sockets that a fork has copied
        try:
            with (
                self._slots,
                self._session_for(request) as session,
                session.request(
                    request.method,
                    self.settings.base_url + request.path,
                    data=request.body,
                    headers=dict(request.headers),
                    # urllib3's total counts from connect; DeadlineAdapter makes it hold for each read as well.
                    timeout=urllib3.Timeout(total=self.settings.timeout),  # type: ignore[arg-type]
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                return HttpResponse(response.status_code, response.headers, read_capped(response))
        except (requests.RequestException, HTTPError) as error:
            raise transport_error(error, self.settings.timeout) from None

    def _session_for(self, request: HttpRequest) -> AbstractContextManager[requests.Session]:
        return new_session(self.settings) if request.on_new_connection else nullcontext(self._session)


def new_session(settings: ApiSettings) -> requests.Session:
    """Return a session that uses the proxy and the certificates of the settings, and follows no redirect."""
    session = _Session()
    session.trust_env = False  # see ApiSettings.proxy_to_use
    proxy = settings.proxy_to_use()
    session.proxies = {"all": proxy} if proxy else {}
    if settings.is_tls:
        session.verify = settings.trusted_certificates()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.mount(settings.base_url, DeadlineAdapter(pool_maxsize=settings.max_concurrency))
    return session


class _Session(requests.Session):
    """Ignore redirects; requests would read the whole body and parse Location to prepare the next request."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def read_capped(response: requests.Response) -> bytes:
    """Return the body of a response that is streamed, or raise TransportError if it is too large."""
    body = bytearray()
    while chunk := response.raw.read(65536, decode_content=False):
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise TransportError(
                errors.RtiSmsResponseTooLargeError,
                f"the server returned HTTP {response.status_code} with more than {MAX_RESPONSE_BYTES} bytes",
            )
    return bytes(body)


def transport_error(error: Exception, timeout: float) -> TransportError:
    """Say what a failure of requests or urllib3 means."""
    reason = _root(error)
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return TransportError(errors.RtiSmsCertificateError, "the certificate is not trusted", str(reason))
    if isinstance(reason, ConnectTimeoutError | NewConnectionError) or isinstance(
        error, requests.exceptions.ProxyError
    ):
        return TransportError(errors.RtiSmsConnectError, "no connection could be made", str(reason))
    if isinstance(error, requests.exceptions.ReadTimeout | ReadTimeoutError):
        return TransportError(errors.RtiSmsTimeoutError, f"no complete response within {timeout:g} s")
    inner = reason.args[-1] if isinstance(reason, ProtocolError) and reason.args else reason
    broken = describe_break(inner if isinstance(inner, Exception) else reason)
    return TransportError(errors.RtiSmsConnectionLostError, f"the connection broke ({broken})")


def _root(error: Exception) -> Exception:
    """Return the urllib3 error inside the requests error, and the reason inside that."""
    if error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return error.reason or error if isinstance(error, MaxRetryError) else error
