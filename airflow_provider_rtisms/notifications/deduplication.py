"""
Let one SMS stand for many alerts: remember the alerts of one ``dedup_key``, and decide which of them sends.

The state is in two Airflow Variables: the claim of the alert that sends, and the count of those that do not. Variables
are the only store that every process of every supported Airflow can write: tasks, the DAG processor and the triggerer.
They have no compare-and-set. So each write is read again after a pause, and is repeated if another process has
overwritten it (Fischer's algorithm for mutual exclusion). The last claim wins, so at least one alert sends. Two send
only if one process takes longer than the pause between its read and its write.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol, Self, TypeVar

log = logging.getLogger(__name__)

#: Changes when an older release would misread the state.
VERSION = 1
#: Seconds: shortest pause between a write and the read that checks it. The longest is twice that.
SETTLE = 0.25
#: Seconds: for so long, an alert that is about to send keeps the others from sending, unless it reports that it has
#: sent. Airflow 3 stops the callback of a task 20 s after the task has ended (``[core] task_success_overtime``).
LEASE = 60.0
#: Writes of one change, until it is given up after about 4 s.
MAX_WRITES = 10
#: Alerts that the count names, so that each of them sees whether it is in the count.
MAX_TOKENS = 256


class Store(Protocol):
    """Keeps texts by name, like Airflow's Variables."""

    def get(self, name: str) -> str | None:
        """Return the text of a name, or None if there is none."""

    def set(self, name: str, text: str) -> None:
        """Keep a text."""


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The alert that sends, or that has sent last.

    :param token: random name of the alert; empty if there is none.
    :param at: ISO 8601 time at which it began to send, or at which its SMS was sent.
    :param is_sent: whether its SMS was sent.
    :param reported: the total of :class:`Count` that the last SMS has reported.
    """

    suffix: ClassVar[str] = ""

    token: str = ""
    at: str = "1970-01-01T00:00:00+00:00"
    is_sent: bool = False
    reported: int = 0

    @classmethod
    def from_fields(cls, *, token: Any, at: Any, is_sent: Any, reported: Any) -> Self:
        """
        Check stored fields.

        :raises ValueError: a value is impossible.
        :raises TypeError: a value is impossible.
        """
        if datetime.fromisoformat(at).tzinfo is None:
            raise ValueError("a time without a time zone")
        return cls(str(token), at, bool(is_sent), int(reported))

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
        return self.token != "" and abs(now - self.time) < seconds  # the clocks of two machines differ


@dataclass(frozen=True, slots=True)
class Count:
    """
    The alerts that were not sent.

    :param total: their number since the Variable exists.
    :param tokens: random names of the last ones.
    """

    suffix: ClassVar[str] = "_count"

    total: int = 0
    tokens: tuple[str, ...] = ()

    @classmethod
    def from_fields(cls, *, total: Any, tokens: Any) -> Self:
        """
        Check stored fields.

        :raises ValueError: a value is impossible.
        :raises TypeError: a value is impossible.
        """
        return cls(int(total), tuple(map(str, tokens)))

    def including(self, tokens: Iterable[str]) -> Count:
        """Return the count with these alerts, those that it has already included once."""
        new = [token for token in tokens if token not in self.tokens]
        return Count(self.total + len(new), (*self.tokens, *new)[-MAX_TOKENS:])


State = TypeVar("State", Claim, Count)


@dataclass(slots=True)
class Turn:
    """
    What becomes of one alert.

    :param is_due: whether it is sent.
    :param suppressed: number of alerts before it that were not sent and that no SMS has reported.
    :param may_have_sent: whether its SMS was sent, or may have been. The caller sets it.
    :param token: its name in the state; empty if there is no state.
    :param began: Unix time of the decision.
    :param total: total of the count at that time.
    """

    is_due: bool = True
    suppressed: int = 0
    may_have_sent: bool = False
    token: str = ""
    began: float = 0.0
    total: int = 0


@dataclass
class AlertLimit:
    """
    Send at most one SMS in some time for all alerts with the same ``dedup_key``.

    Everything fails open: if the state cannot be read or written, the alert is due, and a line in the log says why.

    :param store: where the state is.
    :param dedup_key: what the alerts have in common.
    :param at_most_every: seconds between two SMS; 0 to send each alert, and to report those that were not sent.
    :param clock: returns Unix time.
    :param sleep: waits for some seconds.
    """

    store: Store
    dedup_key: str
    at_most_every: float
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Any] = time.sleep
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = variable_name(self.dedup_key)

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """
        Decide whether an alert is due, and record what became of it.

        :return: the caller sends if ``is_due``, and then sets ``may_have_sent``.
        """
        turn = self._decide()
        try:
            yield turn
        finally:
            if turn.is_due and turn.token:
                self._record(turn)

    def _decide(self) -> Turn:
        turn = Turn(token=secrets.token_hex(3), began=self.clock())
        try:
            claim = self._claim(turn)
            if claim is None:
                turn.is_due = False
                total = self._count(turn.token)
                log.info(
                    "This alert is not sent, since another SMS stands for it. %s counts %d alerts", self.name, total
                )
            else:
                turn.total = self._read(Count).total
                turn.suppressed = turn.total - (claim.reported if claim.reported <= turn.total else 0)
        except Exception as error:
            log.warning(
                "The Variable %s, which limits alerts, cannot be used, so this alert is sent: %s", self.name, error
            )
            return Turn()
        return turn

    def _claim(self, turn: Turn) -> Claim | None:
        """Return the claim once it is this alert's, or None if another SMS stands for it."""
        if self.at_most_every == 0:
            return self._read(Claim)

        def change(claim: Claim) -> Claim:
            return Claim(turn.token, _iso(self.clock()), is_sent=False, reported=claim.reported)

        def is_decided(claim: Claim) -> bool:
            return claim.token == turn.token or claim.covers(self.clock(), self.at_most_every)

        claim = self._update(Claim, change, is_decided)
        if claim is None:
            raise RuntimeError("it does not hold what this process has written.")
        return claim if claim.token == turn.token else None

    def _count(self, token: str) -> int:
        """Add an alert to the count, and return its total."""
        seen = {token: None}

        def change(count: Count) -> Count:
            return count.including(seen)

        def is_counted(count: Count) -> bool:
            is_counted = token in count.tokens
            seen.update(dict.fromkeys(count.tokens))  # if another process overwrites them, this one restores them
            return is_counted

        count = self._update(Count, change, is_counted)
        if count is None:
            log.warning("This alert is missing from the count in %s, since other processes overwrite it", self.name)
            return self._read(Count).total
        return count.total

    def _record(self, turn: Turn) -> None:
        """Record that the SMS was sent, or count the alert and let the next one send."""
        try:
            if turn.may_have_sent:
                self._update(
                    Claim,
                    lambda claim: Claim(turn.token, _iso(self.clock()), is_sent=True, reported=turn.total),
                    lambda claim: claim.is_sent and (claim.token == turn.token or claim.time > turn.began),
                )
            else:
                self._update(
                    Claim,
                    lambda claim: Claim(reported=claim.reported),
                    lambda claim: claim.token != turn.token,
                )
                self._count(turn.token)
        except Exception as error:
            log.warning("The Variable %s, which limits alerts, cannot be written: %s", self.name, error)

    def _update(
        self, kind: type[State], change: Callable[[State], State], holds: Callable[[State], bool]
    ) -> State | None:
        """
        Write a change until it lasts.

        :param kind: of the state.
        :param change: returns the new state.
        :param holds: returns whether nothing has to be written.
        :return: the state that holds, or None if other processes have overwritten it each time.
        """
        for write in range(1, MAX_WRITES + 1):
            state = self._read(kind)
            if holds(state):
                return state
            fields = {"version": VERSION, **asdict(change(state))}
            try:
                self.store.set(self.name + kind.suffix, json.dumps(fields))
            except Exception:  # Airflow 2 fails if two processes create a Variable at the same time
                if write == MAX_WRITES:
                    raise
            self.sleep(random.uniform(SETTLE, 2 * SETTLE))  # noqa: S311
        state = self._read(kind)
        return state if holds(state) else None

    def _read(self, kind: type[State]) -> State:
        text = self.store.get(self.name + kind.suffix)
        if text is None:
            return kind()
        try:
            fields = json.loads(text)
            if fields.pop("version") != VERSION:
                raise ValueError("it has the form of another release")
            return kind.from_fields(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            name = self.name + kind.suffix
            log.warning("The Variable %s, which limits alerts, is not readable, so it begins again: %s", name, error)
            return kind()


def variable_name(dedup_key: str) -> str:
    """Return the name of the Variable for a ``dedup_key``: a digest, since the key may hold anything."""
    return f"rtisms_alert_{hashlib.sha256(dedup_key.encode()).hexdigest()[:16]}"


def _iso(unix_time: float) -> str:
    return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds")
