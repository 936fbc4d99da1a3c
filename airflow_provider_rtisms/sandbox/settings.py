"""
The settings of a sandbox, the faults among them, and what the faults do to a request.

A fault is written ``KIND`` or ``KIND:NAME=VALUE,...``, for instance ``latency:seconds=0.08``,
``error:probability=0.05,path=sms,statuses=500/503`` or ``lost_response:times=1,path=sms,method=POST``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import cycle
from random import Random
from reprlib import repr as short_repr
from typing import Any, Self

#: The largest number that is valid anywhere: seconds, counts and costs above it cannot be computed with.
MAXIMUM = 10**15


def read_object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body must be a JSON object: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"the body must be a JSON object, not {short_repr(fields)}")
    return fields


def check_names(names: Iterable[str], known: Collection[str]) -> None:
    if unknown := [short_repr(name) for name in names if name not in known]:
        raise ValueError(f"there is no field {', '.join(unknown)}; the fields are: {', '.join(known) or 'none'}")


def check_text(name: str, value: object) -> str:
    """Check that a value is a string that UTF-8 can encode. JSON strings can contain halves of surrogate pairs."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {short_repr(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be a string of whole characters, not {short_repr(value)}") from None
    return value


def check_number(name: str, value: object, *, whole: bool = False) -> None:
    """Check that a value is a number from 0 to :data:`MAXIMUM`."""
    kinds = int if whole else int | float
    if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value <= MAXIMUM:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{name} must be a {kind} from 0 to {MAXIMUM}, not {short_repr(value)}")


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
        if not isinstance(self.retry_after, str | None):
            check_number("retry_after", self.retry_after)
        elif not (self.retry_after or "").isascii() or not (self.retry_after or "").isprintable():
            raise ValueError(f"retry_after must be printable ASCII, not {short_repr(self.retry_after)}")

    def _check_statuses(self, statuses: object) -> None:
        if not isinstance(statuses, list | tuple) or not statuses:
            raise ValueError(f"statuses must be a list that is not empty, not {short_repr(statuses)}")
        valid, meaning = range(200, 600), "200 to 599"
        if self.kind == "interim":
            valid, meaning = range(100, 200), "100 to 199, except 101"
        for status in statuses:
            if type(status) is not int or status not in valid or status == 101:
                raise ValueError(f"statuses must be whole numbers from {meaning}, not {short_repr(status)}")

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
        values = {
            one.name: getattr(self, one.name) for one in fields(self)[1:] if getattr(self, one.name) != one.default
        }
        if "statuses" in values:
            values["statuses"] = "/".join(map(str, values["statuses"]))
        return ":".join(filter(None, [self.kind, ",".join(f"{name}={value}" for name, value in values.items())]))


class ActiveFault:
    """A fault, and how often it has affected a request."""

    def __init__(self, fault: Fault, random: Random, clock: Callable[[], float] = time.monotonic) -> None:
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
        """Return the status of the response to a request that it affects; None if it changes none."""
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


def judge(faults: Iterable[ActiveFault], method: str, path: str) -> tuple[float, ActiveFault | None]:
    """Return what happens to a request: by how many seconds it is delayed, and which fault affects it after that."""
    delay, affecting = 0.0, None
    for active in faults:
        if active.fault.kind == "latency":
            delay += active.fault.seconds if active.applies(method, path) else 0.0
        elif affecting is None and active.applies(method, path):
            affecting = active
    return delay, affecting


# At most 28 digits, which decimal arithmetic keeps exact.
_BALANCE = r"-?[0-9]{1,20}(\.[0-9]{1,8})?"


def _setting(default: Any, metavar: str, help_text: str) -> Any:
    return field(default=default, metadata={"metavar": metavar, "help": help_text})


@dataclass(frozen=True)
class Settings:
    """
    The settings of a sandbox. ``python -m airflow_provider_rtisms.sandbox --help`` explains each of them.

    :raises ValueError: if a value is not valid.
    """

    client_id: str = _setting("sandbox-client", "ID", "the client id that can authenticate")
    client_secret: str = _setting("sandbox-secret", "SECRET", "its client secret")
    token_lifetime: float = _setting(3600.0, "SECONDS", "how long a token is valid")
    pending_for: float = _setting(1.0, "SECONDS", "how long a sent SMS stays PENDING")
    sent_for: float = _setting(2.0, "SECONDS", "how long it then stays SENT")
    seed: int = _setting(0, "N", "how many DELIVERED submissions exist from the start")
    balance: str = _setting("457.00", "AMOUNT", "the account's balance; each part of an SMS takes 1 from it")
    faults: tuple[Fault, ...] = _setting((), "FAULT", "a fault, see below; can be repeated")

    def __post_init__(self) -> None:
        for name in ("client_id", "client_secret"):
            check_text(name, getattr(self, name))
        for name in ("token_lifetime", "pending_for", "sent_for"):
            check_number(name, getattr(self, name))
        check_number("seed", self.seed, whole=True)
        if not isinstance(self.balance, str) or not re.fullmatch(_BALANCE, self.balance):
            raise ValueError(f"balance must be a decimal string, not {short_repr(self.balance)}")

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """
        Return these settings with some of them changed.

        :param changes: new values by name; a fault can be a mapping of its fields, as in JSON.
        :return: the new settings.
        :raises ValueError: if a name is unknown or a value is not valid.
        """
        check_names(changes, [setting.name for setting in fields(self)])
        values = dict(changes)
        if "faults" in values:
            values["faults"] = _faults(values["faults"])
        return replace(self, **values)

    def arguments(self) -> list[str]:
        """Return these settings as arguments of ``python -m airflow_provider_rtisms.sandbox``."""
        scalars = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "faults"}
        return [
            *(f"--{name.replace('_', '-')}={value}" for name, value in scalars.items()),
            *(f"--fault={fault}" for fault in self.faults),
        ]


def _faults(values: object) -> tuple[Fault, ...]:
    if not isinstance(values, list | tuple):
        raise ValueError(f"faults must be a list, not {short_repr(values)}")
    for value in values:
        if not isinstance(value, Fault | Mapping):
            raise ValueError(f"each of the faults must be an object, not {short_repr(value)}")
    return tuple(value if isinstance(value, Fault) else Fault.from_fields(value) for value in values)
