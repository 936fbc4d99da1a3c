"""Faults on demand: what goes wrong, how often, and for which requests.

Written as ``KIND`` or ``KIND:NAME=VALUE,...``, for instance ``latency:seconds=0.08``,
``error:probability=0.05,path=sms,statuses=500/503`` or ``lost_response:times=1,path=sms,method=POST``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import cycle
from random import Random
from typing import Any, Self

#: Each kind of fault, with a line for people.
KINDS = {
    "latency": "the response comes `seconds` later",
    "error": "one of `statuses` instead of an response, in turn",
    "rate_limit": "429 beyond `per_second` requests a second",
    "reset": "the connection is reset, the request was not acted on",
    "lost_response": "the request is acted on, then the connection is reset",
    "late_response": "the request is acted on, its response comes `seconds` later",
    "cut_off": "half of the body, then the connection ends",
    "outage": "every connection is reset, idle ones too",
}

_PARSERS: dict[str, Callable[[str], Any]] = {
    "probability": float,
    "times": int,
    "seconds": float,
    "per_second": float,
    "statuses": lambda value: tuple(int(status) for status in value.split("/")),
}


@dataclass(frozen=True)
class Fault:
    """One fault.

    :param kind: one of :data:`KINDS`.
    :param probability: the part of the matching requests that it strikes, 0 to 1.
    :param times: it strikes so many requests, then no more; None for no end. With the default probability
        these are the next ones.
    :param path: only requests of this family, ``auth``, ``sms`` or ``balance``.
    :param method: only requests of this method.
    :param seconds: for ``latency`` and ``late_response``.
    :param statuses: for ``error``.
    :param per_second: for ``rate_limit``; bursts of up to one second's worth are let through.
    :param retry_after: for ``error`` and ``rate_limit``, the header ``Retry-After`` as it stands: seconds or
        an HTTP date. None for no such header.
    :raises ValueError: if a value makes no sense.
    """

    kind: str
    probability: float = 1.0
    times: int | None = None
    path: str | None = None
    method: str | None = None
    seconds: float = 0.0
    statuses: tuple[int, ...] = (500, 502, 503)
    per_second: float = 1.0
    retry_after: str | float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "statuses", tuple(self.statuses))  # a list where it comes from JSON
        if self.kind not in KINDS:
            raise ValueError(f"fault {self.kind!r} is none of {', '.join(KINDS)}")
        if self.path not in (None, "auth", "sms", "balance"):
            raise ValueError(f"path must be auth, sms or balance, not {self.path!r}")
        if self.method not in (None, "GET", "POST"):
            raise ValueError(f"method must be GET or POST, not {self.method!r}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be between 0 and 1, not {self.probability!r}")
        if not all(200 <= status <= 599 for status in self.statuses) or not self.statuses:
            raise ValueError(f"statuses must be between 200 and 599, not {self.statuses!r}")
        if self.times is not None and self.times < 0:
            raise ValueError(f"times must not be negative, not {self.times!r}")
        if self.seconds < 0 or self.per_second <= 0:
            raise ValueError("seconds must not be negative, and per_second must be positive")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a fault as the command line writes it.

        :param text: ``KIND`` or ``KIND:NAME=VALUE,...``; statuses are joined by ``/``.
        :returns: the fault.
        :raises ValueError: if it cannot be read.
        """
        kind, _, rest = text.partition(":")
        values: dict[str, Any] = {}
        for item in re.split(r",(?=\w+=)", rest) if rest else []:  # a date has commas too
            name, _, value = item.partition("=")
            values[name] = _PARSERS.get(name, str)(value)
        try:
            return cls(kind, **values)
        except TypeError:
            raise ValueError(f"unknown setting in fault {text!r}") from None

    def __str__(self) -> str:
        """The fault as the command line writes it; :meth:`parse` reads it back."""
        changed = []
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                changed.append(f"{field.name}={'/'.join(map(str, value)) if field.name == 'statuses' else value}")
        return f"{self.kind}:{','.join(changed)}" if changed else self.kind


@dataclass(frozen=True)
class Verdict:
    """What the faults do to one request.

    :param delay: seconds to wait first.
    :param kind: the fault that strikes after that, if any.
    :param status: the status to response, for an ``error`` or a ``rate_limit``.
    :param retry_after: the header to go with it.
    :param response_delay: seconds between acting on the request and responding, for a ``late_response``.
    """

    delay: float = 0.0
    kind: str | None = None
    status: int | None = None
    retry_after: str | None = None
    response_delay: float = 0.0


_UNHARMED = Verdict()


class FaultPlan:
    """The faults in force, and how often each has struck.

    :param faults: what goes wrong. Latencies add up; of the others the first that strikes counts.
    :param random: decides about probabilities.
    :param clock: seconds, for rate limits.
    """

    def __init__(self, faults: Iterable[Fault], random: Random, clock: Callable[[], float] = time.monotonic) -> None:
        self._armed = [_ArmedFault(fault, random, clock) for fault in faults]

    def judge(self, method: str, path: str) -> Verdict:
        """Decide what happens to a request, and count it.

        :param method: its method.
        :param path: its family: ``auth``, ``sms``, ``balance`` or ``other``.
        :returns: the verdict.
        """
        if not self._armed:
            return _UNHARMED
        delay = 0.0
        striking = None
        for armed in self._armed:
            if armed.fault.kind == "latency":
                delay += armed.fault.seconds if armed.strikes(method, path) else 0.0
            elif striking is None and armed.strikes(method, path):
                striking = armed
        if striking is None:
            return Verdict(delay)
        fault = striking.fault
        retry_after = None if fault.retry_after is None else str(fault.retry_after)
        response_delay = fault.seconds if fault.kind == "late_response" else 0.0
        return Verdict(delay, fault.kind, striking.next_status(), retry_after, response_delay)


class _ArmedFault:
    def __init__(self, fault: Fault, random: Random, clock: Callable[[], float]) -> None:
        self.fault = fault
        self._random = random
        self._clock = clock
        self._struck = 0
        self._statuses = cycle(fault.statuses)
        self._allowance = self._largest_allowance = max(1.0, fault.per_second)
        self._counted_at = clock()

    def strikes(self, method: str, path: str) -> bool:
        fault = self.fault
        if fault.path not in (None, path) or fault.method not in (None, method):
            return False
        if fault.times is not None and self._struck >= fault.times:
            return False
        if fault.kind == "rate_limit" and self._within_limit():
            return False
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        self._struck += 1
        return True

    def next_status(self) -> int | None:
        if self.fault.kind == "rate_limit":
            return 429
        return next(self._statuses) if self.fault.kind == "error" else None

    def _within_limit(self) -> bool:
        """A token bucket: it fills with time, each request let through takes one out."""
        now = self._clock()
        gained = (now - self._counted_at) * self.fault.per_second
        self._counted_at = now
        self._allowance = min(self._largest_allowance, self._allowance + gained)
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True
