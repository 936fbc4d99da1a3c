"""
Limit how many requests run at once and how many leave in a second, and slow all of them down after a 429.

Source: docs/vendor-api.md, "Errors" (429: a threshold of the account was passed); docs/architecture.md, "The way of a
429". The permits follow AIMD: additive increase, multiplicative decrease.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable

from aiolimiter import AsyncLimiter

from airflow_provider_rtisms.api.retrying import RETRY_AFTER_CAP, backoff

log = logging.getLogger(__name__)

#: Seconds' worth of ``requests_per_second`` that may leave together. ``AsyncLimiter(rate, 1)`` lets a whole second's
#: worth leave together, which passes the thresholds of servers that count over shorter spans.
BURST = 0.05
#: Seconds: no pause after a 429 is shorter.
MIN_PAUSE = 0.5
#: Seconds in which all permits come back that 429s have removed.
RECOVERY = 20.0
#: Seconds without a success after which a 429 is a failed attempt of its call and no longer slows all calls down.
PATIENCE = 120.0


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
