"""
An asyncio event loop whose clock is a number: an hour of waiting takes microseconds, the same way in every run.

    from tests import virtual_time

    virtual_time.run(main())

Whenever nothing is left to do, the clock jumps to the next timer. Code under test reads the time with ``loop.time()``,
or takes ``virtual_time.now`` as its clock.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

#: Where the clock of a loop starts, in seconds. It is not 0, so that code which takes 0 for "never" is noticed.
START = 1000.0
#: Seconds: the shortest time that a timer takes. Without it, code that rounds to the present time would loop for ever.
TICK = 1e-6


class DeadlockError(AssertionError):
    """Every task waits, and no timer is set: nothing can ever happen again."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """
    An event loop whose clock begins at ``start``.

    Functions for a thread (``asyncio.to_thread``) run at once in the loop's own thread, so that their order is fixed.
    Sockets work only within the loop itself: nothing waits in real time for another process.
    """

    def __init__(self, start: float = START) -> None:
        self._now = start
        super().__init__(_Selector(self._advance))

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        """Call a function at a time, but never at the present one: no real clock stands still."""
        return super().call_at(max(when, self._now + TICK), callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Call the function at once."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _advance(self, seconds: float | None) -> None:
        if seconds is None:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
            raise DeadlockError(f"at {self._now:g} s nothing can ever happen again; waiting: {', '.join(waiting)}")
        self._now += seconds


class _Selector(selectors.BaseSelector):
    """Instead of waiting for events, advance the clock: by the seconds to the next timer, or None if there is none."""

    def __init__(self, advance: Callable[[float | None], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._selector.select(0)
        if not events and (timeout is None or timeout > 0):
            self._advance(timeout)
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()

    def close(self) -> None:
        self._selector.close()


def run(main: Coroutine[Any, Any, T], start: float = START) -> T:
    """Run a coroutine to its end in virtual time, and return its result; DeadlockError if every task waits for ever."""
    with asyncio.Runner(loop_factory=functools.partial(VirtualTimeLoop, start)) as runner:
        return runner.run(main)


def now() -> float:
    """Return the time of the running loop in seconds: a clock for code under test."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let every task run until it waits for a timer or for another task."""
    for _ in range(50):
        await asyncio.sleep(0)
