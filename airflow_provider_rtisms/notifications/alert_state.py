"""What RtiSmsNotifier keeps in Airflow's Variables of the alerts of one ``dedup_key``: neither recipients nor texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Self, TypeVar

#: Changes when an older release would misread the state.
VERSION = 1
#: Seconds: for so long, an alert that is about to send keeps the others from sending, unless it reports that it has
#: sent. Airflow 3 stops the callback of a task 20 s after the task has ended (``[core] task_success_overtime``).
LEASE = 60.0
#: Alerts that the count names, so that each of them sees whether it is in the count.
MAX_NAMES = 256


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The alert that sends, or that has sent last.

    :param alert: random name of the alert; empty if there is none.
    :param at: ISO 8601 time at which it began to send, or at which its SMS was sent.
    :param is_sent: whether its SMS was sent.
    :param reported: the total of :class:`Count` that the last SMS has reported.
    """

    suffix: ClassVar[str] = ""

    alert: str = ""
    at: str = "1970-01-01T00:00:00+00:00"
    is_sent: bool = False
    reported: int = 0

    @classmethod
    def from_fields(cls, *, alert: Any, at: Any, is_sent: Any, reported: Any) -> Self:
        """
        Check stored fields.

        :raises ValueError: a value is impossible.
        :raises TypeError: a value is impossible.
        """
        if datetime.fromisoformat(at).tzinfo is None:
            raise ValueError("a time without a time zone")
        return cls(str(alert), at, bool(is_sent), int(reported))

    @property
    def time(self) -> float:
        """``at`` as Unix time."""
        return datetime.fromisoformat(self.at).timestamp()

    def covers(self, now: float, at_most_every: float) -> bool:
        """
        Return whether its SMS stands for an alert.

        :param now: Unix time of the alert.
        :param at_most_every: seconds between two SMS.
        """
        seconds = at_most_every if self.is_sent else min(at_most_every, LEASE)
        return self.alert != "" and abs(now - self.time) < seconds  # the clocks of two machines differ


@dataclass(frozen=True, slots=True)
class Count:
    """
    The alerts that were not sent.

    :param total: their number since the Variable exists.
    :param alerts: random names of the last ones.
    """

    suffix: ClassVar[str] = "_count"

    total: int = 0
    alerts: tuple[str, ...] = ()

    @classmethod
    def from_fields(cls, *, total: Any, alerts: Any) -> Self:
        """
        Check stored fields.

        :raises ValueError: a value is impossible.
        :raises TypeError: a value is impossible.
        """
        return cls(int(total), tuple(map(str, alerts)))

    def including(self, alerts: Iterable[str]) -> Count:
        """Return the count with these alerts added, except those that are in it."""
        new = [alert for alert in alerts if alert not in self.alerts]
        return Count(self.total + len(new), (*self.alerts, *new)[-MAX_NAMES:])


State = TypeVar("State", Claim, Count)


def to_json(state: Claim | Count) -> str:
    """Return a state as JSON."""
    return json.dumps({"version": VERSION, **asdict(state)}, separators=(",", ":"))


def from_json(kind: type[State], text: str) -> State:
    """
    Read what :func:`to_json` wrote.

    :param kind: of the state.
    :raises ValueError: this release cannot read it.
    """
    try:
        fields = json.loads(text)
        if fields.pop("version") != VERSION:
            raise ValueError("it has the form of another release")
        return kind.from_fields(**fields)
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def variable_name(dedup_key: str) -> str:
    """Return the name of the Variable of a ``dedup_key``: a digest, since the key may hold anything."""
    return f"rtisms_alert_{hashlib.sha256(dedup_key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def iso(unix_time: float) -> str:
    """Return a Unix time in ISO 8601, with milliseconds."""
    return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds")
