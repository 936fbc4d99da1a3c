"""
The asyncio transport: aiohttp, for triggers and bulk fetches. Moves bytes and awaits; decides nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.policy.effects import Effect, MaskSecret, Send, Sleep, Throttled, WaitFor
from airflow_provider_rtisms.api.policy.perform import Drive, TransportError, perform
from airflow_provider_rtisms.api.policy.token_cache import TokenCache
from airflow_provider_rtisms.api.protocol.request import MAX_RESPONSE_BYTES, Call, HttpRequest, HttpResponse
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport.limiter import AdaptiveLimiter, Place
from airflow_provider_rtisms.api.transport.stats import Stats

T = TypeVar("T")
OnSecret = Callable[[str], Awaitable[None] | None]


class AsyncRtiSmsClient:
    """
    Calls the API without blocking the event loop. May be used by many tasks of one loop at once.

    Use it as an asynchronous context manager.

    :param settings: where, who, and within which limits.
    :param tokens: a token cache to share with other clients of the same settings; default one of its own.
    :param on_secret: told each new token before it is used, so that logs can hide it; may be a coroutine function.
    """

    def __init__(
        self,
        settings: ApiSettings,
        tokens: TokenCache | None = None,
        on_secret: OnSecret | None = None,
    ) -> None:
        self.settings = settings
        self.tokens = tokens or TokenCache()
        self._on_secret = on_secret
        self._proxy = settings.proxy_to_use()
        self.pace = AdaptiveLimiter(settings.max_concurrency, settings.requests_per_second)
        self.stats = Stats()
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout, ceil_threshold=settings.timeout + 1)
        self._session: aiohttp.ClientSession | None = None
        self._unpooled: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> AsyncRtiSmsClient:
        """Open the session; sockets are opened as they are needed."""
        # Reading the certificates takes long enough to be felt on the loop.
        verify = await asyncio.to_thread(_tls_context, self.settings) if self.settings.is_tls else True
        self._session = _new_session(aiohttp.TCPConnector(limit=self.settings.max_concurrency, ssl=verify))
        # Keeps no connection, so that each of its requests opens one.
        self._unpooled = _new_session(aiohttp.TCPConnector(limit=0, ssl=verify, force_close=True))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all sockets."""
        if self._session is not None:
            await self._session.close()
        if self._unpooled is not None:
            await self._unpooled.close()

    async def perform(self, call: Call[T]) -> T:
        """Do one call, as :meth:`~airflow_provider_rtisms.api.transport.blocking.RtiSmsClient.perform` does."""
        async with Place(self.pace) as place:
            drive = Drive(perform(call, self.settings, self.tokens))
            for step in drive:
                with step:
                    step.response = await self._do(step.effect, place)
        self.pace.succeeded()
        return drive.result

    async def _do(self, effect: Effect, place: Place) -> Any:
        match effect:
            case Send(request):
                await place.take()
                return await self._exchange(request)
            case Sleep(seconds):
                self.stats.retries += 1
                place.give_up()
                await asyncio.sleep(seconds)
            case Throttled(sent_at, retry_after):
                self.stats.refusals += 1
                return self.pace.slow_down(sent_at, retry_after)
            case WaitFor(future):
                place.give_up()
                # Shielded, since a waiter that is cancelled must not cancel the future that all others wait for.
                return await asyncio.shield(asyncio.wrap_future(future))
            case MaskSecret(secret):
                self.stats.tokens += 1
                if self._on_secret is not None and (told := self._on_secret(secret)) is not None:
                    await told
        return None

    async def _exchange(self, request: HttpRequest) -> HttpResponse:
        session = self._unpooled if request.on_new_connection else self._session
        if session is None:
            raise RuntimeError("AsyncRtiSmsClient is used outside 'async with'")
        sent_at = await self.pace.departure()
        self.stats.requests += 1
        try:
            async with session.request(
                request.method,
                self.settings.base_url + request.path,
                data=request.body,
                headers=request.headers,
                proxy=self._proxy,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                return HttpResponse(response.status, response.headers, await _read_capped(response), sent_at)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _failure(error, self.settings.timeout) from None


def _new_session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,  # see ApiSettings.proxy_to_use
    )
    # aiohttp would repeat a GET by itself, untold and uncounted; what is repeated is for api.retry to say.
    session._retry_connection = False
    return session


async def _read_capped(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while chunk := await response.content.readany():
        body = body + chunk if body else chunk
        if len(body) > MAX_RESPONSE_BYTES:
            response.close()
            raise TransportError(
                errors.RtiSmsResponseTooLargeError,
                f"the server responded HTTP {response.status} with more than {MAX_RESPONSE_BYTES} bytes",
            )
    return body


def _failure(error: Exception, timeout: float) -> TransportError:
    """Tell what a failure of aiohttp means; the text leaves out what may hold a secret."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return TransportError(errors.RtiSmsCertificateError, f"the certificate is not trusted ({error})")
        case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError() | aiohttp.ConnectionTimeoutError():
            return TransportError(errors.RtiSmsConnectError, f"no connection could be made ({error})")
        case TimeoutError():
            return TransportError(errors.RtiSmsTimeoutError, f"no complete response within {timeout:g} s")
        case aiohttp.ClientResponseError():  # its repr would show our headers
            return TransportError(errors.RtiSmsConnectionLostError, f"the response is no HTTP ({type(error).__name__})")
    return TransportError(errors.RtiSmsConnectionLostError, f"the connection broke ({type(error).__name__}: {error})")


def _tls_context(settings: ApiSettings) -> ssl.SSLContext:
    trusted = settings.trusted_certificates()
    is_folder = Path(trusted).is_dir()
    return ssl.create_default_context(capath=trusted if is_folder else None, cafile=None if is_folder else trusted)


@dataclass(slots=True)
class _Lease:
    opening: asyncio.Future[AsyncRtiSmsClient]
    users: int = 0


_leases: dict[tuple[asyncio.AbstractEventLoop, ApiSettings], _Lease] = {}


@asynccontextmanager
async def shared_client(settings: ApiSettings, on_secret: OnSecret | None = None) -> AsyncIterator[AsyncRtiSmsClient]:
    """
    Give the client that all users of these settings on this event loop share; the last one to leave closes it.

    :param settings: equal settings share a client, and so a token, a pool of sockets and ``max_concurrency``.
    :param on_secret: as for :class:`AsyncRtiSmsClient`; the first user's is kept.
    """
    key = (asyncio.get_running_loop(), settings)
    lease = _leases.get(key)
    if lease is None:
        opening = asyncio.ensure_future(AsyncRtiSmsClient(settings, on_secret=on_secret).__aenter__())
        lease = _leases[key] = _Lease(opening)
    lease.users += 1
    try:
        yield await asyncio.shield(lease.opening)
    finally:
        lease.users -= 1
        if lease.users == 0:
            _leases.pop(key, None)
            await (await lease.opening).__aexit__()
