"""
The hours in which a send may go out, by the clock on the wall in one time zone.

Where the clock is put forward, hours that do not exist that day are left out. Where it is put back, hours that come
twice count twice.
"""

from __future__ import annotations

import re
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape

#: Seconds of one sleep, after which the clock is read again: it may have been set, or the machine suspended.
SLICE = 60.0

_CLOCK = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class AllowedHours:
    """The hours of each day from ``start`` up to ``end``, over midnight if the end is the earlier one."""

    start: time
    end: time
    zone: ZoneInfo

    def __str__(self) -> str:
        return f"{self.start:%H:%M} to {self.end:%H:%M} ({self.zone.key})"

    def is_open(self, moment: datetime | None = None) -> bool:
        """Return whether a moment, default now, is one of these hours."""
        local = (moment or utc_now()).astimezone(self.zone).time()
        if self.start < self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end

    def next_start(self, moment: datetime | None = None) -> datetime:
        """Return when the hours begin next, in UTC; the moment itself, default now, if it is one of them."""
        start = (moment or utc_now()).astimezone(UTC)
        while not self.is_open(start):  # minute by minute, which no change of the clock confuses
            start = start.replace(second=0, microsecond=0) + timedelta(minutes=1)
        return start

    def wait(self) -> None:
        """Sleep until the hours begin."""
        while not self.is_open():
            clock.sleep(SLICE)


def check_hours(allowed_hours: Any, timezone: Any) -> AllowedHours | None:
    """Return the hours that the arguments of an operator give; None for all."""
    if allowed_hours is None and timezone is None:
        return None
    is_pair = isinstance(allowed_hours, Sequence) and len(allowed_hours) == 2
    if not is_pair or not all(isinstance(one, str) and _CLOCK.fullmatch(one) for one in allowed_hours):
        raise RtiSmsInputError(
            f'allowed_hours is {shape(allowed_hours)}: use two times of 24 hours such as ("09:00", "20:00"), with '
            '"00:00" for midnight. Nothing was sent.'
        )
    start, end = map(time.fromisoformat, allowed_hours)
    if start == end:
        raise RtiSmsInputError("allowed_hours has the same time twice: leave it out to allow all hours.")
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, TypeError, AttributeError, OSError):  # whatever is no name of a zone
        raise RtiSmsInputError(
            f"timezone is {shape(timezone)}: name the time zone of allowed_hours, such as 'America/Santiago'. Nothing "
            "was sent."
        ) from None
    return AllowedHours(start, end, zone)
