"""Log lines of progress while something long runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

log = logging.getLogger(__name__)

#: Seconds between two lines of progress.
PROGRESS_EVERY = 5.0


class Progress:
    """
    Logs a line every few seconds, from a thread of its own, until its ``with`` block ends.

    The thread also reports while the caller converts a file, waits for a store, or blocks its event loop.

    :param describe: returns the line. Assign another function when the next phase begins.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self.describe = describe
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rtisms-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(PROGRESS_EVERY):
            log.info("%s", self.describe())


class Counter:
    """Counts something since now, and tells how fast it grows."""

    def __init__(self) -> None:
        self.count = 0
        self._started = time.monotonic()

    def __str__(self) -> str:
        return f"{self.count:,}"

    @property
    def per_second(self) -> str:
        """How many came in one second, on average."""
        return f"{self.count / max(time.monotonic() - self._started, 0.001):,.0f} a second"
