"""
The asyncio client: aiohttp, for triggers, bulk fetches and sends; when its requests leave; and how its users share it
and do many calls at once.

``retrying.py`` decides what is repeated and which token a request bears, ``calls.py`` what goes out and what a response
means.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import select
import ssl
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Self, TypeAlias, TypeVar
from weakref import WeakSet

import aiohttp
from aiolimiter import AsyncLimiter
from yarl import URL

from airflow_provider_rtisms.api import calls, errors
from airflow_provider_rtisms.api.auth import Token, TokenCache
from airflow_provider_rtisms.api.models import SmsDetails, Submission
from airflow_provider_rtisms.api.retrying import (
    RETRY_AFTER_CAP,
    Attempts,
    Stats,
    backoff,
    check_retry_args,
)
from airflow_provider_rtisms.api.settings import ApiSettings

log = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V")
OnSecret = Callable[[str], Awaitable[None] | None]
RetryArgs: TypeAlias = Mapping[str, Callable[..., Any]]
#: A submission id, with the details or the error that its fetch gave.
Outcome: TypeAlias = tuple[str, SmsDetails | errors.RtiSmsError]

#: Outcomes that may wait for the consumer. If there are more, the workers pause.
BACKLOG = 1000
#: Seconds' worth of ``requests_per_second`` that may leave together. ``AsyncLimiter(rate, 1)`` lets a whole second's
#: worth leave together, which passes the thresholds of servers that count over shorter spans.
BURST = 0.05
#: Seconds: no pause after a 429 is shorter.
MIN_PAUSE = 0.5
#: Seconds in which all permits come back that 429s have removed.
RECOVERY = 20.0
#: Seconds without a success after which a 429 is a failed attempt of its call and no longer slows all calls down.
PATIENCE = 120.0


class AsyncRtiSmsClient:
    """
    Call the API without blocking the event loop. Many tasks of one loop may use one client at once.

    ::

        async with AsyncRtiSmsClient(ApiSettings(client_id="me", client_secret=Secret("..."))) as client:
            print((await client.get_sms("4193366853543393")).status)

    The parameters are those of :class:`.RtiSmsClient`; ``on_secret`` may be a coroutine function.
    """

    def __init__(
        self,
        settings: ApiSettings,
        tokens: TokenCache | None = None,
        on_secret: OnSecret | None = None,
        stats: Stats | None = None,
        retry_args: RetryArgs | None = None,
    ) -> None:
        self.settings = settings
        self.tokens = tokens or TokenCache()
        self.limiter = AdaptiveLimiter(settings.max_concurrency, settings.requests_per_second)
        self.stats = stats or Stats()
        self._on_secret = on_secret
        self._secrets = settings.secrets()
        self._retry_args = {} if retry_args is None else check_retry_args(retry_args)
        self._base_url = URL(settings.base_url)
        self._base_path = self._base_url.raw_path.rstrip("/")
        self._proxy = settings.proxy_to_use()
        # Connecting ends a little earlier, so that the error says that there was no connection.
        self._timeout = aiohttp.ClientTimeout(
            total=settings.timeout, sock_connect=0.9 * settings.timeout, ceil_threshold=math.inf
        )
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
        verify = await asyncio.to_thread(_tls_context, self.settings) if self.settings.needs_certificates else True
        self._owner = os.getpid(), asyncio.get_running_loop()
        connector = _Connector(limit=self.settings.max_concurrency, ssl=verify)
        self._session = _new_session(self.settings, connector)
        # It keeps no connection open, so each of its requests opens a new one.
        self._unpooled = _new_session(self.settings, aiohttp.TCPConnector(limit=0, ssl=verify, force_close=True))

    async def close(self) -> None:
        """Close all sockets."""
        sessions = (self._session, self._unpooled)
        self._session = self._unpooled = None
        async with AsyncExitStack() as stack:  # closes the second session even if the first one is interrupted
            for session in sessions:
                if session is not None:
                    stack.push_async_callback(session.close)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_sms(self, submission_id: str | int) -> Awaitable[SmsDetails]:
        """Fetch the details of one submission, as :meth:`.RtiSmsClient.get_sms` does."""
        return self.perform(calls.get_sms(submission_id))

    def send_sms(
        self, *, recipients: str | Sequence[str], text: str, sender: str, charset: int | None = None
    ) -> Awaitable[list[Submission]]:
        """Send one text in one request, as :meth:`.RtiSmsClient.send_sms` does."""
        return self.perform(calls.send_sms(recipients=recipients, text=text, sender=sender, charset=charset))

    def get_balance(self) -> Awaitable[Decimal]:
        """Fetch the balance of the account, as :meth:`.RtiSmsClient.get_balance` does."""
        return self.perform(calls.get_balance())

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
        return self.perform(calls.request(method, path, params=params, json=json, idempotent=idempotent))

    async def perform(self, call: calls.Call[T]) -> T:
        """Do one call, as :meth:`.RtiSmsClient.perform` does."""
        permit = Permit(self.limiter)
        try:
            await permit.acquire()  # before the call picks a token, which may expire while the call waits
            result = await self._perform(call, permit)
        finally:
            permit.release()
        self.limiter.on_success()
        return result

    async def _perform(self, call: calls.Call[T], permit: Permit) -> T:
        attempts = Attempts(call, self.settings, self.tokens, self.stats, permit.clock, self._retry_args)
        with attempts.span():
            try:
                try:
                    result: T = await self._attempt(permit, attempts)
                except errors.RtiSmsError as error:
                    result = await attempts.retry_async(partial(self._attempt, permit), permit.release, error)
            except errors.RtiSmsError as error:
                raise attempts.final_error(error) from None
            attempts.on_end(result)
            return result

    async def _attempt(self, permit: Permit, attempts: Attempts) -> Any:
        call = attempts.call
        token = None if call.name == calls.AUTHENTICATE else self.tokens.fresh() or await self._get_token(permit)
        attempts.token = token
        secrets = self._secrets if token is None else (token.value, *self._secrets)
        await permit.leave()
        request = call.request(None if token is None else token.value)
        status: int | None = None
        try:
            response = await self.send(request)
            status = response.status
        except calls.TransportError as failure:
            raise call.failure(failure, secrets) from None
        finally:
            self.stats.on_request(call, status)
        try:
            result = call.read(response, secrets)
        except errors.RtiSmsRateLimitError as error:
            attempts.is_throttled_together = permit.on_throttled(error.retry_after)
            raise
        if token is not None:
            self.tokens.on_accepted()
        return result

    async def _get_token(self, permit: Permit) -> Token:
        async with self.tokens.renewal(on_wait=permit.release) as (token, store):
            return token or store(await self._authenticate(permit))

    async def _authenticate(self, permit: Permit) -> calls.TokenGrant:
        grant = await self._perform(calls.authenticate(self.settings), permit)
        masking = None if self._on_secret is None else self._on_secret(grant.access_token.get_secret_value())
        if masking is not None:
            await masking
        return grant

    async def send(self, request: calls.HttpRequest) -> calls.HttpResponse:
        """
        Send a request once, and read the response.

        :raises TransportError: there was no complete response.
        """
        session = self._unpooled if request.on_new_connection else self._session
        if session is None:
            raise RuntimeError("AsyncRtiSmsClient is not open: use it in 'async with'")
        if self._owner != (os.getpid(), asyncio.get_running_loop()):
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
                body = b""
                while not response.content.at_eof():  # mostly the whole body has come already
                    body += await response.content.readany()
                    if len(body) > calls.MAX_RESPONSE_BYTES:
                        raise calls.too_large(response.status)
                return calls.HttpResponse(response.status, response.headers, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _failure(error, self.settings) from None

    def _url(self, path: str) -> URL:
        """Return the URL of a path below the base URL, without parsing the base URL again for each request."""
        if "?" in path:
            return URL(self.settings.base_url + path)
        return self._base_url.with_path(self._base_path + path, encoded=True)


class AdaptiveLimiter:
    """
    Decide when a request may leave, for all users of one client together. Each call has a :class:`Permit`.

    A 429 concerns the account, so it slows all calls down: they pause together, for as long as Retry-After says or for
    a time that grows while nothing succeeds. After the pause half of the permits are left.

    :param max_concurrency: most calls under way at once.
    :param requests_per_second: most requests that leave in a second; None for no limit.
    :param clock: seconds on a monotonic clock; default the clock of the running event loop.
    """

    def __init__(
        self,
        max_concurrency: int,
        requests_per_second: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.max_concurrency = max_concurrency
        self.clock = clock or self._start_clock
        #: How many calls hold a permit.
        self._held = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._rate: AsyncLimiter | None = None
        if requests_per_second:
            burst = max(1.0, requests_per_second * BURST)
            self._rate = AsyncLimiter(burst, burst / requests_per_second)
        #: Permits that 429s have removed.
        self._removed_permits = 0
        self._throttled_at = self._resume_at = self._recovered_at = self._succeeded_at = -math.inf
        self._consecutive_throttles = 0

    @property
    def permits(self) -> int:
        """How many calls may run at once now."""
        self._recover()
        return self.max_concurrency - self._removed_permits

    def _start_clock(self) -> float:
        """Read the clock of the running event loop, from now on without looking for the loop again."""
        self.clock = asyncio.get_running_loop().time
        return self.clock()

    async def acquire(self) -> None:
        """Wait for a free permit. Calls get permits in the order in which they ask."""
        if not self._waiters and self._held < self.permits:
            self._held += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._admit()
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # the permit came at the same moment
                self.release()
            raise

    def release(self) -> None:
        self._held -= 1
        if self._waiters or self._removed_permits:
            self._admit()

    async def acquire_rate(self) -> float:
        """Wait for the rate, and for the end of a pause after a 429; return when a request may leave, on the clock."""
        if self._rate is not None:
            await self._rate.acquire()
        while (pause := self._resume_at - (now := self.clock())) > 0:
            await asyncio.sleep(pause)
            if self._rate is not None:  # without this, all calls that paused would leave at the same moment
                await self._rate.acquire()
        return now

    def on_success(self) -> None:
        """Record that a call has succeeded."""
        self._succeeded_at = self.clock()
        self._consecutive_throttles = 0

    def on_throttled(self, sent_at: float, retry_after: float | None) -> bool:
        """
        Slow all calls down after a 429: once for all requests that were under way together.

        :param sent_at: when the refused request left, on the clock.
        :param retry_after: seconds that the server asked to wait, or None.
        :return: whether all calls are slowed down, so that the refusal is not an attempt of its call. False if nothing
            has succeeded for :data:`PATIENCE` seconds: then each call counts its own attempts, so that it ends.
        """
        now = self.clock()
        if now - self._succeeded_at > PATIENCE:
            return False
        if sent_at > self._throttled_at:
            self._recover()
            self._throttled_at = now
            self._consecutive_throttles += 1
            self._removed_permits += self.permits // 2
            pause = max(MIN_PAUSE, backoff(self._consecutive_throttles, retry_after))
            self._resume_at = self._recovered_at = now + pause
            log.warning(
                "The account has passed a threshold of the API (HTTP 429). All requests pause for %.1f s, then at most "
                "%d run at once",
                pause,
                self.permits,
            )
        elif retry_after is not None:  # another response to the same requests may ask for a longer pause
            end = now + min(retry_after, RETRY_AFTER_CAP)
            self._resume_at = self._recovered_at = max(self._resume_at, end)
        return True

    def _admit(self) -> None:
        """Give free permits to the calls that have waited longest."""
        while self._waiters and self._held < self.permits:
            waiter = self._waiters.popleft()
            if not waiter.done():  # else its call was cancelled
                waiter.set_result(None)
                self._held += 1

    def _recover(self) -> None:
        """Give back the removed permits that are due by now."""
        if self._removed_permits:
            seconds_per_permit = RECOVERY / self.max_concurrency
            due = max(0, int((self.clock() - self._recovered_at) / seconds_per_permit))
            self._removed_permits = max(0, self._removed_permits - due)
            self._recovered_at += due * seconds_per_permit


class Permit:
    """
    The permit of one call. The call gives it back while it sleeps or waits for another call.

    So thousands of calls can begin together, and only ``max_concurrency`` of them work at once.
    """

    __slots__ = ("_held_back", "_is_held", "_limiter", "_sent_at")

    def __init__(self, limiter: AdaptiveLimiter) -> None:
        self._limiter = limiter
        self._is_held = False
        self._sent_at = -math.inf
        #: Seconds for which the limiter has held the call back.
        self._held_back = 0.0

    def clock(self) -> float:
        """Return the time, without the seconds for which the limiter has held the call back."""
        return self._limiter.clock() - self._held_back

    async def acquire(self) -> None:
        if not self._is_held:
            await self._limiter.acquire()
            self._is_held = True

    def release(self) -> None:
        """Give the permit back, if the call holds one."""
        if self._is_held:
            self._is_held = False
            self._limiter.release()

    async def leave(self) -> None:
        """Wait until a request may leave: for a permit, for the rate, and for the end of a pause after a 429."""
        began = self._limiter.clock()
        try:
            await self.acquire()
            self._sent_at = await self._limiter.acquire_rate()
        finally:
            self._held_back += self._limiter.clock() - began

    def on_throttled(self, retry_after: float | None) -> bool:
        """Report that the last request was refused with 429, see :meth:`AdaptiveLimiter.on_throttled`."""
        is_shared = self._limiter.on_throttled(self._sent_at, retry_after)
        if is_shared:
            self.release()
        return is_shared


class _Connector(aiohttp.TCPConnector):
    """Keep connections open, but use none again on which bytes have come: they would be taken for the next response."""

    def __init__(self, *, limit: int, ssl: ssl.SSLContext | bool) -> None:
        super().__init__(limit=limit, ssl=ssl)
        self._known: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        """Return an idle connection that has no unread bytes, or a new one."""
        while True:
            connection = await super().connect(*args, **kwargs)
            transport = connection.transport
            if transport is None or transport not in self._known or not _has_unread_bytes(connection, transport):
                if transport is not None:
                    self._known.add(transport)
                return connection
            connection.close()


def _has_unread_bytes(connection: aiohttp.connector.Connection, transport: asyncio.BaseTransport) -> bool:
    """Return whether aiohttp or the kernel holds bytes for an idle connection."""
    if connection.protocol is None or connection.protocol.should_close:
        return True
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), select.POLLIN)
    return bool(poll.poll(0))


async def _fail_at_once(
    settings: ApiSettings, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """
    Keep aiohttp from sending a GET once more by itself, without a log line or a count: ``retrying.py`` decides that.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _failure(error, settings) from None


def _new_session(settings: ApiSettings, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        middlewares=(partial(_fail_at_once, settings),),
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,  # see ApiSettings.proxy_to_use
    )


def _failure(error: Exception, settings: ApiSettings) -> calls.TransportError:
    """Say what a failure of aiohttp means."""
    kind: type[errors.RtiSmsError] = errors.RtiSmsConnectionLostError
    match error:
        case aiohttp.ClientHttpProxyError():  # its text holds the proxy's URL with the password
            return calls.refused_by_proxy(error.status, settings)
        case (
            aiohttp.ClientConnectorError()
            | aiohttp.ClientConnectorCertificateError()
            | aiohttp.ConnectionTimeoutError()
        ):
            proxy = URL(settings.proxy_to_use() or "")
            where = getattr(error, "host", None), getattr(error, "port", None)  # a failure of TLS names no proxy
            is_name = isinstance(error, aiohttp.ClientConnectorDNSError)
            is_at_proxy = is_name or isinstance(error, aiohttp.ClientProxyConnectionError)
            is_at_proxy = is_at_proxy or where == (proxy.raw_host, proxy.port)
            return calls.no_connection(error, settings, is_at_proxy=is_at_proxy, is_name=is_name)
        case TimeoutError():
            kind, what = errors.RtiSmsTimeoutError, f"no complete response within {settings.timeout:g} s"
        case aiohttp.ClientResponseError():  # its repr holds our headers
            what = f"the response is not HTTP ({type(error).__name__})"
        case _:
            what = f"the connection broke ({calls.describe_break(error)})"
    return calls.TransportError(kind, what)


def _tls_context(settings: ApiSettings) -> ssl.SSLContext:
    trusted = settings.trusted_certificates()
    is_folder = Path(trusted).is_dir()
    return ssl.create_default_context(capath=trusted if is_folder else None, cafile=None if is_folder else trusted)


@dataclass(slots=True)
class Shared(Generic[V]):
    """A value, the number of its users, and a lock for users that change it."""

    value: V
    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class SharedByKey(Generic[V]):
    """Share values by key among the users on one event loop. The last user of a key removes its value."""

    def __init__(self) -> None:
        self._entries: dict[tuple[asyncio.AbstractEventLoop, Hashable], Shared[V]] = {}

    @contextmanager
    def use(self, key: Hashable, make: Callable[[], V]) -> Iterator[Shared[V]]:
        """
        Use the value of a key; ``make`` makes it for the first user. Its ``users`` is 0 after the last user has left.
        """
        full_key = (asyncio.get_running_loop(), key)
        entry = self._entries.get(full_key)
        if entry is None:
            entry = self._entries[full_key] = Shared(make())
        entry.users += 1
        try:
            yield entry
        finally:
            entry.users -= 1
            if entry.users == 0:
                del self._entries[full_key]


_clients: SharedByKey[AsyncRtiSmsClient] = SharedByKey()


@asynccontextmanager
async def shared_client(
    settings: ApiSettings,
    on_secret: OnSecret | None = None,
    new_stats: Callable[[], Stats] = Stats,
    retry_args: RetryArgs | None = None,
) -> AsyncIterator[AsyncRtiSmsClient]:
    """
    Yield the client that all users of these settings on this event loop share. The last user closes it.

    :param settings: equal settings share a client, and so a token, sockets and ``max_concurrency``.
    :param on_secret: as for :class:`AsyncRtiSmsClient`; that of the first user is kept.
    :param new_stats: makes the counters of the client; that of the first user is called.
    :param retry_args: as for :class:`AsyncRtiSmsClient`; other ones have another client.
    """

    def make_client() -> AsyncRtiSmsClient:
        return AsyncRtiSmsClient(settings, None, on_secret, new_stats(), retry_args)

    entry: Shared[AsyncRtiSmsClient] | None = None
    try:
        key = (settings, frozenset((retry_args or {}).items()))
        with _clients.use(key, make_client) as entry:
            async with entry.lock:
                await entry.value.open()
            yield entry.value
    finally:
        if entry is not None and entry.users == 0:
            # Shielded: a user that is cancelled while it closes the client would leave sockets open.
            await asyncio.shield(entry.value.close())


async def perform_then(
    perform: Callable[[calls.Call[T]], Awaitable[T]],
    call: calls.Call[T],
    then: Callable[[T | errors.RtiSmsError], None],
) -> None:
    """Do one call, and hand its result or its error on before any other task of the loop goes on."""
    outcome: T | errors.RtiSmsError
    try:
        outcome = await perform(call)
    except errors.RtiSmsError as error:
        outcome = error
    then(outcome)


async def fetch_batches(
    client: AsyncRtiSmsClient, submission_ids: Iterable[str], collect: float = 0.0, *, raw: bool = False
) -> AsyncGenerator[Sequence[Outcome], None]:
    """
    Fetch many submissions, ``max_concurrency`` at a time, and yield outcomes as soon as there are some.

    :param client: an opened client.
    :param submission_ids: checked ids; read as they are needed.
    :param collect: seconds for which outcomes may wait for further ones, so that there are fewer batches.
    :param raw: whether details keep the JSON of the response.
    :return: outcomes, in the order in which they were fetched. After a permanent error other than a 404 it fetches no
        further ids. Close the generator to stop early.
    """
    ids = iter(submission_ids)
    outcomes: asyncio.Queue[Outcome | BaseException | None] = asyncio.Queue(BACKLOG)
    workers = asyncio.ensure_future(_work_all(client, ids, outcomes, raw))
    try:
        while True:
            came = [await outcomes.get()]
            if collect:
                await asyncio.sleep(collect)
            while not outcomes.empty():
                came.append(outcomes.get_nowait())
            if batch := [one for one in came if isinstance(one, tuple)]:
                yield batch
            end = came[-1]
            if end is None:
                return
            if isinstance(end, BaseException):
                raise end
    finally:
        if not workers.done():  # the consumer stops early
            workers.cancel()
            await asyncio.gather(workers, return_exceptions=True)


async def fetch(client: AsyncRtiSmsClient, submission_ids: Iterable[str]) -> AsyncGenerator[Outcome, None]:
    """Do what :func:`fetch_batches` does, and yield one outcome at a time."""
    async with aclosing(fetch_batches(client, submission_ids)) as batches:
        async for batch in batches:
            for outcome in batch:
                yield outcome


async def _work_all(
    client: AsyncRtiSmsClient, ids: Iterator[str], outcomes: asyncio.Queue[Outcome | BaseException | None], raw: bool
) -> None:
    """
    Run ``max_concurrency`` workers, or one per id if there are fewer ids.

    The last item of the queue is None, or the exception that ended the workers.
    """
    workers: list[asyncio.Task[None]] = []
    end: BaseException | None = None
    try:
        for first in islice(ids, client.settings.max_concurrency):
            workers.append(asyncio.ensure_future(_work(client, chain([first], ids), outcomes, raw)))
        await asyncio.gather(*workers)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # AirflowTaskTimeout too, which a signal handler raises wherever it finds us
        end = error
    finally:
        for worker in workers:
            worker.cancel()
    await outcomes.put(end)


async def _work(
    client: AsyncRtiSmsClient, ids: Iterator[str], outcomes: asyncio.Queue[Outcome | BaseException | None], raw: bool
) -> None:
    for submission_id in ids:
        outcome: SmsDetails | errors.RtiSmsError
        try:
            outcome = await client.perform(calls.get_sms(submission_id, raw=raw))
        except errors.RtiSmsError as error:
            outcome = error
        if outcomes.full():
            await outcomes.put((submission_id, outcome))
        else:
            outcomes.put_nowait((submission_id, outcome))
        if isinstance(outcome, errors.RtiSmsPermanentError) and not isinstance(outcome, errors.RtiSmsNotFoundError):
            return  # every other id would get the same error


def run_with(client: AsyncRtiSmsClient, work: Callable[[AsyncRtiSmsClient], Awaitable[T]]) -> T:
    """Open a client, do some work with it, and close it, from blocking code. Errors are those of :func:`run`."""

    async def main() -> T:
        async with client:
            return await work(client)

    return run(main())


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run(main: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine from blocking code, even if a loop is running in this thread already, as in a notebook.

    :raises RtiSmsConfigError: gevent has replaced threads, and another greenlet runs a loop. Nothing has been done.
    """
    if not _has_running_loop():
        return asyncio.run(main)
    outcome: Future[T] = Future()
    begun: Future[Callable[[], object]] = Future()

    async def cancellable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101
        begun.set_result(partial(loop.call_soon_threadsafe, task.cancel))
        return await main

    def in_thread() -> None:
        try:
            if _has_running_loop():  # this is no thread, but a greenlet, and shares the loop of the caller's thread
                main.close()
                raise errors.RtiSmsConfigError(
                    "Another greenlet of gevent sends or fetches already, and greenlets share one event loop. Nothing "
                    "was sent by this call. Do these calls one after another, for instance inside of one "
                    "gevent.lock.BoundedSemaphore(1), or in processes of their own."
                )
            outcome.set_result(asyncio.run(cancellable()))
        except BaseException as error:  # handed to the caller
            outcome.set_exception(error)

    context = contextvars.copy_context()  # of Airflow's task, and of the span around this call
    threading.Thread(target=context.run, args=(in_thread,), name="rtisms-fetch", daemon=True).start()
    try:
        return outcome.result()
    except BaseException:
        if not outcome.done():  # a signal, such as Ctrl-C in a notebook: nothing goes on behind the caller's back
            futures: list[Future[Any]] = [begun, outcome]
            wait(futures, return_when=FIRST_COMPLETED)
            if begun.done():
                with suppress(RuntimeError):  # the loop has ended meanwhile
                    begun.result()()
            wait([outcome])
        raise
