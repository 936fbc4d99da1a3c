"""How long tests wait. A slow machine makes a test slower, and never red: what a test sees decides, not a clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from scripts.processes import PATIENCE, T, wait_until

__all__ = ["PATIENCE", "TIMEOUTS", "wait_until", "with_more_time"]

TIMEOUTS = (0.5, 5.0, 50.0)
"""Seconds for what has to run out of time. On a very slow machine, the first ones are over before it has begun."""


def with_more_time(attempt: Callable[[float], T], was_enough: Callable[[T], object]) -> T:
    """
    Do something whose time has to run out, with more time until that is enough for what comes before the end.

    :param attempt: does it within some seconds. It begins anew each time.
    :param was_enough: whether what should come before has come, such as a request to a server that does not respond.
    :return: the result of the attempt that had enough time.
    """
    for seconds in TIMEOUTS:
        result = attempt(seconds)
        deadline = time.monotonic() + seconds  # a server may be slow to see what has left
        while time.monotonic() < deadline:
            if was_enough(result):
                return result
            time.sleep(0.01)
    raise AssertionError(f"{TIMEOUTS[-1]:g} s were not enough: {result!r}")
