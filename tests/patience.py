"""How long tests wait. A slow machine makes a test slower, and never red: what a test sees decides, not a clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds after which a test gives up waiting for what should have happened long ago."""
TIMEOUTS = (0.5, 5.0, 50.0)
"""Seconds for a request that gets no response: on a very slow machine, the first ones end before it has left."""


def wait_until(condition: Callable[[], T | None], what: str) -> T:
    """
    Poll until a condition returns a true value, and return that.

    :param condition: is called until it returns a true value.
    :param what: names the condition in the error: "waiting for ...".
    """
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, f"gave up waiting for {what}"
        time.sleep(0.01)
    return result


def until_it_leaves(attempt: Callable[[float], T], has_left: Callable[[], object]) -> T:
    """
    Do a request that gets no response, with longer timeouts until one of them lets it leave this machine.

    :param attempt: does the request with a timeout in seconds.
    :param has_left: whether the server has received it.
    :return: what the attempt returned whose request has left.
    """
    for timeout in TIMEOUTS:
        result = attempt(timeout)
        deadline = time.monotonic() + timeout  # the server may need some time, too
        while time.monotonic() < deadline:
            if has_left():
                return result
            time.sleep(0.01)
    raise AssertionError(f"no request has left within {TIMEOUTS[-1]:g} s")
