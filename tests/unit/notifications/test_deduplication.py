"""Which of many alerts sends: the state by itself, and processes that race for it in virtual time."""

from __future__ import annotations

import heapq
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from airflow_provider_rtisms.notifications import rtisms as deduplication
from airflow_provider_rtisms.notifications.rtisms import LEASE, AlertLimit, Turn, variable_name
from tests.patience import PATIENCE

KEY = "nightly_load"
NAME = variable_name(KEY)
HOUR = 3600.0
#: As release 0.1.0 wrote them. It kept the number of alerts in another Variable, which is not read any more.
FIRST = '{"version": 1, "alert": "0a1b2c", "at": "2027-01-15T08:00:00.500+00:00", "is_sent": true, "reported": 40}'
STORED = '{"version": 2, "alert": "0a1b2c", "at": "2027-01-15T08:00:00.500+00:00", "is_sent": true, "suppressed": 2}'


class Memory(dict[str, str]):
    """A store in memory."""

    def set(self, name: str, text: str) -> None:
        self[name] = text

    @property
    def suppressed(self) -> int:
        return int(json.loads(self[NAME])["suppressed"])


class World:
    """
    Processes that share Variables, in virtual time: one runs at a time, until it waits.

    :param latency: returns the seconds that a call of the store takes.
    """

    def __init__(self, latency: Callable[[], float]) -> None:
        random.seed(1)  # the pauses, too, are the same in each run of a test
        self.now = 1_800_000_000.0
        self.variables = Memory()
        self._latency = latency
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, threading.Event]] = []

    def get(self, name: str) -> str | None:
        """Read the Variable halfway through the call."""
        self.wait(self._latency() / 2)
        text = self.variables.get(name)
        self.wait(self._latency() / 2)
        return text

    def set(self, name: str, text: str) -> None:
        """Write the Variable halfway through the call."""
        self.wait(self._latency() / 2)
        self.variables[name] = text
        self.wait(self._latency() / 2)

    def wait(self, seconds: float) -> None:
        """Let the other processes run for some time."""
        event = self._alarm(seconds)
        self._wake_next()
        assert event.wait(PATIENCE)

    def run(self, starts: list[float], process: Callable[[], None]) -> None:
        """Run a process from each of these times on, until all have ended."""

        def body(event: threading.Event) -> None:
            assert event.wait(PATIENCE)
            process()
            self._wake_next()

        with ThreadPoolExecutor(len(starts)) as threads:
            ends = [threads.submit(body, self._alarm(start)) for start in starts]
            self._wake_next()
        for end in ends:
            end.result()

    def _alarm(self, seconds: float) -> threading.Event:
        event = threading.Event()
        heapq.heappush(self._waiting, (self.now + seconds, next(self._order), event))
        return event

    def _wake_next(self) -> None:
        if self._waiting:
            self.now, _, event = heapq.heappop(self._waiting)
            event.set()


def storm(world: World, starts: list[float]) -> list[int]:
    """Let a process alert at each of these times; return what each SMS, which takes 0.3 s, says of suppressed ones."""
    reports: list[int] = []

    def alert() -> None:
        limit = AlertLimit(world, KEY, HOUR, clock=lambda: world.now, sleep=world.wait)
        with limit.turn() as turn:
            if turn.is_due:
                world.wait(0.3)
                turn.may_have_sent = True
                reports.append(turn.suppressed)

    world.run(starts, alert)
    return reports


@pytest.fixture
def limit_of(now: list[float]) -> Callable[..., AlertLimit]:
    def make(store: Any, at_most_every: float = HOUR, only_after: int = 1) -> AlertLimit:
        return AlertLimit(store, KEY, at_most_every, only_after, clock=lambda: now[0], sleep=lambda seconds: None)

    return make


@pytest.fixture
def now() -> list[float]:
    return [1_800_000_000.0]


def alert(limit: AlertLimit, *, fails: bool = False) -> Turn:
    with limit.turn() as turn:
        turn.may_have_sent = turn.is_due and not fails
    return turn


def test_the_next_sms_says_how_many_were_suppressed(limit_of: Callable[..., AlertLimit], now: list[float]) -> None:
    limit = limit_of(Memory())
    turns = []
    for seconds in (0, 1, 2, HOUR - 4, 2, 1):
        now[0] += seconds
        turns.append(alert(limit))
    assert [(turn.is_due, turn.suppressed) for turn in turns] == [(True, 0), *[(False, 0)] * 3, (True, 3), (False, 0)]


def test_zero_sends_each_alert_and_reports_what_was_suppressed(limit_of: Callable[..., AlertLimit]) -> None:
    store = Memory()
    turns = [alert(limit_of(store, every)) for every in (HOUR, HOUR, HOUR, 0, 0, HOUR)]
    assert [(turn.is_due, turn.suppressed) for turn in turns] == [
        *((True, 0), (False, 0), (False, 0)),
        *((True, 2), (True, 0), (False, 0)),
    ]
    assert KEY not in NAME


def test_an_sms_that_was_not_sent_stands_for_nothing(limit_of: Callable[..., AlertLimit]) -> None:
    limit = limit_of(Memory())
    assert [alert(limit, fails=fails).suppressed for fails in (True, True, False)] == [0, 1, 2]
    assert not alert(limit).is_due


def test_an_alert_whose_process_died_is_followed_by_the_next(
    limit_of: Callable[..., AlertLimit], now: list[float]
) -> None:
    store = Memory()
    with suppress(KeyboardInterrupt), limit_of(store).turn():
        stored = dict(store)
        raise KeyboardInterrupt
    store.clear()
    store.update(stored)
    now[0] += LEASE - 1
    assert not alert(limit_of(store)).is_due
    now[0] += 1
    turn = alert(limit_of(store))
    assert (turn.is_due, turn.suppressed) == (True, 1)


def test_the_clock_of_another_machine_may_be_ahead(limit_of: Callable[..., AlertLimit], now: list[float]) -> None:
    store = Memory()
    alert(limit_of(store))
    now[0] -= 30
    assert not alert(limit_of(store)).is_due
    now[0] -= HOUR
    assert alert(limit_of(store)).is_due


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_storm_of_200_processes_costs_an_sms_or_two_and_counts_at_least_a_third(seed: int) -> None:
    """Eight or more run at a time, and a call of the store takes up to 0.1 s, each another time."""
    rng = random.Random(seed)
    world = World(latency=lambda: rng.uniform(0.005, 0.1))
    reports = storm(world, [number // 8 * 0.5 + rng.uniform(0, 0.1) for number in range(200)])
    assert len(reports) <= 2
    counted = world.variables.suppressed
    world.now += HOUR
    assert storm(world, [0]) == [counted]
    assert counted >= 60


def test_a_process_that_stalls_between_read_and_write_costs_one_sms_more() -> None:
    """This is the race that remains: the last of four processes writes 5 s after it has read."""
    delays = iter([0.01] * 11 + [5.0])
    assert len(storm(World(latency=lambda: next(delays, 0.01)), [0.0] * 4)) == 2


class Broken(Memory):
    """A store whose methods fail for some time."""

    def __init__(self, *, reads: bool = False, writes: int = 0, forgets: bool = False) -> None:
        self.reads, self.writes, self.forgets = reads, writes, forgets

    def get(self, name: str, default: str | None = None) -> str | None:
        if self.reads:
            raise ConnectionError("no database")
        return super().get(name, default)

    def set(self, name: str, text: str) -> None:
        if self.writes:
            self.writes -= 1
            raise ConnectionError("no database")
        if not self.forgets:
            super().set(name, text)


@pytest.mark.parametrize(
    "broken", [{"reads": True}, {"writes": 100}, {"forgets": True}], ids=["read", "write", "read back"]
)
def test_a_broken_state_lets_every_alert_out_and_says_why(
    limit_of: Callable[..., AlertLimit], caplog: pytest.LogCaptureFixture, broken: dict[str, bool]
) -> None:
    limit = limit_of(Broken(**broken))  # type: ignore[arg-type]
    for _ in range(2):
        assert alert(limit).is_due
    assert caplog.text.count(f"The Variable {NAME}, which limits alerts, cannot be used, so this alert is sent: ") == 2


def test_a_count_that_cannot_be_written_lets_the_alert_out(limit_of: Callable[..., AlertLimit]) -> None:
    store = Broken()
    alert(limit_of(store))
    store.writes = 1
    assert alert(limit_of(store)).is_due


def test_a_claim_that_another_process_has_written_first_holds(
    limit_of: Callable[..., AlertLimit], now: list[float]
) -> None:
    """Airflow 2 fails if two processes create a Variable at the same time."""

    class Raced(Memory):
        def set(self, name: str, text: str) -> None:
            if not self:
                self[name] = STORED
                raise ConnectionError("UNIQUE constraint failed")
            super().set(name, text)

    store = Raced()
    assert not alert(limit_of(store)).is_due
    assert store.suppressed == 3


@pytest.mark.parametrize(
    "text",
    ["", "7", "{}", "[]", "null", '{"version": 1}', STORED.replace(": 2,", ": 3,"), FIRST.replace(": 1,", ": 2,")],
)
def test_an_unreadable_state_begins_again(
    limit_of: Callable[..., AlertLimit], caplog: pytest.LogCaptureFixture, text: str
) -> None:
    store = Memory({NAME: text})
    turn = alert(limit_of(store))
    assert (turn.is_due, turn.suppressed) == (True, 0)
    assert f"The Variable {NAME}, which limits alerts, is not readable" in caplog.text
    assert not alert(limit_of(store)).is_due
    assert store.suppressed == 1


@pytest.mark.parametrize(("stored", "suppressed"), [(STORED, 3), (FIRST, 1)])
def test_stored_forms_are_read(
    limit_of: Callable[..., AlertLimit], now: list[float], stored: str, suppressed: int
) -> None:
    store = Memory({NAME: stored})
    now[0] += HOUR
    assert not alert(limit_of(store)).is_due
    assert list(json.loads(store[NAME])) == list(json.loads(STORED))
    assert json.loads(store[NAME])["at"] == json.loads(stored)["at"]
    now[0] += 1
    turn = alert(limit_of(store))
    assert (turn.is_due, turn.suppressed) == (True, suppressed)


@pytest.fixture(autouse=True)
def _warnings_are_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("INFO", logger=deduplication.__name__):
        yield


def test_only_after_ten_alerts_the_tenth_is_told(limit_of: Callable[..., AlertLimit], now: list[float]) -> None:
    limit = limit_of(Memory(), only_after=10)
    turns = [alert(limit) for _ in range(12)]
    assert [turn.is_due for turn in turns] == [False] * 9 + [True, False, False]
    assert turns[9].suppressed == 9
    now[0] += HOUR + 1
    turns = [alert(limit) for _ in range(10)]
    assert [turn.is_due for turn in turns] == [False] * 9 + [True]
    assert turns[9].suppressed == 11, "two were counted after the first SMS"


def test_only_after_counts_no_alerts_that_are_too_old(limit_of: Callable[..., AlertLimit], now: list[float]) -> None:
    limit = limit_of(Memory(), only_after=3)
    for _ in range(9):
        assert not alert(limit).is_due
        assert not alert(limit).is_due
        now[0] += HOUR
    now[0] -= 1
    assert alert(limit).is_due


def test_only_after_leaves_an_alert_that_could_not_be_sent_to_the_next(limit_of: Callable[..., AlertLimit]) -> None:
    limit = limit_of(Memory(), only_after=3)
    assert [alert(limit, fails=True).is_due for _ in range(3)] == [False, False, True]
    turn = alert(limit)
    assert (turn.is_due, turn.suppressed) == (True, 3)


def test_without_only_after_the_state_has_the_form_of_older_releases(
    limit_of: Callable[..., AlertLimit],
) -> None:
    store = Memory()
    alert(limit_of(store))
    assert json.loads(store[NAME]).keys() == json.loads(STORED).keys()
