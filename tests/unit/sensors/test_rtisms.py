"""The delivery sensor called as a plain object; tests/system runs it in DAGs."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
    timeout,
)

from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor, RtiSmsDeliverySensor
from tests.hostile import details, hang, response
from tests.open_submissions import final_after_first_poll
from tests.patience import PATIENCE, with_more_time
from tests.unit.conftest import Serve

pytestmark = pytest.mark.usefixtures("quick_retries")

FLAGS = ("soft_fail", "never_fail")


def new_sensor(submission_ids: Any = "1", **arguments: Any) -> RtiSmsDeliverySensor:
    defaults = {"task_id": "wait", "poke_interval": 0.05, "timeout": PATIENCE, "missing_ok_for": 0}
    return RtiSmsDeliverySensor(submission_ids=submission_ids, **{**defaults, **arguments})


def test_it_returns_the_records_in_order_and_polls_what_is_final_once(rtisms_sandbox: Sandbox) -> None:
    done = rtisms_sandbox.add_submission(pending_for=0, sent_for=0)
    with final_after_first_poll(rtisms_sandbox) as later:
        records = new_sensor([done, later]).execute({})
    assert [(record["submission_id"], record["status"]) for record in records] == [
        (done, "DELIVERED"),
        (later, "DELIVERED"),
    ]
    state = rtisms_sandbox.state()
    assert (state.requests_by_id[done], state.tokens_issued) == (1, 1)


def test_nothing_to_wait_for_is_done(serve_default: Serve) -> None:
    server = serve_default(details())
    assert new_sensor([]).execute({}) == []
    assert server.requests == []


def test_an_unknown_id_fails_it_after_the_grace(serve_default: Serve) -> None:
    server = serve_default(response(status=404))
    with pytest.raises(AirflowFailException, match=r"404.*77"):
        new_sensor("77").execute({})
    assert len(server.calls) == 1


def test_a_try_after_a_failure_begins_anew(serve_default: Serve) -> None:
    serve_default(details("REJECTED"), details())
    sensor = new_sensor()
    with pytest.raises(AirflowFailException, match="1 REJECTED"):
        sensor.execute({})
    assert len(sensor.execute({})) == 1


def test_a_task_timeout_ends_a_poke_that_hangs(serve_default: Serve) -> None:
    server = serve_default(hang)

    def attempt(seconds: float) -> None:
        with pytest.raises(AirflowTaskTimeout), timeout(math.ceil(seconds)):
            new_sensor().execute({})

    with_more_time(attempt, was_enough=lambda _: server.calls)
    assert len(server.calls) == 1


@pytest.mark.parametrize("ids", ["", 1.0, True, None, ["1", None], "[1, 2", {"id": "1"}, "1/../2"])
@pytest.mark.parametrize("deferrable", [False, True])
def test_bad_ids_never_leave_the_machine(serve_default: Serve, ids: Any, deferrable: bool) -> None:
    server = serve_default(details())
    with pytest.raises(AirflowFailException, match="submission_ids"):
        new_sensor(ids, deferrable=deferrable).execute({})
    assert server.connections == 0


@pytest.mark.parametrize(
    "ids", [["1", 2, "1"], '["1", 2]', "['1', '2']", ("1", "2"), [{"submission_id": "1"}, {"submission_id": 2}]]
)
def test_ids_come_in_many_forms_and_are_asked_once(serve_default: Serve, ids: Any) -> None:
    server = serve_default(details())
    assert [record["submission_id"] for record in new_sensor(ids).execute({})] == ["1", "2"]
    assert sorted(request.target for request in server.calls) == ["/api/sms/1", "/api/sms/2"]


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("status", "flag", "error"),
    [
        *((status, {}, AirflowFailException) for status in ("REJECTED", "UNDELIVERED", "EXPIRED")),
        *(("REJECTED", {flag: True}, AirflowSkipException) for flag in FLAGS),
    ],
)
def test_a_status_of_fail_on_ends_the_first_poll(
    serve_default: Serve, deferrable: bool, status: str, flag: dict[str, bool], error: type[Exception]
) -> None:
    serve_default(details(status))
    with pytest.raises(error, match=rf"4193366853543393 {status}|^Skipping due to \w+_fail"):
        new_sensor("4193366853543393", deferrable=deferrable, **flag).execute({})


def resume(kind: type[Any], method: str, kwargs: Any, **flag: bool) -> None:
    wait: dict[str, Any] = {"minimum": 1} if kind is RtiSmsBalanceSensor else {"submission_ids": "1"}
    kind(task_id="wait", deferrable=True, **wait, **flag).resume_execution(method, kwargs, {})


@pytest.mark.parametrize("kind", [RtiSmsDeliverySensor, RtiSmsBalanceSensor])
class TestResuming:
    @pytest.mark.parametrize(
        ("outcome", "flag", "error"),
        [
            ("failed", {}, AirflowFailException),
            ("timeout", {}, AirflowSensorTimeout),
            *((one, {flag: True}, AirflowSkipException) for one in ("failed", "timeout") for flag in FLAGS),
        ],
    )
    def test_an_event_of_failure_ends_the_task(
        self, kind: type[Any], outcome: str, flag: dict[str, bool], error: type[Exception]
    ) -> None:
        event = {"version": 1, "outcome": outcome, "message": "1 is open"}
        with pytest.raises(error, match="1 is open") as caught:
            resume(kind, "execute_complete", {"event": event}, **flag)
        assert type(caught.value) is error

    @pytest.mark.parametrize(
        ("method", "kwargs"),
        [
            ("__fail__", {"error": "Trigger failure", "traceback": ["KeyError: 'it crashed'"]}),
            ("__fail__", None),
            ("execute_complete", {"event": {"version": 1, "outcome": "failed", "message": "why", "cause": "crash"}}),
            ("execute_complete", {"event": {"version": 1, "outcome": "failed", "message": "why", "cause": "new"}}),
            ("execute_complete", {"event": {"version": 2, "outcome": "timeout", "message": "why"}}),
            ("execute_complete", {"event": {"version": 1, "outcome": "finished", "records": [{}], "balance": 7}}),
            ("execute_complete", {"event": {"outcome": "else"}}),
            ("execute_complete", {"event": None}),
        ],
    )
    def test_a_crash_is_no_skip(self, kind: type[Any], method: str, kwargs: Any) -> None:
        """The sensor has not seen what it waits for. Airflow may retry it."""
        with pytest.raises(AirflowException) as caught:
            resume(kind, method, kwargs, soft_fail=True)
        assert not isinstance(caught.value, AirflowSkipException | AirflowFailException | AirflowSensorTimeout)
        with pytest.raises(AirflowSkipException):
            resume(kind, method, kwargs, never_fail=True)


class TestDeferral:
    def test_what_is_final_at_once_is_not_deferred(self, serve_default: Serve) -> None:
        serve_default(details())
        assert len(new_sensor(deferrable=True).execute({})) == 1

    def test_an_argument_that_only_the_trigger_refuses_fails_it_without_retries(
        self, serve_default: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serve_default(details("SENT"))
        monkeypatch.setenv("AIRFLOW_CONN_ ", os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"])
        with pytest.raises(AirflowFailException, match="rtisms_conn_id is a str of 1 characters"):
            new_sensor(deferrable=True, rtisms_conn_id=" ").execute({})

    @pytest.mark.parametrize(
        ("arguments", "longest"),
        [({}, None), ({"exponential_backoff": True}, 30), ({"exponential_backoff": True, "max_wait": 12}, 12)],
    )
    def test_hands_over_how_its_pauses_grow(
        self, serve_default: Serve, arguments: dict[str, Any], longest: float | None
    ) -> None:
        serve_default(details("SENT"))
        with pytest.raises(TaskDeferred) as deferred:
            new_sensor(deferrable=True, timeout=30, **arguments).execute({})
        assert deferred.value.trigger.max_poke_interval == longest


def test_records_without_an_id_are_left_out(serve_default: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A send returns them for recipients that were refused or skipped."""
    caplog.set_level("INFO")
    serve_default(details())
    sent = [
        {"outcome": "submitted", "status": "submitted", "submission_id": "1"},
        {"outcome": "refused", "status": "account_no_balance", "submission_id": None},
    ]
    assert [record["submission_id"] for record in new_sensor(sent).execute({})] == ["1"]
    assert "1 record of submission_ids without a submission id" in caplog.text
    assert new_sensor(sent[1:]).execute({}) == []
    assert "nothing to wait for" in caplog.text
