"""The adaptive limiter in virtual time: permits, the rate, and what a 429 does to both."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from airflow_provider_rtisms.api.aio import AdaptiveLimiter, Permit
from tests.unit.api.conftest import in_virtual_time
from tests.virtual_time import START, now, settle

#: As documented. They are not imported, so that a change of a number is a change of a test.
BURST, MIN_PAUSE, RECOVERY, PATIENCE = 0.05, 0.5, 20.0, 120.0


@pytest.fixture(autouse=True)
def longest_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pause be the longest that the jitter allows."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


def succeeding(max_concurrency: int = 20, requests_per_second: float | None = None) -> AdaptiveLimiter:
    """Return a limiter of a client for which a call has just succeeded."""
    limiter = AdaptiveLimiter(max_concurrency, requests_per_second)
    limiter.on_success()
    return limiter


@asynccontextmanager
async def held(limiter: AdaptiveLimiter) -> AsyncIterator[Permit]:
    """Hold a permit, as a client does for a call."""
    permit = Permit(limiter)
    try:
        await permit.acquire()
        yield permit
    finally:
        permit.release()


async def count_free(limiter: AdaptiveLimiter) -> int:
    """Return how many calls get a permit now."""
    calls = [asyncio.create_task(limiter.acquire()) for _ in range(2 * limiter.max_concurrency)]
    await settle()
    free = sum(call.done() for call in calls)
    for call in calls:
        call.cancel()
    await settle()
    for _ in range(free):
        limiter.release()
    return free


class TestPermits:
    @in_virtual_time
    async def test_a_permit_goes_to_the_call_that_has_waited_longest(self) -> None:
        limiter = AdaptiveLimiter(1)
        order: list[int] = []

        async def call(number: int) -> None:
            async with held(limiter):
                order.append(number)
                await asyncio.sleep(1)

        await asyncio.gather(*(call(number) for number in range(5)))
        assert order == [0, 1, 2, 3, 4]
        assert now() == START + 5

    @in_virtual_time
    async def test_a_permit_that_comes_at_the_moment_of_a_cancellation_is_given_back(self) -> None:
        limiter = AdaptiveLimiter(1)
        await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        await settle()
        limiter.release()
        waiting.cancel()
        await settle()
        assert (waiting.cancelled(), await count_free(limiter)) == (True, 1)

    @in_virtual_time
    async def test_a_call_holds_one_permit_however_often_it_acquires_and_releases(self) -> None:
        limiter = AdaptiveLimiter(3)
        async with held(limiter) as permit:
            await permit.acquire()
            assert await count_free(limiter) == 2
            permit.release()
            permit.release()
            assert await count_free(limiter) == 3
            await permit.acquire()
            assert await count_free(limiter) == 2
        assert await count_free(limiter) == 3


class TestRate:
    @pytest.mark.parametrize(
        ("requests_per_second", "burst"), [(1.0, 1), (10.0, 1), (40.0, 2), (100.0, 5), (1000.0, 50)]
    )
    @in_virtual_time
    async def test_a_twentieth_of_a_second_leaves_together(self, requests_per_second: float, burst: int) -> None:
        limiter = AdaptiveLimiter(1000, requests_per_second)
        departures = await asyncio.gather(*(limiter.acquire_rate() for _ in range(200)))
        assert departures.count(START) == burst == max(1, round(requests_per_second * BURST))
        assert sorted(departures)[-1] - START == pytest.approx((200 - burst) / requests_per_second, abs=1e-4)
        for first, last in zip(sorted(departures), sorted(departures)[burst:], strict=False):
            assert last - first >= (1 - 1e-3) / requests_per_second

    @in_virtual_time
    async def test_after_a_pause_the_rate_still_holds(self) -> None:
        limiter = succeeding(100, 10.0)
        limiter.on_throttled(now(), 30.0)
        departures = sorted(await asyncio.gather(*(limiter.acquire_rate() for _ in range(50))))
        assert departures[0] == START + 30
        for first, second in itertools.pairwise(departures):
            assert second - first >= 0.1 - 1e-6

    @in_virtual_time
    async def test_a_pause_that_begins_during_a_pause_is_waited_for_too(self) -> None:
        limiter = succeeding()
        limiter.on_throttled(now(), 10.0)
        departure = asyncio.create_task(limiter.acquire_rate())
        await asyncio.sleep(5)
        limiter.on_throttled(now(), 20.0)
        assert await departure == START + 25

    @in_virtual_time
    async def test_the_clock_is_that_of_the_loop_unless_another_one_is_given(self) -> None:
        assert await AdaptiveLimiter(1).acquire_rate() == START
        assert await AdaptiveLimiter(1, clock=lambda: 7.0).acquire_rate() == 7.0


class TestThrottling:
    @pytest.mark.parametrize(("before", "after"), [(20, 10), (32, 16), (5, 3), (3, 2), (2, 1), (1, 1)])
    @in_virtual_time
    async def test_a_429_halves_the_permits_and_leaves_one(self, before: int, after: int) -> None:
        limiter = succeeding(before)
        assert limiter.permits == before
        assert limiter.on_throttled(now(), None) is True
        assert limiter.permits == after
        assert await count_free(limiter) == after

    @in_virtual_time
    async def test_429s_of_requests_that_were_under_way_together_halve_once(self) -> None:
        limiter = succeeding(32)
        sent_at = [now() + offset for offset in (0.0, 0.1, 0.2)]
        await asyncio.sleep(1)
        for one in sent_at:
            assert limiter.on_throttled(one, None) is True
        assert limiter.permits == 16
        assert limiter.on_throttled(now(), None) is True  # sent at the moment of the first 429
        assert limiter.permits == 16

    @in_virtual_time
    async def test_a_429_of_a_request_that_left_after_the_last_429_halves_again(self) -> None:
        limiter = succeeding(32)
        for permits in (16, 8, 4, 2, 1, 1):
            limiter.on_throttled(now(), 0)
            assert limiter.permits == permits
            await asyncio.sleep(0.001)

    @in_virtual_time
    async def test_calls_that_hold_a_removed_permit_finish_and_no_call_replaces_them(self) -> None:
        limiter = succeeding(20)
        holders = [Permit(limiter) for _ in range(20)]
        for holder in holders:
            await holder.acquire()
        limiter.on_throttled(now(), None)
        free = []
        for holder in holders:
            holder.release()
            free.append(await count_free(limiter))
        assert free == [0] * 10 + list(range(1, 11))

    @in_virtual_time
    async def test_a_throttled_call_gives_its_permit_back_until_its_next_request(self) -> None:
        limiter = succeeding(2)
        async with held(limiter) as permit:
            await permit.leave()
            assert permit.on_throttled(None) is True
            assert (limiter.permits, await count_free(limiter)) == (1, 1)

    @in_virtual_time
    async def test_a_permit_reports_when_its_own_request_left(self) -> None:
        limiter = succeeding(32)
        async with held(limiter) as early, held(limiter) as late:
            await early.leave()
            await asyncio.sleep(1)
            await late.leave()
            await asyncio.sleep(1)
            late.on_throttled(None)
            early.on_throttled(None)
            assert limiter.permits == 16

    @in_virtual_time
    async def test_one_warning_says_how_long_the_pause_is_and_how_many_run_then(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        limiter = succeeding(32)
        limiter.on_throttled(now(), 7.0)
        limiter.on_throttled(now(), 7.0)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        for part in ("HTTP 429", "pause for 7.0 s", "at most 16 run at once"):
            assert part in record.getMessage()


class TestPause:
    @pytest.mark.parametrize(
        ("retry_after", "pause"),
        [(None, MIN_PAUSE), (0.0, MIN_PAUSE), (0.1, MIN_PAUSE), (3.0, 3.0), (90.0, 90.0), (86400.0, 120.0)],
    )
    @in_virtual_time
    async def test_lasts_as_long_as_retry_after_up_to_its_cap(self, retry_after: float | None, pause: float) -> None:
        limiter = succeeding()
        limiter.on_throttled(now(), retry_after)
        assert await limiter.acquire_rate() == pytest.approx(START + pause)

    @pytest.mark.parametrize(
        ("retry_after", "pause"), [(None, 5.0), (1.0, 5.0), (4.0, 6.0), (9.0, 11.0), (86400.0, 122.0)]
    )
    @in_virtual_time
    async def test_a_longer_retry_after_in_another_response_to_the_same_requests_extends_it(
        self, retry_after: float | None, pause: float
    ) -> None:
        limiter = succeeding()
        sent_at = now()
        limiter.on_throttled(sent_at, 5.0)
        permits = limiter.permits
        await asyncio.sleep(2)
        assert limiter.on_throttled(sent_at, retry_after)
        assert await limiter.acquire_rate() == pytest.approx(START + pause)
        assert limiter.permits == permits  # they come back after the pause

    @in_virtual_time
    async def test_grows_with_each_429_in_a_row_up_to_its_cap_until_a_success(self) -> None:
        limiter = succeeding()

        async def pause() -> float:
            began = now()
            limiter.on_throttled(began, None)
            return await limiter.acquire_rate() - began

        assert [await pause() for _ in range(7)] == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0])
        limiter.on_success()
        assert await pause() == pytest.approx(0.5)


class TestRecovery:
    @in_virtual_time
    async def test_is_linear_and_complete_after_recovery_seconds(self) -> None:
        limiter = succeeding(20)
        for _ in range(5):
            limiter.on_throttled(now(), 0)
            await asyncio.sleep(0.001)
        assert limiter.permits == 1
        resumed = await limiter.acquire_rate()
        permits = []
        for second in range(21):
            await asyncio.sleep(resumed + second * RECOVERY / 20 + 0.001 - now())
            permits.append(await count_free(limiter))
        assert permits == [*range(1, 21), 20]

    @pytest.mark.parametrize("interval", [0.01, 0.6, 1.5])
    @in_virtual_time
    async def test_does_not_depend_on_how_often_calls_finish(self, interval: float) -> None:
        limiter = succeeding(32)
        for _ in range(8):
            limiter.on_throttled(now(), 0)
            await asyncio.sleep(0.001)
        resumed = await limiter.acquire_rate()
        while now() < resumed + RECOVERY + interval:
            await limiter.acquire()
            await asyncio.sleep(interval)
            limiter.release()
            assert abs(limiter.permits - min(32, 1 + int((now() - resumed) * 32 / RECOVERY))) <= 1
        assert limiter.permits == 32

    @in_virtual_time
    async def test_begins_after_each_pause_and_is_counted_before_a_429_halves_the_permits(self) -> None:
        limiter = succeeding(20)
        limiter.on_throttled(now(), 100.0)
        await asyncio.sleep(99)
        assert await count_free(limiter) == 10
        await asyncio.sleep(1 + RECOVERY / 4 + 0.001)
        assert await count_free(limiter) == 15
        limiter.on_throttled(now(), None)
        assert limiter.permits == 8
        await limiter.acquire_rate()
        await asyncio.sleep(RECOVERY / 20 + 0.001)
        assert await count_free(limiter) == 9
        await asyncio.sleep(RECOVERY)
        limiter.on_success()
        limiter.on_throttled(now(), None)
        assert limiter.permits == 10

    @in_virtual_time
    async def test_lets_calls_in_that_wait_when_another_one_finishes(self) -> None:
        limiter = succeeding(4)
        await limiter.acquire()
        await limiter.acquire()
        limiter.on_throttled(now(), None)
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
        await asyncio.sleep(MIN_PAUSE + RECOVERY / 4 + 0.001)
        assert not any(call.done() for call in waiting)
        limiter.release()
        await settle()
        assert [call.done() for call in waiting] == [True, True, False]
        waiting[2].cancel()


class TestPatience:
    @pytest.mark.parametrize(("since_success", "is_shared"), [(0.0, True), (PATIENCE, True), (PATIENCE + 0.01, False)])
    @in_virtual_time
    async def test_a_429_counts_as_an_attempt_where_nothing_succeeded_for_long(
        self, since_success: float, is_shared: bool
    ) -> None:
        limiter = succeeding()
        await asyncio.sleep(since_success)
        assert limiter.on_throttled(now(), 50.0) is is_shared
        assert limiter.permits == (10 if is_shared else 20)
        assert await limiter.acquire_rate() == now()
        assert now() - START - since_success == pytest.approx(50.0 if is_shared else 0.0)

    @in_virtual_time
    async def test_a_call_keeps_its_permit_after_a_429_of_its_own(self) -> None:
        limiter = AdaptiveLimiter(2)
        async with held(limiter) as permit:
            await permit.leave()
            assert permit.on_throttled(None) is False  # nothing has succeeded yet
            assert await count_free(limiter) == 1
