"""When a deferred wait polls, and when its event comes: in virtual time, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.exceptions import AirflowNotFoundException

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.triggers import polling
from tests import virtual_time
from tests.virtual_time import START


@pytest.fixture(autouse=True)
def _virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def with_client(connect: Any, work: Callable[[Any], Awaitable[None]]) -> None:
        await work(None)

    monkeypatch.setattr(polling, "time", SimpleNamespace(time=virtual_time.now))
    monkeypatch.setattr(polling, "with_current_credentials", with_client)


class Wait(polling.WaitTrigger):
    """
    A wait that has deferred at one time and gives up at another, in seconds from the beginning.

    :param polls: how many polls it takes.
    :param seconds: how long each of them takes.
    :param error: ends the last poll.
    """

    def __init__(
        self, deferred: float = 0, deadline: float = 10_000, *, polls: int = 1, seconds: float = 0, **changes: Any
    ) -> None:
        self.error = changes.pop("error", None)
        trigger_id = changes.pop("trigger_id", 7)
        times = {"deferred_at": START + deferred, "deadline": START + deadline}
        super().__init__(**{"rtisms_conn_id": "rtisms_default", "poke_interval": 60.0, **times, **changes})
        self.trigger_id = trigger_id
        self.polls, self.seconds = polls, seconds
        self.polled: list[float] = []

    async def poll(self, client: Any) -> bool:
        self.polled.append(round(virtual_time.now() - START, 3))
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return len(self.polled) == self.polls

    def found(self, *, is_done: bool) -> dict[str, Any]:
        return {"records": ["all" if is_done else "some"]}

    def timeout_message(self) -> str:
        return "1 is open"


def end(wait: Wait) -> tuple[float, Any]:
    """Return the second in which the only event comes, and its payload."""

    async def main() -> tuple[float, Any]:
        (event,) = [event async for event in wait.run()]
        return round(virtual_time.now() - START, 3), event.payload

    return virtual_time.run(main())


def test_pauses_vary_by_a_tenth_and_none_is_shorter_than_a_tenth_of_a_second() -> None:
    async def pause(seconds: float) -> float:
        await polling.pause(seconds)
        return round(virtual_time.now() - START, 3)

    pauses = [virtual_time.run(pause(100)) for _ in range(300)]
    assert 90 <= min(pauses) < 92
    assert 108 < max(pauses) <= 110
    assert {virtual_time.run(pause(seconds)) for seconds in (0, 0.01, -1)} == {0.1}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, 10),
        ({"deferred": -4}, 6),
        ({"deferred": -60}, 0),
        ({"deferred": 50}, 10),  # the clock of the worker is ahead
        ({"deadline": 3}, 3),
        ({"deferred": -1000}, 0),  # started by Airflow itself, without a worker
        ({"trigger_id": None}, 0),  # dag.test
    ],
)
def test_no_event_comes_before_airflow_has_noted_the_deferral(times: dict[str, Any], expected: float) -> None:
    assert end(Wait(poke_interval=0, **times))[0] == expected
    assert end(Wait(from_the_future=1, **times))[0] == expected


@pytest.mark.parametrize(
    ("wait", "times"),
    [
        ({}, [10, 70, 130, 190]),
        ({"poke_interval": 4.0}, [4, 8, 12, 16]),  # its sensor has polled just now
        ({"deferred": -30}, [0, 60, 120, 180]),
        # exponential_backoff: each pause is as long as the wait so far, within the limits
        ({"max_poke_interval": 600.0}, [10, 70, 140, 280, 560, 1120, 1720, 2320]),
        ({"max_poke_interval": 30.0}, [10, 70, 130]),
        ({"max_poke_interval": 600.0, "deferred": -300}, [0, 300, 900, 1500]),
    ],
)
def test_when_it_polls(monkeypatch: pytest.MonkeyPatch, wait: dict[str, Any], times: list[float]) -> None:
    monkeypatch.setattr(polling, "JITTER", 0.0)
    trigger = Wait(polls=len(times), **wait)
    end(trigger)
    assert trigger.polled == times


@pytest.mark.parametrize(
    ("wait", "at", "event"),
    [
        ({"seconds": 3}, 10, {"outcome": "finished", "records": ["all"]}),
        ({"seconds": 30}, 30, {"outcome": "finished", "records": ["all"]}),
        (
            {"seconds": 30, "error": RtiSmsInputError("no")},
            30,
            {"outcome": "failed", "message": "no", "records": ["some"]},
        ),
        ({"seconds": 30, "deadline": 20}, 20, {"outcome": "timeout", "message": "1 is open", "records": ["some"]}),
        (
            {"seconds": 30, "deadline": 20, "is_execution_timeout": True},
            20,
            {"outcome": "timeout", "message": "1 is open", "cause": "execution_timeout", "records": ["some"]},
        ),
    ],
)
def test_how_it_ends(wait: dict[str, Any], at: float, event: dict[str, Any]) -> None:
    assert end(Wait(poke_interval=0, **wait)) == (at, {"version": 1, **event})


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KeyError("+56911111111"), "KeyError."),
        (TimeoutError("of a file"), "TimeoutError."),
        (AirflowNotFoundException("The conn_id `rtisms` isn't defined"), "The conn_id `rtisms` isn't defined."),
    ],
)
def test_an_error_that_nobody_expects_is_an_event_too(
    error: Exception, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The triggerer would end the wait with a traceback; so the task hears what has happened."""
    assert end(Wait(poke_interval=0, seconds=30, error=error)) == (
        30,
        {
            **{"version": 1, "outcome": "failed", "cause": "crash", "records": ["some"]},
            "message": f"The trigger met an error: {shown} Its log shows more.",
        },
    )
    assert type(error).__name__ in caplog.text


def test_a_trigger_of_another_version_says_what_to_do() -> None:
    _, payload = end(Wait(newer=1, new=1))
    assert (payload["version"], payload["outcome"], payload["cause"]) == (1, "failed", "crash")
    assert "does not know (new, newer)" in payload["message"]
    assert "Install the same version" in payload["message"]
