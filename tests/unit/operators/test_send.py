"""The send operator by itself: attempts of one task, with and without a store that outlives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_rtisms.api.errors import RtiSmsNotAcceptedError, RtiSmsRateLimitError
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.operators.send import AirflowTaskTerminated
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from tests.unit.attempts import Pushes, TaskStore
from tests.unit.sqlite_file import SqliteFile

NUMBERS = [f"+569000001{position:02}" for position in range(4)]


def send(**arguments: Any) -> RtiSmsSendOperator:
    defaults = {"recipients": NUMBERS, "text": "hola {€}", "sender": "96000", "chunk_size": 2}
    return RtiSmsSendOperator(task_id="send", **{**defaults, **arguments})


def received(sandbox: Sandbox) -> list[str]:
    return [message.recipient for message in sandbox.state().messages if message.status == "submitted"]


def test_it_works_by_itself(rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
    submissions = send(recipients="+56 9 0000-0100").execute({})
    message = rtisms_sandbox.state().messages[0]
    assert submissions == [{"outcome": "submitted", "status": "submitted", "submission_id": message.submission_id}]
    assert (message.recipient, message.text, message.charset) == ("+56900000100", "hola {€}", 1)
    assert "1 message, 1 part (GSM 7-bit)" in logged()


def test_an_attempt_says_that_the_state_of_the_task_is_gone(
    rtisms_sandbox: Sandbox, context: dict[str, Any], logged: Callable[[], str]
) -> None:
    """Airflow may discard it where a task is cleared."""
    for attempt in (1, 2):
        context["ti"].try_number = attempt
        send().execute(context)
    assert "holds no journal" not in logged()
    context["task_state_store"].clear()
    send().execute(context)
    assert "This is attempt 2 of the task, and the task state store holds no journal." in logged()
    assert received(rtisms_sandbox) == NUMBERS * 2


def test_a_partial_failure_pushes_what_went_out(rtisms_sandbox: Sandbox, context: dict[str, Any]) -> None:
    with pytest.raises(AirflowFailException, match="no balance"):
        send(recipients=["+56900000005", *NUMBERS]).execute(context)
    statuses = [submission["status"] for submission in context["ti"].pushed["submissions"]]
    assert statuses == ["account_no_balance", *["submitted"] * 4]
    assert received(rtisms_sandbox) == NUMBERS


def test_do_xcom_push_is_respected(rtisms_sandbox: Sandbox, context: dict[str, Any]) -> None:
    send(do_xcom_push=False).execute(context)
    assert context["ti"].pushed == {}


def pass_the_threshold(sandbox: Sandbox) -> None:
    """Let one request through, then none."""
    sandbox.set_faults(Fault("rate_limit", path="sms", per_second=0.001))


@pytest.fixture
def impatient(rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox whose Connection attempts each call once, and whose 429s count at once."""
    monkeypatch.setattr("airflow_provider_rtisms.api.aio.PATIENCE", -1.0)
    connection = json.loads(rtisms_sandbox.connection_json())
    connection["extra"] = {"max_attempts": 1}
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps(connection))
    return rtisms_sandbox


class TestWithAJournal:
    def test_a_transient_failure_is_left_to_a_task_retry(self, impatient: Sandbox, context: dict[str, Any]) -> None:
        pass_the_threshold(impatient)
        with pytest.raises(RtiSmsRateLimitError, match="2 submitted"):
            send().execute(context)
        impatient.set_faults()
        send().execute(context)
        assert received(impatient) == NUMBERS

    def test_unknown_errors_that_last_are_left_to_a_task_retry(
        self, rtisms_sandbox: Sandbox, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_provider_rtisms.sending.outbox.MAX_ROUNDS", 1)
        recipients = ["+56900000007", *NUMBERS]
        for _ in range(2):
            with pytest.raises(RtiSmsNotAcceptedError):
                send(recipients=recipients).execute(context)
        send(recipients=recipients).execute(context)
        assert sorted(received(rtisms_sandbox)) == sorted(recipients)

    def test_a_lost_response_fails_for_good(self, rtisms_sandbox: Sandbox, context: dict[str, Any]) -> None:
        rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
        for _ in range(2):
            with pytest.raises(AirflowFailException, match=r"2 uncertain: recipients\[0\] \*\*\*100"):
                send().execute(context)
        outcomes = [submission["outcome"] for submission in context["ti"].pushed["submissions"]]
        assert outcomes == ["uncertain", "uncertain", "submitted", "submitted"]
        assert received(rtisms_sandbox) == NUMBERS


class LostStore(TaskStore):
    """The store of an attempt that Airflow has given up: from some write on it refuses."""

    writes_left = 2

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise ConnectionError("409: the task instance is not running")
        super().set(key, value)


@pytest.mark.parametrize("writes", [1, 2, 3, 4])
def test_an_attempt_that_airflow_has_given_up_pushes_nothing(
    rtisms_sandbox: Sandbox, context: dict[str, Any], writes: int, logged: Callable[[], str]
) -> None:
    """Another attempt runs already, and its XCom must stay."""
    store = context["task_state_store"] = LostStore()
    store.writes_left = writes
    with pytest.raises(ConnectionError):
        send().execute(context)
    assert context["ti"].pushed == {}
    assert "This attempt keeps no results" in logged()
    sent = len(received(rtisms_sandbox))
    store.writes_left = 1000
    with suppress(AirflowFailException):
        send().execute(context)
    assert len(received(rtisms_sandbox)) == len(set(received(rtisms_sandbox))) >= sent


def test_certificates_that_are_missing_are_found_before_the_journal(
    context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"conn_type": "rtisms", "login": "me", "password": "s3cret", "host": "https://api.example"}
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps(fields))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing.pem")
    with pytest.raises(AirflowFailException, match="REQUESTS_CA_BUNDLE"):
        send().execute(context)
    assert context["task_state_store"] == {}


class TestWithoutAJournal:
    @pytest.mark.parametrize("again", ["all messages", "the messages that results_table does not have"])
    def test_a_transient_failure_after_a_send_is_never_retried(
        self, impatient: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
    ) -> None:
        SqliteFile(tmp_path / "shop.db", "shop", monkeypatch)
        table = {"results_table": "ledger", "results_conn_id": "shop", "create_table": True}
        pass_the_threshold(impatient)
        reason = rf"2 submitted: .*[^.]\. The task is not retried, since a retry sends {again} again\."
        with pytest.raises(AirflowFailException, match=reason):
            send(**({} if again == "all messages" else table)).execute({"ti": Pushes()})

    def test_a_transient_failure_before_any_send_may_be(self, impatient: Sandbox) -> None:
        impatient.set_faults(Fault("error", path="sms", statuses=(429,)))
        with pytest.raises(RtiSmsRateLimitError):
            send().execute({})

    @pytest.mark.parametrize("error", [AirflowTaskTimeout, AirflowTaskTerminated])
    def test_a_task_timeout_and_a_sigterm_within_a_send_are_never_retried(
        self, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
    ) -> None:
        """Airflow 2 raises AirflowTaskTerminated, a BaseException, from its signal handler."""

        def end(*_: Any) -> None:
            raise error

        monkeypatch.setattr("airflow_provider_rtisms.sending.journal.SendJournal.commit", end)
        with pytest.raises(AirflowFailException, match=rf"^{error.__name__}\. The task is not retried"):
            send().execute({})

    @pytest.mark.parametrize("has_journal", [True, False])
    def test_a_trigger_that_crashed_is_left_to_a_task_retry_if_there_is_a_journal(
        self, context: dict[str, Any], has_journal: bool
    ) -> None:
        with pytest.raises(Exception, match="the triggerer fell over" if has_journal else "not retried") as caught:
            send().resume_execution("__fail__", {"error": "the triggerer fell over"}, context if has_journal else {})
        assert isinstance(caught.value, AirflowFailException) is not has_journal


class TestWaiting:
    def test_it_defers_with_ids_alone_and_sends_nothing_when_it_resumes(self, rtisms_sandbox: Sandbox) -> None:
        operator = send(wait_for_delivery=True, deferrable=True, poke_interval=7, timeout=70)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute({})
        _, kwargs = deferred.value.trigger.serialize()
        ids = [message.submission_id for message in rtisms_sandbox.state().messages]
        assert (kwargs["submission_ids"], kwargs["poke_interval"]) == (ids, 7)
        assert deferred.value.timeout == timedelta(seconds=70)
        shown = repr(deferred.value.trigger) + repr(kwargs) + repr(deferred.value.kwargs)
        assert not any(number.removeprefix("+") in shown for number in NUMBERS)
        assert "hola" not in shown

        records = [SmsDetails(one, "DELIVERED").to_record() for one in ids]
        event = {"outcome": "finished", "records": records}
        records = send(wait_for_delivery=True).resume_execution(deferred.value.method_name, {"event": event}, {})
        assert [record["submission_id"] for record in records] == ids
        assert received(rtisms_sandbox) == NUMBERS

    @pytest.mark.parametrize(
        ("outcome", "error"), [("failed", AirflowFailException), ("timeout", AirflowSensorTimeout)]
    )
    def test_an_event_may_end_the_task_with_an_error(self, outcome: str, error: type[Exception]) -> None:
        event = {"version": 1, "outcome": outcome, "message": "1 is open"}
        with pytest.raises(error, match=r"^1 is open$"):
            send().resume_execution("execute_complete", {"event": event}, {})
