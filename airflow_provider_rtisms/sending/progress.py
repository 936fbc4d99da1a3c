"""Lines in the log that say how far a send is."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

#: Seconds between two lines.
PROGRESS_INTERVAL = 5.0


class Progress:
    """
    Count messages, and log a line every few seconds.

    :param total: how many messages there are.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._done_before = 0
        self._logged_at = self._started = time.monotonic()

    def begin(self, due: int) -> None:
        """
        Begin to send.

        :param due: how many messages are left to send; the others are done.
        """
        self._done = self._done_before = self._total - due
        self._started = time.monotonic()

    def add(self, count: int) -> None:
        """Count messages that are done, and log a line if the last one is long ago."""
        self._done += count
        now = time.monotonic()
        if now - self._logged_at < PROGRESS_INTERVAL:
            return
        self._logged_at = now
        rate = (self._done - self._done_before) / max(now - self._started, 0.001)
        left = f"about {(self._total - self._done) / rate:,.0f} s left" if rate else "time left unknown"
        log.info(
            "%d of %d messages done (%.0f%%), %.0f a second, %s",
            self._done,
            self._total,
            100 * self._done / self._total,
            rate,
            left,
        )
