"""Sending in a whole Airflow: a killed worker, a wait in the triggerer, alerts, and no leaks."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.notifications.rtisms import variable_name
from airflow_provider_rtisms.sandbox import Fault, Sandbox, SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.dag_run import DagRun
from tests.otlp import spans_in
from tests.statsd import StatsdListener
from tests.system.conftest import NUMBERS, ON_DUTY, TEXT

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the task state store is from Airflow 3.3 on"),
]


@pytest.fixture
def sandbox(sandbox_process: SandboxProcess) -> SandboxProcess:
    sandbox_process.reset(pending_for=0.2, sent_for=2, balance="1000")
    return sandbox_process


@pytest.fixture(autouse=True)
def _nothing_private_is_left(
    airflow: AirflowDeployment, statsd: StatsdListener, otlp: tuple[int, list[bytes]]
) -> Iterator[None]:
    """Search logs, which are at DEBUG, metrics, spans and the database for phone numbers and texts after each test."""
    yield
    private = [number.removeprefix("+") for number in (*NUMBERS, ON_DUTY)] + [TEXT]
    places = {"the database": stored_in(airflow), "metrics": "\n".join(statsd.all_lines()), **logs_of(airflow)}
    places["spans"] = b"".join(otlp[1]).decode("latin-1")
    assert [(place, one) for place, text in places.items() for one in private if one in text] == []


def stored_in(airflow: AirflowDeployment) -> str:
    """Return all rows of all tables of the database."""
    with closing(sqlite3.connect(airflow.home / "airflow.db")) as database:
        return "\n".join(database.iterdump())


def logs_of(airflow: AirflowDeployment) -> dict[str, str]:
    """Return all log files by name."""
    return {str(log): log.read_text(errors="replace") for log in (airflow.home / "logs").rglob("*.log")}


def received(sandbox: Sandbox) -> Counter[str]:
    return Counter(message.recipient for message in sandbox.state().messages)


def texts(sandbox: Sandbox) -> list[str]:
    return [message.text for message in sandbox.state().messages]


def task_of(run: DagRun) -> dict[str, Any]:
    (task,) = run.task_instances()
    return task


def clear(run: DagRun) -> None:
    """Clear the task ``send``, as a person does in the UI."""
    run.airflow.call(
        "POST",
        f"dags/{run.dag_id}/clearTaskInstances",
        json={"dry_run": False, "dag_run_id": run.run_id, "task_ids": ["send"], "only_failed": False},
    )


def log_of(run: DagRun, try_number: int) -> str:
    folder = run.airflow.home / "logs" / f"dag_id={run.dag_id}" / f"run_id={run.run_id}" / "task_id=send"
    return (folder / f"attempt={try_number}.log").read_text()


def check_metrics(
    sandbox: SandboxProcess, statsd: StatsdListener, before: Mapping[str, int], gauges_before: Mapping[str, list[float]]
) -> None:
    """
    Check that the metrics of a run of ``send_and_wait`` equal what the API has counted.

    The worker sends. Only the triggerer polls, since the event of a small wait brings the records.
    """
    state = sandbox.state()
    assert counted(statsd, before) == {
        "rtisms.messages.rtisms_default.submitted": len(state.messages),
        "rtisms.requests.rtisms_default.send_sms.2xx": state.requests["POST sms"],
        "rtisms.call_duration.rtisms_default.send_sms.success": 1,
        "rtisms.requests.rtisms_default.get_sms.2xx": state.count_responses(200, "GET sms"),
        "rtisms.requests.rtisms_default.get_sms.5xx": 2,
        "rtisms.call_duration.rtisms_default.get_sms.success": state.count_responses(200, "GET sms"),
        "rtisms.retries.rtisms_default.get_sms": 2,
        "rtisms.delivery_duration.rtisms_default": len(NUMBERS),
    }
    gauges = {name: values for name, values in statsd.gauges().items() if "waits_open.rtisms_default." in name}
    ((name, values),) = gauges.items()
    waits = values[len(gauges_before.get(name, ())) :]
    assert set(waits) == {0, 1}
    assert waits[-1] == 0


def counted(statsd: StatsdListener, before: Mapping[str, int]) -> Mapping[str, int]:
    """Return what was counted since, without the tokens and what the watch of the balance does all the time."""
    new = Counter(statsd.counts()) - Counter(before)
    return {name: count for name, count in new.items() if not re.search("authenticate|tokens|get_balance", name)}


def test_a_killed_worker_sends_to_nobody_twice(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    sandbox.set_faults(Fault("late_response", path="sms", method="POST", seconds=3))
    run = airflow.trigger("send_to_many")
    # The first request goes out alone; the window after it holds the other four.
    airflow.wait_until(lambda: len(received(sandbox)) == 50, what="the messages of all requests")
    os.kill(task_of(run)["pid"], signal.SIGKILL)
    sandbox.set_faults()

    assert run.finish() == "failed"
    assert task_of(run)["try_number"] == 2, "the task must be retried exactly once"
    to_all = received(sandbox)
    assert to_all.pop(ON_DUTY) == 1
    assert to_all == dict.fromkeys(NUMBERS, 1)
    outcomes = [submission["outcome"] for submission in run.xcom("send", key="submissions")]
    assert outcomes == ["submitted"] * 10 + ["uncertain"] * 40
    named = "40 uncertain: recipients[10] ***110, recipients[11] ***111"
    assert named in log_of(run, 2)

    # A person clears the task. Still, nobody gets a second message.
    clear(run)
    assert run.finish() == "failed"
    assert named in log_of(run, 3)
    assert received(sandbox) == {**dict.fromkeys(NUMBERS, 1), ON_DUTY: 2}

    # The person deletes the stored state of the task, to send to everybody once more.
    airflow.call("DELETE", f"dags/send_to_many/dagRuns/{run.run_id}/taskInstances/send/state-store")
    clear(run)
    assert run.finish() == "success"
    assert received(sandbox) == {**dict.fromkeys(NUMBERS, 2), ON_DUTY: 2}


def test_the_ledger_remembers_where_airflow_has_discarded_the_task_state(
    airflow: AirflowDeployment, sandbox: SandboxProcess
) -> None:
    """As a clear may do in a later Airflow."""
    run = airflow.trigger("send_with_ledger")
    assert run.finish() == "success"
    first = run.xcom("send")
    airflow.call("DELETE", f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/send/state-store")
    clear(run)
    assert run.finish() == "success"
    assert "the task state store holds no journal" in log_of(run, 2)
    assert run.xcom("send") == first
    assert received(sandbox) == dict.fromkeys(NUMBERS, 1)


def test_a_failing_dag_alerts(airflow: AirflowDeployment, sandbox: SandboxProcess, statsd: StatsdListener) -> None:
    """The callback of a DAG runs in the DAG processor; that of a task runs in the process of the task, as above."""
    before = statsd.counts()
    assert airflow.trigger("failing").finish() == "failed"
    airflow.wait_until(lambda: received(sandbox), what="the alert")
    (message,) = sandbox.state().messages
    assert (message.recipient, message.text) == (ON_DUTY, "failing failed")
    name = "rtisms.messages.rtisms_default.submitted"
    airflow.wait_until(lambda: counted(statsd, before).get(name) == 1, what="the metrics of the DAG processor")


def test_a_missed_deadline_alerts(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    """The callback of a deadline runs in the triggerer. The DAG gives it a template for the number."""
    airflow.trigger("hourly_load")
    airflow.wait_until(lambda: received(sandbox), what="the alert")
    (message,) = sandbox.state().messages
    assert (message.recipient, message.text) == (ON_DUTY, "hourly_load takes more than 30 minutes")


def test_missed_deadlines_share_an_sms_in_the_triggerer(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    name = variable_name("late")

    def states() -> list[dict[str, Any]]:
        listed = airflow.call("GET", "variables")["variables"]
        return [json.loads(one["value"]) for one in listed if one["key"] == name]

    airflow.trigger("late_in_triggerer")
    # What is counted before the SMS is recorded may be lost, as the page says.
    airflow.wait_until(lambda: any(state["is_sent"] for state in states()), what="the alert to be recorded")
    airflow.trigger("late_in_triggerer")
    airflow.wait_until(lambda: states()[0]["suppressed"] == 1, what="the second alert to be counted")
    assert texts(sandbox) == ["late_in_triggerer takes more than 30 minutes"]


def test_a_deadline_in_an_executor_alerts_without_a_limit(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    """Airflow refuses such a callback the Variables in its database."""
    for number in (1, 2):
        airflow.trigger("late_in_executor")
        airflow.wait_until(lambda sent=number: len(texts(sandbox)) == sent, what="the alert")
    assert "A callback in an executor cannot use Variables" in "".join(logs_of(airflow).values())


def test_a_task_that_waits_for_approval_sends_the_link(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    run = airflow.trigger("pay_invoices")
    airflow.wait_until(lambda: received(sandbox), what="the SMS")
    (text,) = texts(sandbox)
    path = f"dags/pay_invoices/runs/{run.run_id}/tasks/approve/required_actions?map_index=-1"
    assert text == f"{airflow.url}/{path} Pay the invoices?"
    details = f"dags/pay_invoices/dagRuns/{run.run_id}/taskInstances/approve/-1/hitlDetails"
    airflow.wait_until(lambda: run.count("awaiting_input") == 1, what="the task to wait")
    assert airflow.call("GET", details)["options"] == ["Approve", "Reject"]


def test_the_retry_policy_waits_as_long_as_the_server_asks(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    sandbox.set_faults(Fault("error", statuses=(429,), times=1, path="sms", retry_after=10))
    run = airflow.trigger("polite", params={"conn_id": "rtisms_once"})
    assert run.finish() == "success"
    attempts = airflow.call("GET", f"dags/polite/dagRuns/{run.run_id}/taskInstances/ask/tries")["task_instances"]
    ended, began = (datetime.fromisoformat(attempts[0]["end_date"]), datetime.fromisoformat(attempts[1]["start_date"]))
    assert [one["state"] for one in attempts] == ["failed", "success"]
    assert began - ended > timedelta(seconds=9)


def check_spans(airflow: AirflowDeployment, run: DagRun, bodies: list[bytes]) -> None:
    """Check that the worker's and the triggerer's spans of a run of ``send_and_wait`` hold ours."""

    def paths() -> Counter[str] | None:
        spans = spans_in(bodies)
        ours = {value.trace_id for value in spans.values() if run.run_id in str(value.attributes)}
        found: Counter[str] = Counter()
        for span in (one for one in spans.values() if one.trace_id in ours):
            names = [span.name]
            while (span := spans.get(span.parent_span_id)) is not None and not names[-1].startswith(
                ("worker", "trigger")
            ):
                names.append(span.name)
            found[" < ".join(names)] += 1
        return found if "rtisms.wait < trigger.send" in found else None

    found = airflow.wait_until(paths, what="the spans of the triggerer")
    assert found["POST /api/sms < rtisms.send < worker.send"] == 1
    assert found["POST /api/auth < POST /api/sms < rtisms.send < worker.send"] == 1
    assert found["rtisms.wait < trigger.send"] == 1
    assert found["GET /api/sms/{submissionId} < rtisms.wait < trigger.send"] >= len(NUMBERS)


def test_it_waits_in_the_triggerer_and_sends_once(
    airflow: AirflowDeployment, sandbox: SandboxProcess, statsd: StatsdListener, otlp: tuple[int, list[bytes]]
) -> None:
    before, gauges_before = statsd.counts(), statsd.gauges()
    sandbox.set_faults(Fault("error", statuses=(503,), times=2, path="sms", method="GET"))
    run = airflow.trigger("send_and_wait")
    states = [task["state"] for task in run.changes()]
    assert "deferred" in states
    assert run.state() == "success"
    assert received(sandbox) == dict.fromkeys(NUMBERS, 1)
    records = run.xcom("send")
    assert {record["status"] for record in records} == {"DELIVERED"}
    assert [record["submission_id"] for record in records] == [
        submission["submission_id"] for submission in run.xcom("send", key="submissions")
    ]
    # The search of _nothing_private_is_left has something to find.
    assert "redacted: " in stored_in(airflow)
    check_metrics(sandbox, statsd, before, gauges_before)
    check_spans(airflow, run, otlp[1])
    assert "submitted 42" in "".join(logs_of(airflow).values())


def test_an_async_task_uses_the_hook(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    """Its Connection is in the database, which only the supervisor of the task can ask."""
    run = airflow.trigger("async_task")
    assert run.finish() == "success"
    found = run.xcom("fetch")
    assert found == {"gathered": ["DELIVERED"] * 2, "blocking": ["DELIVERED", "1000", "1000", "DELIVERED", "submitted"]}


def test_the_example_alerts_where_a_message_did_not_arrive(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    run = airflow.trigger("example_rtisms_send_and_wait")
    assert run.finish() == "success"
    states = {task["task_id"]: task["state"] for task in run.task_instances()}
    assert states == {"send": "success", "judge": "success", "all_arrived": "skipped", "some_did_not": "success"}
    airflow.wait_until(lambda: len(texts(sandbox)) == 3, what="the alert, which follows the success")
    assert received(sandbox) == {"+56900000000": 1, "+56900000002": 1, "+56900000100": 1}
    assert sandbox.state().messages[-1].text == f"Not all SMS of {run.run_id} arrived"


@pytest.mark.slow
def test_a_fall_of_the_balance_starts_a_run_once(airflow: AirflowDeployment, watched_sandbox: SandboxProcess) -> None:
    def runs() -> list[dict[str, Any]]:
        return list(airflow.call("GET", "dags/top_up/dagRuns")["dag_runs"])

    def polls() -> int:
        return watched_sandbox.state().requests.get("GET balance", 0)

    airflow.wait_until(polls, what="the first poll")
    assert runs() == []
    watched_sandbox.set_balance("99.50")
    (started,) = airflow.wait_until(runs, what="a run of top_up")
    run = DagRun(airflow, "top_up", started["dag_run_id"])
    assert run.finish() == "success"
    assert run.xcom("top_up") == ["99.50"]
    airflow.kill("triggerer")
    airflow.start("triggerer")
    before = polls()
    airflow.wait_until(lambda: polls() > before + 3, what="polls after a restart")
    assert len(runs()) == 1
