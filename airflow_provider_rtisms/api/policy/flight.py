"""
One caller gets something, and all other callers wait for it: single flight, for threads and for event loops.

:class:`concurrent.futures.Future` does not do here. A signal that raises an exception (a task timeout, Ctrl-C) inside
of its Python code can leave its lock locked, and a leader that is interrupted before it completes the future leaves
everybody waiting. The lock here is used through its C methods only, and whoever waits notices a leader that is gone.
"""

from __future__ import annotations

import inspect
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar

R = TypeVar("R")

#: Seconds after which a caller that waits looks whether the leader is still there.
CHECK_INTERVAL = 1.0


class Flight(Generic[R]):
    """The work of a leader, and its result; None if it ended without one."""

    def __init__(self) -> None:
        self.result: R | None = None
        self.is_complete = False
        self._work: weakref.ref[Generator[Any, Any, Any]] | None = None
        self._leader = threading.get_ident()
        self._began = time.monotonic()
        self._landed = threading.Lock()
        self._landed.acquire()
        self._listeners: deque[Callable[[], Any]] = deque()

    def begin(self, work: Generator[Any, Any, Any]) -> None:
        """
        Note which generator does the work.

        :param work: completes the flight.
        """
        self._work = weakref.ref(work)

    def complete(self, result: R | None) -> None:
        """Give everybody who waits a result."""
        self.result = result
        self.is_complete = True
        with suppress(RuntimeError):  # it is complete already
            self._landed.release()
        while self._listeners:
            with suppress(RuntimeError):  # the event loop of the listener is closed
                self._listeners.popleft()()

    def on_complete(self, listener: Callable[[], Any]) -> None:
        """
        Call a function when the flight is complete.

        :param listener: called in the thread of the leader; may be called at once.
        """
        self._listeners.append(listener)
        if self.is_complete:
            listener()

    def wait(self) -> R | None:
        """Block until the flight is complete or its leader is gone, and return the result."""
        if self._leader == threading.get_ident():
            return self.result  # a thread that waits does not lead: an interrupt has ended its work
        while not self.is_complete and not self.is_abandoned():
            if self._landed.acquire(timeout=CHECK_INTERVAL):
                self._landed.release()
        return self.result

    def is_abandoned(self) -> bool:
        """Return whether the leader was interrupted before it could complete the flight."""
        work = self._work and self._work()
        state = inspect.getgeneratorstate(work) if work else inspect.GEN_CREATED
        if state == inspect.GEN_CREATED:  # it begins at once, unless an interrupt came before that
            return time.monotonic() - self._began > CHECK_INTERVAL
        return state == inspect.GEN_CLOSED
