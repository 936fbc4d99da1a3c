"""
What lets calls through, for all users of one client together: places, a rate, and pauses when the API says 429.

Source: API page, chapter "Errors" (429: a threshold of the account was passed).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from aiolimiter import AsyncLimiter

from airflow_provider_rtisms.api.policy.retry import backoff

log = logging.getLogger(__name__)

#: Seconds' worth of ``requests_per_second`` that may leave at once. A whole second's worth, which is what
#: ``AsyncLimiter(rate, 1)`` lets out, runs into thresholds that look at shorter spans.
BURST = 0.05
#: Seconds: no pause after a 429 is shorter.
SHORTEST_PAUSE = 0.5
#: Seconds in which all places come back that 429s have taken away.
RECOVERY = 20.0
#: Seconds: where no call has succeeded for so long, a 429 no longer slows everyone down but counts as a failed try.
PATIENCE = 120.0


class AdaptiveLimiter:
    """
    Decides when an exchange may leave. Each call has a :class:`Place`, and asks before each exchange.

    A 429 concerns the account, so it slows down everyone: all pause together, as long as Retry-After says or else for
    a time of our own that grows while nothing gets through; then half of the places are left, and come back with time.

    :param max_concurrency: most calls under way at once.
    :param requests_per_second: most exchanges that leave in a second; None for no limit.
    :param clock: seconds on a monotonic clock.
    """

    def __init__(
        self,
        max_concurrency: int,
        requests_per_second: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_concurrency = max_concurrency
        self._clock = clock
        self._free = asyncio.Semaphore(max_concurrency)
        self._limiter: AsyncLimiter | None = None
        if requests_per_second:
            at_once = max(1.0, requests_per_second * BURST)
            self._limiter = AsyncLimiter(at_once, at_once / requests_per_second)
        #: Places that 429s have taken away, and how many of these still wait for a call to leave.
        self._withdrawn = self._owed = 0
        self._slowed_at = self._resume_at = self._recovered_at = -math.inf
        self._last_success = -math.inf
        self._fruitless_rounds = 0

    @property
    def places(self) -> int:
        """How many calls may be under way at once for now."""
        return self.max_concurrency - self._withdrawn

    async def enter(self) -> None:
        """Wait for a free place."""
        await self._free.acquire()

    def leave(self) -> None:
        """Let the next call have the place."""
        if self._withdrawn:
            self._recover()
        if self._owed:
            self._owed -= 1
        else:
            self._free.release()

    async def departure(self) -> float:
        """
        Wait until an exchange may leave.

        :return: when that was, on the monotonic clock; for :meth:`slow_down`.
        """
        if self._limiter is not None:
            await self._limiter.acquire()
        while (pause := self._resume_at - (now := self._clock())) > 0:
            await asyncio.sleep(pause)
            if self._limiter is not None:  # or all that have waited would leave at once
                await self._limiter.acquire()
        return now

    def succeeded(self) -> None:
        """Note that a call has come through."""
        self._last_success = self._clock()
        self._fruitless_rounds = 0

    def slow_down(self, left_at: float, retry_after: float | None) -> bool:
        """
        Slow everyone down after a 429: once for all exchanges that were under way together.

        :param left_at: when the refused exchange left.
        :param retry_after: seconds the server asked to wait, or None.
        :return: whether that was done, so that the refusal is no try of the call. False where nothing has come through
            lately: then each call counts its own attempts, and the end is near.
        """
        now = self._clock()
        if now - self._last_success > PATIENCE:
            return False
        if left_at > self._slowed_at:
            self._slowed_at = now
            self._fruitless_rounds += 1
            withdrawn = self.places // 2
            self._withdrawn += withdrawn
            self._owed += withdrawn
            pause = max(SHORTEST_PAUSE, backoff(self._fruitless_rounds, retry_after))
            self._resume_at = self._recovered_at = now + pause
            log.warning(
                "A threshold of the account was passed (HTTP 429): pausing all requests for %.1f s, "
                "then going on with at most %d at once",
                pause,
                self.places,
            )
        return True

    def _recover(self) -> None:
        """Give back the places that are due by now."""
        due = int((self._clock() - self._recovered_at) / RECOVERY * self.max_concurrency)
        for _ in range(min(due, self._withdrawn)):
            self._withdrawn -= 1
            if self._owed:
                self._owed -= 1
            else:
                self._free.release()
        if due > 0:
            self._recovered_at = self._clock()


class Place:
    """
    A call's place among those under way, as an asynchronous context manager. It is given up while the call sleeps or
    waits for another, so that thousands of calls may begin together without all being at work at once.

    :param pace: whose place.
    """

    __slots__ = ("_is_taken", "_pace")

    def __init__(self, pace: AdaptiveLimiter) -> None:
        self._pace = pace
        self._is_taken = False

    async def __aenter__(self) -> Place:
        """Wait for a place."""
        await self.take()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give it up."""
        self.give_up()

    async def take(self) -> None:
        """Wait for a place, unless there is one already."""
        if not self._is_taken:
            await self._pace.enter()
            self._is_taken = True

    def give_up(self) -> None:
        """Let the next call have it."""
        if self._is_taken:
            self._is_taken = False
            self._pace.leave()
