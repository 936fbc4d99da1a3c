"""The real asyncio client with simulated sessions, and what must hold for it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from airflow_provider_rtisms.api.aio import RECOVERY, AdaptiveLimiter, AsyncRtiSmsClient
from airflow_provider_rtisms.api.auth import TokenCache
from airflow_provider_rtisms.api.calls import HttpRequest
from airflow_provider_rtisms.api.retrying import Stats
from airflow_provider_rtisms.api.settings import ApiSettings
from tests.simulation.network import MOMENT, Network, SimulatedSession
from tests.simulation.world import World
from tests.virtual_time import now


class SimulatedClient(AsyncRtiSmsClient):
    """The real client with simulated sessions. It watches how requests leave."""

    def __init__(
        self,
        settings: ApiSettings,
        tokens: TokenCache | None = None,
        on_secret: Any = None,
        stats: Stats | None = None,
        retry_args: Any = None,
    ) -> None:
        super().__init__(settings, tokens or TokenCache(now), on_secret, stats, retry_args)
        self.network: Network = asyncio.get_running_loop().network  # type: ignore[attr-defined]
        self.world = self.network.world
        self.world.clients.append(self)
        self.sessions: list[SimulatedSession] = []
        self._is_masking = on_secret is not None
        self._in_flight = 0
        self._throttled: tuple[float, int] | None = None

    async def open(self) -> None:
        """Make two sessions; reading the certificates takes a while."""
        if self._session is None:
            await asyncio.to_thread(int)
            self.sessions += [SimulatedSession(self), SimulatedSession(self)]
            self._session, self._unpooled = self.sessions[-2:]  # type: ignore[assignment]
            self._owner = os.getpid(), asyncio.get_running_loop()

    def before_request(self, request: HttpRequest) -> None:
        """Check what must hold when a request leaves."""
        self._in_flight += 1
        if self._in_flight > self.settings.max_concurrency:
            self.world.fail(f"{self._in_flight} requests at once, more than max_concurrency")
        if self._throttled is not None:
            self._check_throttling(*self._throttled)
        if request.path == "/api/auth":
            self.world.refreshes[id(self.tokens)] += 1
            if self.world.refreshes[id(self.tokens)] > 1:
                self.world.fail("two token refreshes at a time")
        elif self._is_masking:
            token = request.headers["Authorization"].removeprefix("Bearer ")
            if token not in self.world.masked:
                self.world.fail("a token was used before logs masked it")

    def after_request(self, request: HttpRequest) -> None:
        """Note that a request has ended, for whatever reason."""
        self._in_flight -= 1
        if request.path == "/api/auth":
            self.world.refreshes[id(self.tokens)] -= 1

    def on_429(self) -> None:
        """Remember how many permits there were when the first 429 of a moment came."""
        time = now()
        if self._throttled is None or time - self._throttled[0] > MOMENT:
            self._throttled = time, self.limiter.permits

    def _check_throttling(self, throttled_at: float, permits: int) -> None:
        """Make sure that a 429 has halved the permits, if the limiter says that it has slowed all requests down."""
        limiter = self.limiter
        if not 0 <= limiter._throttled_at - throttled_at < MOMENT:
            return
        if now() < limiter._resume_at:
            self.world.fail("a request left during the pause after a 429")
        recovered = 1 + (now() - throttled_at) / RECOVERY * limiter.max_concurrency
        if limiter.permits > permits - permits // 2 + recovered:
            self.world.fail(f"a 429 left {limiter.permits} of {permits} permits")


async def check_clients(world: World) -> None:
    """Make sure that every client has got all permits back, and closed its sessions."""
    for client in world.clients:
        if client._in_flight:
            world.fail(f"{client._in_flight} requests never ended")
        for session in client.sessions:
            session.abandon()
        free, permits = await _count_free(client.limiter)
        if free != permits:
            world.fail(f"{free} permits are free after all calls, instead of {permits}")
    if world.open_sessions:
        world.fail(f"Unclosed client session ({world.open_sessions})")
    await asyncio.sleep(200 + RECOVERY)  # the longest pause, then the recovery
    for client in world.clients:
        await _count_free(client.limiter)
        counts = await _count_free(client.limiter)
        if counts != (client.limiter.max_concurrency,) * 2:
            world.fail(f"{counts} permits after the recovery, instead of {client.limiter.max_concurrency}")


async def _count_free(limiter: AdaptiveLimiter) -> tuple[int, int]:
    """Take all permits, then give them back. Return how many there were, and how many there should be."""
    free = 0
    while free <= limiter.max_concurrency:
        taking = asyncio.ensure_future(limiter.acquire())
        for _ in range(2):
            await asyncio.sleep(0)
        if not taking.done():
            taking.cancel()
            await asyncio.wait([taking])
            break
        free += 1
    permits = limiter.permits
    for _ in range(free):
        limiter.release()
    return free, permits
