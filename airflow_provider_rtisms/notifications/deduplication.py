"""
Let one SMS stand for many alerts: remember the alerts of one ``dedup_key``, and decide which of them sends.

The state is in one Airflow Variable for each key. Variables are the only store that every process of every supported
Airflow can write: tasks, the DAG processor and the triggerer. They have no compare-and-set, so all of this is best
effort. An alert reads the state, claims the SMS, waits for a moment, and looks once whether its claim is still there.
In a storm, a process that is slow in between may cost an SMS more, and alerts that are counted in the same moment may
count as one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

log = logging.getLogger(__name__)

#: Changes when an older release would misread the state.
VERSION = 2
#: Seconds: shortest pause between a write and the read that checks it. The longest is twice that.
SETTLE = 0.25
#: Seconds: for so long, an alert that is about to send keeps the others from sending, unless it reports that it has
#: sent. Airflow 3 stops the callback of a task 20 s after the task has ended (``[core] task_success_overtime``).
LEASE = 60.0


class Store(Protocol):
    """Keeps texts by name, like Airflow's Variables."""

    def get(self, name: str) -> str | None:
        """Return the text of a name, or None if there is none."""

    def set(self, name: str, text: str) -> None:
        """Keep a text."""


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of the alerts of one key: neither recipients nor texts."""

    alert: str = ""
    at: str = "1970-01-01T00:00:00+00:00"
    is_sent: bool = False
    suppressed: int = 0

    def covers(self, now: float, at_most_every: float) -> bool:
        """Return whether its SMS stands for an alert."""
        seconds = at_most_every if self.is_sent else min(at_most_every, LEASE)
        # The clocks of two machines differ.
        return self.alert != "" and abs(now - datetime.fromisoformat(self.at).timestamp()) < seconds

    def to_json(self) -> str:
        """Return the state as it is stored."""
        return json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> State:
        """Read what :meth:`to_json` wrote; in version 1, the number of alerts was in another Variable."""
        try:
            fields = json.loads(text)
            version = fields.pop("version")
            if version == 1:
                del fields["reported"]
            elif version != VERSION:
                raise ValueError("it has the form of another release")
            state = cls(**fields)
            if datetime.fromisoformat(state.at).tzinfo is None:
                raise ValueError("a time without a time zone")
            return replace(state, alert=str(state.alert), suppressed=int(state.suppressed))
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None


@dataclass(slots=True)
class Turn:
    """What becomes of one alert."""

    is_due: bool = True
    suppressed: int = 0
    may_have_sent: bool = False
    alert: str = ""


@dataclass
class AlertLimit:
    """
    Send at most one SMS in some time for all alerts with the same ``dedup_key``, as far as Variables allow it.

    Everything fails open: if the state cannot be read or written, the alert is due, and a line in the log says why.
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
        """Decide whether an alert is due, and record what became of it."""
        turn = self._decide()
        try:
            yield turn
        finally:
            if turn.is_due and turn.alert:
                self._record(turn)

    def _decide(self) -> Turn:
        turn = Turn(alert=secrets.token_urlsafe(6))
        try:
            state = self._read()
            if self.at_most_every and not state.covers(self.clock(), self.at_most_every):
                state = self._claim(turn, state)
            if not self.at_most_every or state.alert == turn.alert:
                turn.suppressed = state.suppressed
            else:
                turn.is_due = False
                self._settle()  # alerts that come in the same moment are counted one after the other
                state = self._read()
                state = replace(state, suppressed=state.suppressed + 1)
                self._write(state)
                log.info(
                    "This alert is not sent, since another SMS stands for it. %s counts %d", self.name, state.suppressed
                )
        except Exception as error:
            log.warning(
                "The Variable %s, which limits alerts, cannot be used, so this alert is sent: %s", self.name, error
            )
            return Turn()
        return turn

    def _claim(self, turn: Turn, state: State) -> State:
        """Claim the SMS, and return the state a moment later: with this alert, or with another one that sends."""
        with suppress(Exception):  # Airflow 2 fails if two processes create a Variable at the same time
            self._write(State(turn.alert, self._now(), suppressed=state.suppressed))
        self._settle()
        state = self._read()
        if state.alert != turn.alert and not state.covers(self.clock(), self.at_most_every):
            raise RuntimeError("it does not hold what this process has written.")
        return state

    def _record(self, turn: Turn) -> None:
        """Record that the SMS was sent, or count the alert and let the next one send."""
        try:
            done = State(turn.alert, self._now(), is_sent=True) if turn.may_have_sent else State()
            more = -turn.suppressed if turn.may_have_sent else 1
            state = self._read()
            for _ in range(2):
                self._write(replace(done, suppressed=max(0, state.suppressed + more)))
                self._settle()
                state = self._read()
                if state.is_sent or state.alert != turn.alert:
                    break  # an alert that was counted at the same moment has not overwritten it
        except Exception as error:
            log.warning("The Variable %s, which limits alerts, cannot be written: %s", self.name, error)

    def _settle(self) -> None:
        self.sleep(random.uniform(SETTLE, 2 * SETTLE))  # noqa: S311

    def _now(self) -> str:
        return datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="milliseconds")

    def _write(self, state: State) -> None:
        self.store.set(self.name, state.to_json())

    def _read(self) -> State:
        text = self.store.get(self.name)
        try:
            return State() if text is None else State.from_json(text)
        except ValueError as error:
            log.warning(
                "The Variable %s, which limits alerts, is not readable, so it begins again: %s", self.name, error
            )
            return State()


def variable_name(dedup_key: str) -> str:
    """Return the name of the Variable of a ``dedup_key``: a digest, since the key may hold anything."""
    return f"rtisms_alert_{hashlib.sha256(dedup_key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
