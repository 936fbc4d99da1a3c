"""How many threads use one blocking client at once, and what becomes of the slots of threads that do not return."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api.transport import thread_slots
from airflow_provider_rtisms.api.transport.thread_slots import ThreadSlots
from tests.patience import PATIENCE

LONGEST = 60.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let a test set the time: ``clock.now``, in seconds."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(thread_slots, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


class Actor:
    """A thread that does what a test tells it to."""

    def __init__(self, slots: ThreadSlots) -> None:
        self._slots = slots
        self._thread = ThreadPoolExecutor(1)

    def enter(self) -> Future[Any]:
        return self._thread.submit(self._slots.__enter__)

    def leave(self) -> None:
        self._thread.submit(self._slots.__exit__).result(PATIENCE)

    def end(self) -> None:
        self._thread.shutdown()


@pytest.fixture
def actors() -> Iterator[Any]:
    """Start threads that share slots: ``actors(slots, count)``."""
    made: list[Actor] = []

    def start(slots: ThreadSlots, count: int) -> list[Actor]:
        made.extend(Actor(slots) for _ in range(count))
        return made[-count:]

    yield start
    for actor in made:
        actor.leave()  # else a thread that waits would wait forever
    for actor in made:
        actor.end()


def is_waiting(entering: Future[Any]) -> bool:
    with pytest.raises(TimeoutError):
        entering.result(0.05)
    return True


def test_the_next_thread_enters_as_soon_as_one_leaves(actors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_slots, "CHECK_INTERVAL", 3600.0)
    a, b, c, d = actors(ThreadSlots(2, LONGEST), 4)
    a.enter().result(PATIENCE)
    b.enter().result(PATIENCE)
    third, fourth = c.enter(), d.enter()
    assert is_waiting(third)
    assert is_waiting(fourth)
    a.leave()
    b.leave()
    third.result(PATIENCE)
    fourth.result(PATIENCE)


def test_a_thread_that_waits_looks_once_a_second(actors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slots, looks = ThreadSlots(1, LONGEST), []
    a, b = actors(slots, 2)
    a.enter().result(PATIENCE)
    take = slots._take
    monkeypatch.setattr(slots, "_take", lambda me: looks.append(me) or take(me))  # type: ignore[func-returns-value]
    began = time.monotonic()
    entering = b.enter()
    assert is_waiting(entering)
    assert is_waiting(entering)
    assert len(looks) <= 2 + (time.monotonic() - began) / thread_slots.CHECK_INTERVAL
    a.leave()
    entering.result(PATIENCE)


def test_a_thread_that_was_interrupted_uses_its_slot_again(actors: Any) -> None:
    a, b = actors(ThreadSlots(1, LONGEST), 2)
    a.enter().result(PATIENCE)
    a.enter().result(PATIENCE)  # an interrupt has kept it from leaving
    entering = b.enter()
    assert is_waiting(entering)
    a.leave()
    entering.result(PATIENCE)


def test_a_thread_that_has_ended_leaves_its_slot(actors: Any) -> None:
    slots = ThreadSlots(1, LONGEST)
    (b,) = actors(slots, 1)
    thread = threading.Thread(target=slots.__enter__)
    thread.start()
    thread.join()
    b.enter().result(PATIENCE)


def test_a_slot_that_is_held_longer_than_any_exchange_lasts_is_free(actors: Any, clock: SimpleNamespace) -> None:
    a, b, c = actors(ThreadSlots(2, LONGEST), 3)
    a.enter().result(PATIENCE)
    clock.now += 1
    b.enter().result(PATIENCE)
    clock.now += LONGEST - 1.5
    entering = c.enter()
    assert is_waiting(entering)
    clock.now += 0.5
    entering.result(PATIENCE)  # in place of a; b has entered later
    assert is_waiting(a.enter())
    b.leave()


def test_an_exchange_counts_from_its_own_beginning(actors: Any, clock: SimpleNamespace) -> None:
    a, b = actors(ThreadSlots(1, LONGEST), 2)
    a.enter().result(PATIENCE)
    clock.now += LONGEST - 1
    a.enter().result(PATIENCE)  # its next exchange
    clock.now += LONGEST - 1
    entering = b.enter()
    assert is_waiting(entering)
    a.leave()
    entering.result(PATIENCE)


def test_one_thread_is_woken_for_each_free_slot(actors: Any) -> None:
    slots = ThreadSlots(2, LONGEST)
    a, b = actors(slots, 2)
    a.enter().result(PATIENCE)
    assert slots._freed.qsize() == 1  # a thread that waits may have the second one
    slots._freed.get_nowait()
    b.enter().result(PATIENCE)
    assert slots._freed.qsize() == 0
    a.leave()
    b.leave()
    assert slots._freed.qsize() == 1
    a.enter().result(PATIENCE)
    assert slots._freed.qsize() == 1
