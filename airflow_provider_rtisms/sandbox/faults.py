"""
Faults on demand: what goes wrong, how often, and for which requests.

A fault is written ``KIND`` or ``KIND:NAME=VALUE,...``, for instance ``latency:seconds=0.08``,
``error:probability=0.05,path=sms,statuses=500/503`` or ``lost_response:times=1,path=sms,method=POST``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import cycle
from random import Random
from reprlib import repr as short_repr
from typing import Any, Self

from airflow_provider_rtisms.sandbox.checks import check_names, check_number

#: The kinds of faults, and what each of them does.
KINDS = {
    "latency": "the response comes `seconds` later",
    "error": "the response has one of `statuses`, in turn",
    "rate_limit": "the response is a 429 above `per_second` requests a second",
    "reset": "the connection is reset, and the request is not processed",
    "lost_response": "the request is processed, then the connection is reset",
    "late_response": "the request is processed, and its response comes `seconds` later",
    "cut_off": "half of the body is sent, then the connection is closed",
    "outage": "every connection is reset, idle ones too",
    "interim": "an interim response, 103 or each of `statuses`, goes out before the response",
}

_STATUSES = {"error": (500, 502, 503), "interim": (103,)}

_PARSERS: dict[str, Callable[[str], Any]] = {
    "probability": float,
    "times": int,
    "seconds": float,
    "per_second": float,
    "statuses": lambda value: tuple(int(status) for status in value.split("/")),
}


@dataclass(frozen=True)
class Fault:
    """
    A fault: what goes wrong, and for which requests.

    :param kind: one of :data:`KINDS`.
    :param probability: the share of the matching requests that it affects, 0 to 1.
    :param times: how many requests it affects; None for no limit. With the default probability these are the next ones.
    :param path: affect only requests of this family, ``auth``, ``sms`` or ``balance``.
    :param method: affect only requests with this method, ``GET`` or ``POST``.
    :param seconds: for ``latency`` and ``late_response``.
    :param statuses: for ``error``: 200 to 599; 500, 502 and 503 by default. For ``interim``: 100 to 199, except 101;
        103 by default (RFC 9110, 15.2).
    :param per_second: for ``rate_limit``, which allows bursts of the requests of one second.
    :param retry_after: for ``error`` and ``rate_limit``: the header ``Retry-After``, in seconds or as an HTTP date.
        None sends no such header.
    :raises ValueError: if a value is not valid.
    """

    kind: str
    probability: float = 1.0
    times: int | None = None
    path: str | None = None
    method: str | None = None
    seconds: float = 0.0
    statuses: tuple[int, ...] | None = None
    per_second: float = 1.0
    retry_after: str | float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {short_repr(self.kind)}")
        if self.path not in (None, "auth", "sms", "balance"):
            raise ValueError(f"path must be auth, sms or balance, not {short_repr(self.path)}")
        if self.method not in (None, "GET", "POST"):
            raise ValueError(f"method must be GET or POST, not {short_repr(self.method)}")
        for name in ("probability", "seconds", "per_second"):
            check_number(name, getattr(self, name))
        if self.probability > 1:
            raise ValueError(f"probability must be between 0 and 1, not {self.probability!r}")
        if self.per_second == 0:
            raise ValueError("per_second must be positive, not 0")
        if self.times is not None:
            check_number("times", self.times, whole=True)
        if self.statuses is not None:
            self._check_statuses(self.statuses)
            object.__setattr__(self, "statuses", tuple(self.statuses))  # a list in JSON
        self._check_retry_after()

    def _check_statuses(self, statuses: object) -> None:
        if not isinstance(statuses, list | tuple) or not statuses:
            raise ValueError(f"statuses must be a list that is not empty, not {short_repr(statuses)}")
        is_interim = self.kind == "interim"
        valid = (100, *range(102, 200)) if is_interim else range(200, 600)
        for status in statuses:
            if type(status) is not int or status not in valid:
                meaning = "100 to 199, except 101" if is_interim else "200 to 599"
                raise ValueError(f"statuses must be whole numbers from {meaning}, not {short_repr(status)}")

    def _check_retry_after(self) -> None:
        if isinstance(self.retry_after, str):
            if not (self.retry_after.isascii() and self.retry_after.isprintable()):
                raise ValueError(f"retry_after must be printable ASCII, not {short_repr(self.retry_after)}")
        elif self.retry_after is not None:
            check_number("retry_after", self.retry_after)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """
        Return the fault with these fields.

        :param values: values by name, as in JSON.
        :return: the fault.
        :raises ValueError: if a name is unknown, a value is not valid, or there is no kind.
        """
        check_names(values, [field.name for field in fields(cls)])
        if "kind" not in values:
            raise ValueError("a fault must have a kind")
        return cls(**values)

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Parse a fault in the form of the command line.

        :param text: ``KIND`` or ``KIND:NAME=VALUE,...``; statuses are joined by ``/``.
        :return: the fault.
        :raises ValueError: if the text is not in this form.
        """
        kind, _, rest = text.partition(":")
        values: dict[str, Any] = {"kind": kind}
        for item in re.split(r",(?=\w+=)", rest) if rest else []:  # a date has commas too
            name, _, value = item.partition("=")
            try:
                values[name] = _PARSERS.get(name, str)(value)
            except ValueError:
                raise ValueError(f"{name} cannot be {value!r}") from None
        return cls.from_fields(values)

    def __str__(self) -> str:
        """Return the fault in the form of the command line; :meth:`parse` reads it back."""
        changed = []
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                changed.append(f"{field.name}={'/'.join(map(str, value)) if field.name == 'statuses' else value}")
        return f"{self.kind}:{','.join(changed)}" if changed else self.kind


@dataclass(frozen=True)
class Verdict:
    """
    What the faults do to one request.

    :param delay: seconds to wait before the request is processed.
    :param kind: the fault that affects the request after that, if any.
    :param status: the status of the response, for an ``error`` or a ``rate_limit``.
    :param retry_after: the header ``Retry-After`` of that response, if any.
    :param response_delay: seconds between processing the request and responding, for a ``late_response``.
    :param interim: the statuses of the interim responses to send before anything else.
    """

    delay: float = 0.0
    kind: str | None = None
    status: int | None = None
    retry_after: str | None = None
    response_delay: float = 0.0
    interim: Sequence[int] = ()


_NO_FAULT = Verdict()


class FaultPlan:
    """
    The active faults, and how often each has affected a request.

    :param faults: the faults. Latencies add up; of the other faults, the first one that applies affects the request.
    :param random: decides about probabilities.
    :param clock: returns seconds, for rate limits.
    """

    def __init__(self, faults: Iterable[Fault], random: Random, clock: Callable[[], float] = time.monotonic) -> None:
        self._active = [_ActiveFault(fault, random, clock) for fault in faults]

    def judge(self, method: str, path: str) -> Verdict:
        """
        Decide what happens to a request, and count it.

        :param method: its method.
        :param path: its family: ``auth``, ``sms``, ``balance`` or ``other``.
        :return: what the faults do to it.
        """
        if not self._active:
            return _NO_FAULT
        delay = 0.0
        affecting = None
        for active in self._active:
            if active.fault.kind == "latency":
                delay += active.fault.seconds if active.applies(method, path) else 0.0
            elif affecting is None and active.applies(method, path):
                affecting = active
        if affecting is None:
            return Verdict(delay)
        fault = affecting.fault
        retry_after = None if fault.retry_after is None else str(fault.retry_after)
        response_delay = fault.seconds if fault.kind == "late_response" else 0.0
        interim = affecting.statuses if fault.kind == "interim" else ()
        return Verdict(delay, fault.kind, affecting.next_status(), retry_after, response_delay, interim)


class _ActiveFault:
    def __init__(self, fault: Fault, random: Random, clock: Callable[[], float]) -> None:
        self.fault = fault
        self._random = random
        self._clock = clock
        self._affected = 0
        self.statuses = fault.statuses or _STATUSES.get(fault.kind, ())
        self._next_statuses = cycle(self.statuses)
        self._tokens = self._capacity = max(1.0, fault.per_second)
        self._filled_at = clock()

    def applies(self, method: str, path: str) -> bool:
        fault = self.fault
        if fault.path not in (None, path) or fault.method not in (None, method):
            return False
        if fault.times is not None and self._affected >= fault.times:
            return False
        if fault.kind == "rate_limit" and self._within_limit():
            return False
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        self._affected += 1
        return True

    def next_status(self) -> int | None:
        if self.fault.kind == "rate_limit":
            return 429
        return next(self._next_statuses) if self.fault.kind == "error" else None

    def _within_limit(self) -> bool:
        """Take one token from a bucket, which fills with time; return whether there was one."""
        now = self._clock()
        gained = (now - self._filled_at) * self.fault.per_second
        self._filled_at = now
        self._tokens = min(self._capacity, self._tokens + gained)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
