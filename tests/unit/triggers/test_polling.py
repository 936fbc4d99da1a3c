"""When a deferred wait polls, and when its event comes: in virtual time, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
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
    monkeypatch.setattr(polling, "time", SimpleNamespace(time=virtual_time.now))


@pytest.fixture
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "JITTER", 0.0)


def waiting(deferred: float = 0.0, deadline: float = 10_000.0, **changes: Any) -> Any:
    """Return a trigger that deferred at one time and gives up at another, in seconds from the beginning."""
    fields = {"rtisms_conn_id": "rtisms_default", "poke_interval": 60.0, "max_poke_interval": None, "trigger_id": 7}
    fields["is_execution_timeout"] = False
    return SimpleNamespace(deferred_at=START + deferred, deadline=START + deadline, **{**fields, **changes})


def seconds_of(work: Callable[[], Awaitable[Any]]) -> float:
    """Return how long some work takes in virtual time."""

    async def main() -> float:
        await work()
        return virtual_time.now() - START

    return round(virtual_time.run(main()), 3)


def test_waits_that_began_together_drift_apart_by_a_tenth() -> None:
    pauses = [seconds_of(lambda: polling.pause(100)) for _ in range(300)]
    assert 90 <= min(pauses) < 92
    assert 108 < max(pauses) <= 110


@pytest.mark.parametrize("seconds", [0, 0.01, -1])
def test_no_pause_is_shorter_than_a_tenth_of_a_second(seconds: float) -> None:
    assert seconds_of(lambda: polling.pause(seconds)) == 0.1


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (waiting(), 10),
        (waiting(deferred=-4), 6),
        (waiting(deferred=-60), 0),
        (waiting(deferred=50), 10),  # the clock of the worker is ahead
        (waiting(deadline=3), 3),
        (waiting(deferred=-1000), 0),  # started by Airflow itself, without a worker
        (waiting(trigger_id=None), 0),  # dag.test
    ],
)
def test_no_event_comes_before_airflow_has_noted_the_deferral(trigger: Any, expected: float) -> None:
    assert seconds_of(lambda: polling.wait_since_deferral(trigger, polling.DEFERRAL_GRACE)) == expected
    assert seconds_of(lambda: polling.refuse_arguments(trigger, ["new"])) == expected

    async def work() -> Mapping[str, Any]:
        return {}

    assert seconds_of(lambda: polling.run_until_deadline(trigger, work(), str)) == expected


@pytest.mark.usefixtures("_no_jitter")
@pytest.mark.parametrize(
    ("trigger", "times"),
    [
        (waiting(), [10, 70, 130, 190]),
        (waiting(poke_interval=4.0), [4, 8, 12, 16]),  # its sensor has polled just now
        (waiting(deferred=-30), [0, 60, 120, 180]),
        # exponential_backoff: each pause is as long as the wait so far, within the limits
        (waiting(max_poke_interval=600.0), [10, 70, 140, 280, 560, 1120, 1720, 2320]),
        (waiting(max_poke_interval=30.0), [10, 70, 130]),
        (waiting(max_poke_interval=600.0, deferred=-300), [0, 300, 900, 1500]),
    ],
)
def test_when_it_polls(monkeypatch: pytest.MonkeyPatch, trigger: Any, times: list[float]) -> None:
    polled: list[float] = []

    async def poll(client: Any) -> bool:
        polled.append(round(virtual_time.now() - START, 3))
        return len(polled) == len(times)

    async def with_client(connect: Any, work: Callable[[Any], Awaitable[None]]) -> None:
        await work(None)

    monkeypatch.setattr(polling, "with_current_credentials", with_client)
    virtual_time.run(polling.poll_until_done(trigger, poll))
    assert polled == times


class TestHowItEnds:
    """The event, and the second in which it comes."""

    async def end(self, work: Awaitable[Mapping[str, Any]], **times: Any) -> tuple[float, Any]:
        event = await polling.run_until_deadline(
            waiting(**times), work, lambda: "1 is open", lambda: {"records": ["some"]}
        )
        return round(virtual_time.now() - START, 3), event.payload

    async def work(self, seconds: float, error: Exception | None = None) -> Mapping[str, Any]:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return {"records": ["all"]}

    def test_finished(self) -> None:
        finished = {"version": 1, "outcome": "finished", "records": ["all"]}
        assert virtual_time.run(self.end(self.work(3))) == (10, finished)
        assert virtual_time.run(self.end(self.work(30))) == (30, finished)

    def test_failed(self) -> None:
        failed = {"version": 1, "outcome": "failed", "message": "no", "records": ["some"]}
        assert virtual_time.run(self.end(self.work(30, RtiSmsInputError("no")))) == (30, failed)

    def test_timeout(self) -> None:
        timeout = {"version": 1, "outcome": "timeout", "message": "1 is open", "records": ["some"]}
        assert virtual_time.run(self.end(self.work(30), deadline=20.0)) == (20, timeout)

    def test_a_timeout_of_the_execution(self) -> None:
        _, event = virtual_time.run(self.end(self.work(30), deadline=20.0, is_execution_timeout=True))
        assert (event["outcome"], event["cause"]) == ("timeout", "execution_timeout")

    @pytest.mark.parametrize(
        ("error", "shown"),
        [
            (KeyError("+56911111111"), "KeyError."),
            (TimeoutError("of a file"), "TimeoutError."),
            (AirflowNotFoundException("The conn_id `rtisms` isn't defined"), "The conn_id `rtisms` isn't defined."),
        ],
    )
    def test_an_error_that_nobody_expects_is_an_event_too(
        self, error: Exception, shown: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The triggerer would end the wait with a traceback; so the task hears what has happened."""
        seconds, event = virtual_time.run(self.end(self.work(30, error)))
        assert (seconds, event["outcome"], event["cause"]) == (30, "failed", "crash")
        assert event["message"] == f"The trigger met an error: {shown} Its log shows more."
        assert event["records"] == ["some"]
        assert type(error).__name__ in caplog.text


def test_a_trigger_of_another_version_says_what_to_do() -> None:
    payload = virtual_time.run(polling.refuse_arguments(waiting(), ["newer", "new"])).payload
    assert (payload["version"], payload["outcome"], payload["cause"]) == (1, "failed", "crash")
    assert "does not know (new, newer)" in payload["message"]
    assert "Install the same version" in payload["message"]
