"""How many threads may use one blocking client at once."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress

#: Seconds after which a thread that waits looks for slots of threads that have ended.
CHECK_INTERVAL = 1.0


class ThreadSlots:
    """
    Let a limited number of threads work at once, also where signals and task timeouts interrupt them anywhere.

    A semaphore loses the slots of interrupted threads, until it blocks every call. Here a slot belongs to a thread. A
    thread that an interrupt kept from giving its slot back uses it for its next call. Slots of threads that have ended,
    and slots that are held longer than any exchange can last, are free again.

    The primitives are those written in C. An interrupt inside of :class:`threading.Condition`, which is Python code,
    can leave its lock locked.

    :param most: how many threads may work at once.
    :param longest: seconds after which no exchange holds its slot.
    """

    def __init__(self, most: int, longest: float) -> None:
        self._most = most
        self._longest = longest
        self._lock = threading.Lock()
        #: The threads that hold a slot, and since when, on the monotonic clock.
        self._holders: dict[threading.Thread, float] = {}
        #: Wakes one thread that waits for a slot.
        self._freed: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __enter__(self) -> None:
        me = threading.current_thread()
        while not self._take(me):
            with suppress(queue.Empty):
                self._freed.get(timeout=CHECK_INTERVAL)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._holders.pop(threading.current_thread(), None)
        if self._freed.empty():
            self._freed.put(None)

    def _take(self, me: threading.Thread) -> bool:
        with self._lock:
            now = time.monotonic()
            if len(self._holders) >= self._most:
                since = now - self._longest
                self._holders = {one: at for one, at in self._holders.items() if one.is_alive() and at > since}
            if me not in self._holders and len(self._holders) >= self._most:
                return False
            self._holders[me] = now
            is_one_left = len(self._holders) < self._most
        if is_one_left and self._freed.empty():
            self._freed.put(None)  # several slots may have become free since a thread was woken
        return True
