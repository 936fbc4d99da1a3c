"""
Let one SMS stand for many alerts: remember the alerts of one ``dedup_key``, and decide which of them sends.

The state is in two Airflow Variables: the claim of the alert that sends, and the count of those that do not. Variables
are the only store that every process of every supported Airflow can write: tasks, the DAG processor and the triggerer.
They have no compare-and-set. So each write is read again after a pause, and is repeated if another process has
overwritten it (Fischer's algorithm for mutual exclusion). The last claim wins, so at least one alert sends. Two send
only if one process takes longer than the pause between its read and its write.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_provider_rtisms.notifications.alert_state import (
    Claim,
    Count,
    State,
    from_json,
    iso,
    to_json,
    variable_name,
)

log = logging.getLogger(__name__)

#: Seconds: shortest pause between a write and the read that checks it. The longest is twice that.
SETTLE = 0.25
#: Writes of one change, until it is given up after about 4 s.
MAX_WRITES = 10


class Store(Protocol):
    """Keeps texts by name, like Airflow's Variables."""

    def get(self, name: str) -> str | None:
        """Return the text of a name, or None if there is none."""

    def set(self, name: str, text: str) -> None:
        """Keep a text."""


@dataclass(slots=True)
class Turn:
    """
    What becomes of one alert.

    :param is_due: whether it is sent.
    :param suppressed: number of alerts before it that were not sent and that no SMS has reported.
    :param may_have_sent: whether its SMS was sent, or may have been. The caller sets it.
    :param alert: its name in the state; empty if there is no state.
    :param began: Unix time of the decision.
    :param total: total of the count at that time.
    """

    is_due: bool = True
    suppressed: int = 0
    may_have_sent: bool = False
    alert: str = ""
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
            if turn.is_due and turn.alert:
                self._record(turn)

    def _decide(self) -> Turn:
        turn = Turn(alert=secrets.token_urlsafe(6), began=self.clock())
        try:
            claim = self._claim(turn)
            if claim is None:
                turn.is_due = False
                total = self._count(turn.alert)
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
            return Claim(turn.alert, iso(self.clock()), is_sent=False, reported=claim.reported)

        def is_decided(claim: Claim) -> bool:
            return claim.alert == turn.alert or claim.covers(self.clock(), self.at_most_every)

        claim = self._update(Claim, change, is_decided)
        if claim is None:
            raise RuntimeError("it does not hold what this process has written.")
        return claim if claim.alert == turn.alert else None

    def _count(self, alert: str) -> int:
        """Add an alert to the count, and return its total."""
        seen = {alert: None}

        def change(count: Count) -> Count:
            return count.including(seen)

        def is_counted(count: Count) -> bool:
            is_counted = alert in count.alerts
            seen.update(dict.fromkeys(count.alerts))  # if another process overwrites them, this one restores them
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
                    lambda claim: Claim(turn.alert, iso(self.clock()), is_sent=True, reported=turn.total),
                    lambda claim: claim.is_sent and (claim.alert == turn.alert or claim.time > turn.began),
                )
            else:
                self._update(
                    Claim,
                    lambda claim: Claim(reported=claim.reported),
                    lambda claim: claim.alert != turn.alert,
                )
                self._count(turn.alert)
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
            try:
                self.store.set(self.name + kind.suffix, to_json(change(state)))
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
            return from_json(kind, text)
        except ValueError as error:
            name = self.name + kind.suffix
            log.warning("The Variable %s, which limits alerts, is not readable, so it begins again: %s", name, error)
            return kind()
