"""The worker's side of a wait, with a clock of the test: when it polls, what it hands over, what it pushes."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

from airflow_provider_rtisms import waiting
from airflow_provider_rtisms.api.errors import RtiSmsServerError
from airflow_provider_rtisms.sensors import rtisms as sensors
from airflow_provider_rtisms.sensors.rtisms import DeliveryPolling
from tests.hostile import Step, details, response
from tests.unit.attempts import Pushes
from tests.unit.conftest import Serve


class Clock:
    """Stands for the module ``time``, and goes on only while someone sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sensors, "time", clock)
    return clock


def new_polling(*ids: str, **arguments: Any) -> DeliveryPolling:
    return DeliveryPolling(
        **{
            "rtisms_conn_id": "rtisms_default",
            "submission_ids": ids,
            "fail_on": ["EXPIRED"],
            "missing_ok_for": 0,
            **arguments,
        }
    )


@pytest.mark.parametrize(("timeout", "polls"), [(9.9, 1), (29.9, 3), (30, 4), (35, 4)])
def test_it_polls_as_long_as_the_next_poll_comes_within_the_timeout(
    serve_default: Serve, clock: Clock, timeout: float, polls: int
) -> None:
    server = serve_default(details("SENT"))
    with pytest.raises(AirflowSensorTimeout, match="1 SENT"):
        new_polling("7").poll_until_final(10, timeout)
    assert (len(server.calls), clock.sleeps) == (polls, [10] * (polls - 1))


def test_it_hands_over_all_that_the_trigger_needs(clock: Clock) -> None:
    polling = new_polling("1", missing_ok_for=timedelta(minutes=1), started=500.0, min_delivered=1)
    handed = polling.deferral(7, 100, 50)
    _, arguments = handed.pop("trigger").serialize()
    assert handed == {"method_name": "execute_complete", "timeout": timedelta(seconds=100)}
    assert arguments == {
        "rtisms_conn_id": "rtisms_default",
        "submission_ids": ["1"],
        "poke_interval": 7,
        "deadline": 595.0,
        "missing_until": 560.0,
        "fail_on": ["EXPIRED"],
        "finished": [],
        "max_poke_interval": 50,
        "deferred_at": 1000.0,
        "with_records": True,
        "with_ids": False,
        "quota": {"needed": 1, "total": 1, "delivered": 0},
    }


@pytest.mark.parametrize(("most", "ids", "finished"), [(2, ["1", "2"], ["1"]), (1, ["2"], [])])
def test_a_large_wait_hands_over_what_is_open_and_no_records(
    serve_default: Serve, monkeypatch: pytest.MonkeyPatch, most: int, ids: list[str], finished: list[str]
) -> None:
    monkeypatch.setattr(waiting, "MAX_RECORDS_IN_DATABASE", most)
    serve_default(details("SENT"))
    record = {"submission_id": "1", "status": "DELIVERED"}
    polling = new_polling("1", "2", finished=[record])
    assert not polling.poll()
    trigger = polling.deferral(7, 20)["trigger"]
    assert trigger.submission_ids == ids
    assert [one["submission_id"] for one in trigger.finished] == finished
    assert trigger.with_records is bool(finished)


@pytest.mark.parametrize(("most", "do_xcom_push", "is_pushed"), [(2, True, True), (1, True, False), (2, False, False)])
def test_a_failed_wait_pushes_its_records_unless_they_are_too_many_or_unwanted(
    serve_default: Serve, monkeypatch: pytest.MonkeyPatch, most: int, do_xcom_push: bool, is_pushed: bool
) -> None:
    monkeypatch.setattr(waiting, "MAX_RECORDS_IN_DATABASE", most)
    serve_default(details("EXPIRED"))
    polling = new_polling("1", "2")
    with pytest.raises(AirflowFailException):
        polling.poll()
    context: Any = {"ti": Pushes(), "task": SimpleNamespace(do_xcom_push=do_xcom_push)}
    polling.push_records(context)
    assert [one["submission_id"] for one in context["ti"].pushed.get("records", [])] == ["1", "2"] * is_pushed


@pytest.mark.parametrize(
    ("step", "error", "named"),
    [
        (response(status=503), RtiSmsServerError, "HTTP 503"),
        (details("SENT"), AirflowException, "A submission that was final is open again: .*1 SENT"),
    ],
)
def test_a_large_wait_whose_records_cannot_be_fetched_at_the_end_fails(
    serve_default: Serve, step: Step, error: type[Exception], named: str
) -> None:
    serve_default(step, extra={"max_attempts": 1})
    with pytest.raises(error, match=named):
        new_polling("1").complete({"version": 1, "outcome": "finished", "records": [], "submission_ids": ["1"]})
