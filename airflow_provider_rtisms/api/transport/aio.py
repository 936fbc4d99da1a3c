"""The asyncio client: aiohttp, for triggers and bulk fetches. It moves bytes and awaits; ``policy`` decides."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
from yarl import URL

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SmsDetails, Submission
from airflow_provider_rtisms.api.policy.effects import (
    ACQUIRE,
    Acquire,
    Effect,
    MaskSecret,
    Send,
    Sleep,
    Throttled,
    WaitFor,
)
from airflow_provider_rtisms.api.policy.flight import CHECK_INTERVAL, Flight
from airflow_provider_rtisms.api.policy.perform import TransportError, describe_break, perform
from airflow_provider_rtisms.api.policy.token_cache import TokenCache
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import MAX_RESPONSE_BYTES, Call, HttpRequest, HttpResponse
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport.connector import Connector
from airflow_provider_rtisms.api.transport.limiter import AdaptiveLimiter, Permit
from airflow_provider_rtisms.api.transport.stats import Stats
from airflow_provider_rtisms.api.values.forks import count_forks

T = TypeVar("T")
R = TypeVar("R")
OnSecret = Callable[[str], Awaitable[None] | None]


class AsyncRtiSmsClient:
    """
    Call the API without blocking the event loop. Many tasks of one loop may use one client at once.

    Use it as an asynchronous context manager::

        async with AsyncRtiSmsClient(ApiSettings(client_id="me", client_secret=Secret("..."))) as client:
            print((await client.get_sms("4193366853543393")).status)

    :param settings: where the API is, with which credentials, and within which limits.
    :param tokens: a token cache to share with other clients of the same settings; default one of its own.
    :param on_secret: called with each new token before it is used, so that logs can mask it; may be a coroutine
        function.
    :param stats: what counts the requests of this client, and may report them; default one of its own.
    """

    def __init__(
        self,
        settings: ApiSettings,
        tokens: TokenCache | None = None,
        on_secret: OnSecret | None = None,
        stats: Stats | None = None,
    ) -> None:
        self.settings = settings
        self.tokens = tokens or TokenCache()
        self.limiter = AdaptiveLimiter(settings.max_concurrency, settings.requests_per_second)
        self.stats = stats or Stats()
        self._on_secret = on_secret
        self._base_url = URL(settings.base_url)
        self._base_path = self._base_url.raw_path.rstrip("/")
        self._proxy = settings.proxy_to_use()
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout, ceil_threshold=math.inf)
        self._session: aiohttp.ClientSession | None = None
        self._unpooled: aiohttp.ClientSession | None = None
        #: The process and the event loop that the sockets belong to.
        self._owner: tuple[int, asyncio.AbstractEventLoop] | None = None

    async def open(self) -> None:
        """
        Make the client ready, unless it is. Sockets are opened when they are needed.

        :raises RtiSmsConfigError: the certificates that verify the server cannot be read.
        """
        if self._session is not None:
            return
        # Reading the certificates takes long enough to delay other tasks of the loop.
        verify = await asyncio.to_thread(_tls_context, self.settings) if self.settings.is_tls else True
        self._owner = count_forks(), asyncio.get_running_loop()
        self._session = _new_session(Connector(limit=self.settings.max_concurrency, ssl=verify))
        # It keeps no connection open, so each of its requests opens a new one.
        self._unpooled = _new_session(aiohttp.TCPConnector(limit=0, ssl=verify, force_close=True))

    async def close(self) -> None:
        """Close all sockets."""
        sessions = (self._session, self._unpooled)
        self._session = self._unpooled = None
        async with AsyncExitStack() as stack:  # closes the second session even if the first one is interrupted
            for session in sessions:
                if session is not None:
                    stack.push_async_callback(session.close)

    async def __aenter__(self) -> Self:
        """Open the client."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all sockets."""
        await self.close()

    def get_sms(self, submission_id: str | int) -> Awaitable[SmsDetails]:
        """Fetch the details of one submission, as :meth:`.RtiSmsClient.get_sms` does."""
        return self.perform(endpoints.get_sms(submission_id))

    def send_sms(
        self, *, recipients: str | Sequence[str], text: str, sender: str, charset: int | None = None
    ) -> Awaitable[list[Submission]]:
        """Send one text in one request, as :meth:`.RtiSmsClient.send_sms` does."""
        return self.perform(endpoints.send_sms(recipients=recipients, text=text, sender=sender, charset=charset))

    def get_balance(self) -> Awaitable[Decimal]:
        """Fetch the balance of the account, as :meth:`.RtiSmsClient.get_balance` does."""
        return self.perform(endpoints.get_balance())

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        idempotent: bool | None = None,
    ) -> Awaitable[Any]:
        """Do a call that this package does not know, as :meth:`.RtiSmsClient.request` does."""
        return self.perform(endpoints.request(method, path, params=params, json=json, idempotent=idempotent))

    async def perform(self, call: Call[T]) -> T:
        """Do one call, as :meth:`.RtiSmsClient.perform` does."""
        permit = Permit(self.limiter)
        flow = perform(call, self.settings, self.tokens, observer=self.stats)
        try:
            if not permit.try_acquire():  # before the flow picks a token, which may expire while the call waits
                await permit.acquire()
            effect = next(flow)
            while True:
                try:
                    if effect is ACQUIRE and permit.try_leave():
                        result = None
                    elif isinstance(effect, Send):
                        result = await self._exchange(effect.request)
                    else:
                        result = await self._do(effect, permit)
                except BaseException as error:  # the flow decides what it means
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as end:
            self.limiter.on_success()
            return end.value  # type: ignore[no-any-return]
        finally:
            flow.close()
            permit.release()

    async def _do(self, effect: Effect, permit: Permit) -> Any:
        match effect:
            case Acquire():
                await permit.acquire()
                await permit.acquire_rate()
            case Sleep(seconds):
                permit.release()
                await asyncio.sleep(seconds)
            case Throttled(retry_after):
                return permit.on_throttled(retry_after)
            case WaitFor(flight):
                permit.release()
                return await _wait_for(flight)
            case MaskSecret(secret):
                if self._on_secret is not None:
                    masking = self._on_secret(secret.get_secret_value())
                    if masking is not None:
                        await masking
        return None

    async def _exchange(self, request: HttpRequest) -> HttpResponse:
        session = self._unpooled if request.on_new_connection else self._session
        if session is None:
            raise RuntimeError("AsyncRtiSmsClient is not open: use it in 'async with'")
        if self._owner != (count_forks(), asyncio.get_running_loop()):
            raise RuntimeError(
                "AsyncRtiSmsClient was opened in another process or event loop, which may read from the same sockets: "
                "open another client here"
            )
        try:
            async with session.request(
                request.method,
                self._url(request.path),
                data=request.body,
                headers=request.headers,
                proxy=self._proxy,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                return HttpResponse(response.status, response.headers, await _read_capped(response))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _failure(error, self.settings.timeout) from None

    def _url(self, path: str) -> URL:
        """Return the URL of a path below the base URL, without parsing the base URL again for each request."""
        if "?" in path:
            return URL(self.settings.base_url + path)
        return self._base_url.with_path(self._base_path + path, encoded=True)


async def _wait_for(flight: Flight[R]) -> R | None:
    """Wait as :meth:`.Flight.wait` does, without blocking the event loop."""
    loop, landed = asyncio.get_running_loop(), asyncio.Event()
    flight.on_complete(lambda: loop.call_soon_threadsafe(landed.set))
    while not flight.is_complete and not flight.is_abandoned():
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECK_INTERVAL):
                await landed.wait()
    return flight.result


def _new_session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,  # see ApiSettings.proxy_to_use
    )
    # aiohttp would repeat a GET by itself, without a log line or a count; policy/retry.py decides what is repeated.
    session._retry_connection = False
    return session


async def _read_capped(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while not response.content.at_eof():  # mostly the whole body has come already
        body += await response.content.readany()
        if len(body) > MAX_RESPONSE_BYTES:
            raise TransportError(
                errors.RtiSmsResponseTooLargeError,
                f"the server returned HTTP {response.status} with more than {MAX_RESPONSE_BYTES} bytes",
            )
    return body


def _failure(error: Exception, timeout: float) -> TransportError:
    """Say what a failure of aiohttp means."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return TransportError(errors.RtiSmsCertificateError, "the certificate is not trusted", str(error))
        case aiohttp.ClientHttpProxyError():  # its text holds the proxy's URL with the password
            return TransportError(
                errors.RtiSmsConnectError, f"the proxy refused the connection with HTTP {error.status}"
            )
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return TransportError(errors.RtiSmsConnectError, "no connection could be made", str(error))
        case TimeoutError():
            return TransportError(errors.RtiSmsTimeoutError, f"no complete response within {timeout:g} s")
        case aiohttp.ClientResponseError():  # its repr holds our headers
            what = f"the response is not HTTP ({type(error).__name__})"
            return TransportError(errors.RtiSmsConnectionLostError, what)
    return TransportError(errors.RtiSmsConnectionLostError, f"the connection broke ({describe_break(error)})")


def _tls_context(settings: ApiSettings) -> ssl.SSLContext:
    trusted = settings.trusted_certificates()
    is_folder = Path(trusted).is_dir()
    return ssl.create_default_context(capath=trusted if is_folder else None, cafile=None if is_folder else trusted)
