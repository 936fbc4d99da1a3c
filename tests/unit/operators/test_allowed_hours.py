"""A send that reaches the end of its hours: what leaves, where the task waits, and what goes on the next day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_rtisms.api.errors import RtiSmsTransientError
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from tests.unit.attempts import Pushes
from tests.unit.operators.test_send_messages import Context, each_once, people, received, send
from tests.unit.sqlite_file import SqliteFile

NOON, EVENING = datetime(2026, 6, 1, 12, tzinfo=UTC), datetime(2026, 6, 1, 20, tzinfo=UTC)
MORNING = datetime(2026, 6, 2, 9, tzinfo=UTC)
HOURS: dict[str, Any] = {"allowed_hours": ("09:00", "20:00"), "timezone": "UTC"}


class Clock:
    """It is noon until the server has got some requests, then evening, and after some looks noon of the next day."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.evening_after = 0
        self.looks_at_evening = 10**9
        self._looks = 0

    def __call__(self) -> datetime:
        requests = self._sandbox.state().requests.get("POST sms", 0)
        if requests < self.evening_after or self._looks >= self.looks_at_evening:
            return NOON
        self._looks += 1
        return EVENING


@pytest.fixture
def clock(rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(rtisms_sandbox)
    monkeypatch.setattr("airflow_provider_rtisms.sending.hours.utc_now", clock)
    monkeypatch.setattr("airflow_provider_rtisms.sending.hours.SLICE", 0.01)
    return clock


def resume(deferral: TaskDeferred, context: Context, *arguments: Any, **options: Any) -> Any:
    """Go on after a deferral, in another process: with another operator."""
    operator = send(*arguments, **options)
    return operator.resume_execution(deferral.method_name, {"event": None, **(deferral.kwargs or {})}, context)


@pytest.mark.parametrize("context", [{}, {"ti": Pushes()}])
def test_outside_nothing_leaves_and_a_deferrable_task_waits_in_the_triggerer(
    rtisms_sandbox: Sandbox, clock: Clock, context: Context
) -> None:
    """With a journal and without."""
    with pytest.raises(TaskDeferred) as caught:
        send(people(3), deferrable=True, **HOURS).execute(context)
    path, kwargs = caught.value.trigger.serialize()
    assert path.endswith(".temporal.DateTimeTrigger")
    wait = kwargs["moment"] - datetime.now(UTC)
    assert abs(wait.total_seconds() - (MORNING - EVENING).total_seconds()) < 120
    assert rtisms_sandbox.state().requests == {}
    clock.evening_after = 10
    assert len(resume(caught.value, context, people(3), deferrable=True, **HOURS)) == 3
    assert received(rtisms_sandbox) == each_once(3)


def test_the_end_of_the_hours_ends_a_send_and_the_next_day_goes_on(
    rtisms_sandbox: Sandbox, context: Context, clock: Clock, logged: Callable[[], str]
) -> None:
    clock.evening_after = 40
    with pytest.raises(TaskDeferred) as caught:
        send(people(200), deferrable=True, **HOURS).execute(context)
    deferral = caught.value
    sent = rtisms_sandbox.state().requests["POST sms"]
    assert 40 <= sent <= 40 + 32, "requests that were under way"
    outcomes = Counter(one["outcome"] for one in context["ti"].pushed["submissions"])
    assert outcomes == {"submitted": sent, "not_sent": 200 - sent}
    assert f"Left: {200 - sent} messages" in logged()
    with pytest.raises(TaskDeferred):  # still evening
        resume(deferral, context, people(200), deferrable=True, **HOURS)
    assert rtisms_sandbox.state().requests["POST sms"] == sent
    clock.evening_after = 10**9
    results = resume(deferral, context, people(200), deferrable=True, **HOURS)
    assert {one["outcome"] for one in results} == {"submitted"}
    assert received(rtisms_sandbox) == each_once(200)


def test_another_task_with_a_journal_is_rescheduled(rtisms_sandbox: Sandbox, context: Context, clock: Clock) -> None:
    clock.evening_after = 1
    with pytest.raises(AirflowRescheduleException) as caught:
        send(people(60), **HOURS).execute(context)
    assert caught.value.reschedule_date == MORNING
    clock.evening_after = 10**9
    send(people(60), **HOURS).execute(context)
    assert received(rtisms_sandbox) == each_once(60)


@pytest.mark.parametrize("deferrable", [False, True])
def test_what_nothing_remembers_waits_in_the_worker(
    rtisms_sandbox: Sandbox, clock: Clock, deferrable: bool, logged: Callable[[], str]
) -> None:
    """Without a journal, another process would send again what this one has sent."""
    clock.evening_after, clock.looks_at_evening = 20, 40
    results = send(people(100), deferrable=deferrable, **HOURS).execute({"ti": Pushes()})
    assert {one["outcome"] for one in results} == {"submitted"}
    assert received(rtisms_sandbox) == each_once(100)
    assert "waits in this process" in logged()


@pytest.fixture
def list_of_the_night(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two states of a list of excluded numbers, the second from the evening on; and its path."""
    path = tmp_path / "said_no.csv"
    path.write_text("phone\n+56911111111\n")
    found = {"path": str(path), "second": ""}

    def look() -> datetime:
        if (moment := clock()) == EVENING:
            path.write_text(found["second"])
        return moment

    clock.evening_after, clock.looks_at_evening = 1, 40
    monkeypatch.setattr("airflow_provider_rtisms.sending.hours.utc_now", look)
    return found


def test_who_says_no_in_the_night_gets_nothing_in_the_morning(
    rtisms_sandbox: Sandbox, list_of_the_night: dict[str, str]
) -> None:
    """The task stays in its worker, and reads the list again."""
    numbers = [one["recipient"] for one in people(100)]
    list_of_the_night["second"] = "\n".join(["phone", numbers[0], *numbers[-3:]])
    results = send(people(100), exclude_path=list_of_the_night["path"], **HOURS).execute({"ti": Pushes()})
    assert [one["outcome"] for one in results] == ["submitted"] * 97 + ["excluded"] * 3
    assert received(rtisms_sandbox) == each_once(97)


def test_a_list_that_is_empty_in_the_morning_ends_the_send(
    rtisms_sandbox: Sandbox, list_of_the_night: dict[str, str]
) -> None:
    list_of_the_night["second"] = "phone\n"
    with pytest.raises(AirflowFailException, match=r"exclude_path has no numbers.*1 submitted.*not retried"):
        send(people(100), exclude_path=list_of_the_night["path"], **HOURS).execute({"ti": Pushes()})
    assert sum(received(rtisms_sandbox).values()) < 97


def test_a_signal_ends_the_wait_in_the_worker(
    rtisms_sandbox: Sandbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``execution_timeout`` and SIGTERM raise in the main thread."""
    moments = iter([EVENING] * 6)

    def stop() -> datetime:
        if (moment := next(moments, None)) is None:
            raise KeyboardInterrupt
        return moment

    monkeypatch.setattr("airflow_provider_rtisms.sending.hours.utc_now", stop)
    with pytest.raises(KeyboardInterrupt):
        send(people(3), **HOURS).execute({})
    assert rtisms_sandbox.state().requests == {}


def test_a_task_fails_if_asked_to(rtisms_sandbox: Sandbox, context: Context, clock: Clock) -> None:
    for deferrable in (False, True):
        with pytest.raises(RtiSmsTransientError, match=r"09:00 to 20:00 \(UTC\).*Of 3 messages: 3 not sent"):
            send(people(3), outside_hours="fail", deferrable=deferrable, **HOURS).execute(context)
    assert rtisms_sandbox.state().requests == {}
    clock.evening_after = 1
    with pytest.raises(AirflowFailException, match="retry sends all"):  # without a journal
        send(people(60), outside_hours="fail", **HOURS).execute({})


@pytest.mark.usefixtures("quick_retries")
def test_a_repetition_does_not_leave_at_night(rtisms_sandbox: Sandbox, context: Context, clock: Clock) -> None:
    """The server refuses the first request, and the client repeats it: in the evening no more."""
    clock.evening_after = 1
    rtisms_sandbox.set_faults(Fault("error", path="sms", statuses=(429,)))
    with pytest.raises(TaskDeferred):
        send(people(1), deferrable=True, **HOURS).execute(context)
    assert rtisms_sandbox.state().requests["POST sms"] == 1


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteFile:
    return SqliteFile(tmp_path / "results.db", "shop", monkeypatch)


TABLE: dict[str, Any] = {"results_table": "sent", "results_conn_id": "shop", "create_table": True, "deferrable": True}


def test_rows_of_a_ledger_follow(context: Context, clock: Clock, database: SqliteFile) -> None:
    counted = "SELECT outcome, count(*) FROM sent GROUP BY outcome ORDER BY outcome"
    clock.evening_after = 1
    with pytest.raises(TaskDeferred):
        send(people(3), **HOURS, **TABLE).execute(context)
    assert database.rows(counted) == [("not_sent", 2), ("submitted", 1)]
    clock.evening_after = 10
    send(people(3), **HOURS, **TABLE).execute(context)
    assert database.rows(counted) == [("submitted", 3)]


@pytest.mark.parametrize("has_journal", [True, False])
def test_a_ledger_has_one_row_for_a_recipient_whose_send_has_begun_at_night(
    rtisms_sandbox: Sandbox, context: Context, clock: Clock, database: SqliteFile, has_journal: bool
) -> None:
    """Without a reference, too: nothing has been sent when the task defers."""
    what = {"recipients": [one["recipient"] for one in people(3)], "text": "hola", **TABLE, **HOURS}
    if not has_journal:
        context = {"ti": context["ti"]}
    with pytest.raises(TaskDeferred) as caught:
        send(**what).execute(context)
    clock.evening_after = 10
    resume(caught.value, context, **what)
    assert database.rows("SELECT outcome FROM sent") == [("submitted",)] * 3
    assert sum(received(rtisms_sandbox).values()) == 3
