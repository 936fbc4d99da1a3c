"""Measure wall and CPU seconds, and for how long the event loop is blocked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

TICK = 0.005
"""Seconds between two readings of the clock."""


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Yield a dict that has ``wall`` and ``cpu`` seconds once the block is finished."""
    seconds: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield seconds
    seconds.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


@asynccontextmanager
async def worst_pause() -> AsyncIterator[dict[str, float]]:
    """Yield a dict whose ``pause`` is the longest time for which the event loop was blocked (seconds)."""
    worst = {"pause": 0.0}

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK)
            worst["pause"] = max(worst["pause"], time.perf_counter() - before - TICK)

    ticker = asyncio.create_task(tick())
    yield worst
    ticker.cancel()
    with suppress(asyncio.CancelledError):
        await ticker
