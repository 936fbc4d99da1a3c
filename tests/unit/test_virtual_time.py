"""The event loop with virtual time (tests/virtual_time.py)."""

from __future__ import annotations

import asyncio

import pytest

from tests import virtual_time


def test_an_hour_passes_at_once_and_in_order():
    seen = []

    async def wait(seconds):
        await asyncio.sleep(seconds)
        seen.append((seconds, virtual_time.now()))

    async def main():
        await asyncio.gather(wait(3600), wait(1), wait(60))

    virtual_time.run(main(), start=10)
    assert seen == [(1, 11), (60, 70), (3600, 3610)]


def test_a_deadlock_is_an_error_that_names_the_tasks():
    async def main():
        asyncio.current_task().set_name("the waiting one")
        await asyncio.get_running_loop().create_future()

    with pytest.raises(virtual_time.DeadlockError, match="the waiting one"):
        virtual_time.run(main())


def test_a_timeout_ends_a_wait_for_nothing():
    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 30)
        return virtual_time.now()

    assert virtual_time.run(main(), start=0) == 30


def test_a_function_for_a_thread_runs_at_once():
    async def main():
        assert await asyncio.to_thread(lambda: "done") == "done"
        with pytest.raises(ValueError, match="broken"):
            await asyncio.to_thread(int_of, "broken")

    def int_of(text):
        raise ValueError(text)

    virtual_time.run(main())
