"""
The network between the callers and the modelled API, and the sessions that stand for aiohttp's.

The client is the real one, down to where it asks aiohttp for a response: only ``open`` differs, see
:mod:`tests.simulation.client`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from yarl import URL

from airflow_provider_rtisms.api.calls import HttpRequest
from tests.simulation.model_api import ModelApi, Reply, read_messages
from tests.simulation.world import World, current_process

if TYPE_CHECKING:
    from tests.simulation.client import SimulatedClient

#: What can happen to a request.
FAULTS = (
    "no connection",
    "lost before acting",
    "lost after acting",
    "cut off",
    "unreadable",
    "too slow",
    "arrives late",
    "error before acting",
    "error after acting",
    "threshold",
    "unauthorized",
    "tokens revoked",
    "one submission missing",
    "refused",
    "odd status",
)
#: Seconds; what is less apart happens at the same time.
MOMENT = 1e-4
NOT_ACTED_ON = ("no connection", "lost before acting", "error before acting", "threshold", "unauthorized", "refused")


@dataclass(frozen=True)
class Fate:
    """
    What happens to one request.

    :param arrives_in: seconds until the API acts on it; None for never.
    :param ends_in: seconds until the caller gets something; None for never.
    :param result: gives the response to the caller from that of the API, or the error that comes instead.
    """

    arrives_in: float | None
    ends_in: float | None
    result: Callable[[Reply | None], Reply | Exception]


class Network:
    """Decide what happens to each request."""

    def __init__(self, world: World, api: ModelApi) -> None:
        self.world = world
        self.api = api
        #: Messages that a caller knows to be submitted, by number and text. They must not be sent again.
        self.settled: set[tuple[str, str]] = set()
        rng = world.rng
        self._probability = rng.choice((0.0, 0.03, 0.15, 0.5))
        self._kinds = rng.sample(FAULTS, rng.randint(1, len(FAULTS)))

    def calm_down(self) -> None:
        """Let every later request succeed."""
        self._probability = 0.0
        self.world.latencies = (0.0, 0.01)
        self.api.is_calm = True

    def decide(self, request: HttpRequest, timeout: float) -> Fate:
        """Return what happens to a request."""
        world, rng = self.world, self.world.rng
        if request.path == "/api/sms" and not self.settled.isdisjoint(read_messages(request)):
            world.fail("a message was sent again, although it is known to be submitted")
        up, down = world.latency(), world.latency()
        kind = "none"
        if self._probability and rng.random() < self._probability:
            kind = rng.choice(self._kinds)
            world.faults[kind] += 1
        world.trace(f"{request.method} {request.path}, fault: {kind}")
        arrives_in: float | None = None if kind in NOT_ACTED_ON else up
        ends_in: float | None = up + down
        if kind == "too slow":
            ends_in = None
        elif kind == "arrives late":
            arrives_in, ends_in = timeout + up, None
        elif kind == "tokens revoked":
            self.api.revoke_tokens()
        if ends_in is not None and ends_in >= timeout:
            ends_in = None
            world.faults["slow network"] += 1
        return Fate(arrives_in, ends_in, lambda reply: self._result(kind, request, reply))

    def _result(self, kind: str, request: HttpRequest, reply: Reply | None) -> Reply | Exception:
        rng = self.world.rng
        # Nasty servers repeat what they were sent.
        echo = b" ".join((request.body or b"", request.headers.get("Authorization", "").encode()))
        match kind:
            case "no connection":
                return aiohttp.ConnectionTimeoutError("no route")
            case "lost before acting" | "lost after acting":
                return rng.choice((aiohttp.ServerDisconnectedError(), aiohttp.ClientOSError(104, "Connection reset")))
            case "cut off":
                return aiohttp.ClientPayloadError("cut off: " + echo.decode())
            case "error before acting" | "error after acting":
                return Reply(rng.choice((500, 502, 503, 504)), echo)
            case "threshold":
                return self.api.throttle()
            case "unauthorized":
                return Reply(401)
            case "refused":
                return Reply(rng.choice((400, 403, 404, 405, 406)), echo)
            case "odd status":
                return Reply(rng.choice((302, 418)), echo)
        assert reply is not None
        if reply.status != 200:
            return reply
        if kind == "unreadable":
            return Reply(200, rng.choice((reply.body[: len(reply.body) // 2], b"<html>" + echo, b"", b"[]", echo)))
        if kind == "one submission missing" and b'"submissions"' in reply.body:
            return Reply(200, reply.body.replace(b'{"status"', b'0, {"status"', 1))
        return reply


class SimulatedSession:
    """What the client sees of aiohttp."""

    def __init__(self, client: SimulatedClient) -> None:
        self.client = client
        self.is_closed = False
        self.process = current_process.get()
        client.world.open_sessions += 1

    async def close(self) -> None:
        """Close the sockets; that takes a while."""
        if not self.is_closed:
            self.is_closed = True
            self.client.world.open_sessions -= 1
            await asyncio.sleep(self.client.world.latency())

    def abandon(self) -> None:
        """Forget the session, where its process was killed."""
        if not self.is_closed and self.process is not None and self.process.is_dead:
            self.is_closed = True
            self.client.world.open_sessions -= 1

    def request(self, method: str, url: URL, *, data: Any, headers: Any, timeout: Any, **options: Any) -> _Exchange:
        """Send a request, as aiohttp does."""
        path = str(url).removeprefix(self.client.settings.base_url)
        return _Exchange(self, HttpRequest(method, path, headers, data), timeout.total)


class _Exchange:
    """A request and its response: an asynchronous context manager, and the response with its body in one."""

    def __init__(self, session: SimulatedSession, request: HttpRequest, timeout: float) -> None:
        self._session = session
        self._client = session.client
        self._request = request
        self._timeout = timeout
        self._chunks: list[bytes | Exception] = []
        self.status = 0
        self.headers: dict[str, str] = {}

    @property
    def content(self) -> _Exchange:
        return self

    def at_eof(self) -> bool:
        return not self._chunks

    async def readany(self) -> bytes:
        chunk = self._chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        process = current_process.get()
        client = self._client
        if process is not None and process.is_dead:
            raise asyncio.CancelledError
        if self._session.is_closed:
            client.world.fail("a request used a closed session")
        client.before_request(self._request)
        try:
            outcome = await self._travel(process)
        finally:
            client.after_request(self._request)
        if isinstance(outcome, aiohttp.ClientPayloadError):
            self.status, self._chunks = 200, [b'{"', outcome]
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            self.status, self.headers, self._chunks = outcome.status, outcome.headers, [outcome.body]
            if outcome.status == 429:
                client.on_429()
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def _travel(self, process: Any) -> Reply | Exception:
        network, loop = self._client.network, self._client.world.loop
        fate = network.decide(self._request, self._timeout)
        future: asyncio.Future[Reply | Exception] = loop.create_future()
        replies: list[Reply] = []

        def arrive() -> None:
            is_gone = (process is not None and process.is_dead) or future.cancelled()
            if not is_gone or network.world.rng.random() < 0.5:  # the bytes may have left
                replies.append(network.api.handle(self._request))

        def end() -> None:
            if not future.done():
                is_timeout = fate.ends_in is None
                reply = replies[0] if replies else None
                future.set_result(TimeoutError() if is_timeout else fate.result(reply))

        if fate.arrives_in is not None:
            loop.call_later(fate.arrives_in, arrive)
        # A little later than the arrival, so that the response follows the request.
        loop.call_later(self._timeout if fate.ends_in is None else fate.ends_in + 0.001, end)
        return await future
