"""The operator and the sensor in DAGs that Airflow itself runs, against the sandbox."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSensorTimeout, AirflowTaskTimeout, Asset, task
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.operators.rtisms import (
    RtiSmsBulkGetDetailsOperator,
    RtiSmsGetDetailsOperator,
    RtiSmsSendOperator,
)
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor, RtiSmsDeliverySensor
from tests.open_submissions import final_after_first_poll
from tests.patience import PATIENCE, with_more_time
from tests.system.conftest import HAS_ERRORS, FinishedRun, RunDag, load_dag

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "example_dags"
START = datetime(2026, 1, 1, tzinfo=UTC)
MODES: dict[str, dict[str, Any]] = {
    "deferrable": {"deferrable": True},
    "reschedule": {"mode": "reschedule"},
    "poke": {"mode": "poke"},
}


@pytest.fixture
def wait(run_dag: RunDag, request: pytest.FixtureRequest) -> Any:
    def wait(**arguments: Any) -> FinishedRun:
        if arguments.get("mode") == "reschedule" and AIRFLOW_V_3_0_PLUS and not AIRFLOW_V_3_1_PLUS:
            pytest.skip("dag.test of Airflow 3.0 passes the first reschedule to sensors as text, and they fail on it")
        dag_id = "".join(c if c.isalnum() else "_" for c in request.node.name)
        with DAG(dag_id, schedule=None, start_date=START) as dag:
            RtiSmsDeliverySensor(**{"task_id": "wait", "poke_interval": 0.2, "timeout": PATIENCE, **arguments})
        return run_dag(dag, xcoms=("records",))

    return wait


def test_details_reach_xcom(run_dag: RunDag, rtisms_sandbox: Sandbox) -> None:
    submission_id = rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0)
    with DAG("details", schedule=None, start_date=START) as dag:
        RtiSmsGetDetailsOperator(task_id="get", submission_id=submission_id)
    record = run_dag(dag).xcom("get")
    assert record["submission_id"] == submission_id
    assert record["status"] == "DELIVERED"
    assert record["done_at"].endswith("+00:00")


@pytest.mark.parametrize("mode", MODES)
def test_wait_returns_the_records_in_order_and_polls_final_ones_once(
    wait: Any, rtisms_sandbox: Sandbox, mode: str
) -> None:
    done = rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0)
    with final_after_first_poll(rtisms_sandbox) as later:
        run = wait(submission_ids=[later, done], **MODES[mode])
    assert run.state == "success"
    assert [(record["submission_id"], record["is_final"]) for record in run.xcom("wait")] == [
        (later, True),
        (done, True),
    ]
    polls = rtisms_sandbox.state().requests_by_id
    assert polls[later] > 1
    assert polls[done] == 1 or (mode == "reschedule" and not AIRFLOW_V_3_3_PLUS)  # which remembers nothing between


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_that_cannot_succeed_fails(wait: Any, rtisms_sandbox: Sandbox, mode: str) -> None:
    """It pushes what it knows. What each mode makes of each end, tests/unit/sensors/test_min_delivered.py shows."""
    fine = rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0)
    never = rtisms_sandbox.add_submission("SENT")
    with final_after_first_poll(rtisms_sandbox, "REJECTED") as bad:
        run = wait(submission_ids=[fine, never, bad], min_delivered=0.7, **MODES[mode])
    assert run.state == "failed"
    assert run.xcom("wait") is None
    assert {record["submission_id"] for record in run.xcom("wait", "records")} == {fine, bad}
    assert not HAS_ERRORS or "needs 3 of 3 messages, and at most 2" in str(run.errors["wait"])


@pytest.mark.parametrize(
    ("mode", "soft_fail", "ends"), [("deferrable", True, "skipped"), ("reschedule", False, "failure")]
)
def test_a_timeout_fails_it_or_skips_it(
    wait: Any, rtisms_sandbox: Sandbox, mode: str, soft_fail: bool, ends: str
) -> None:
    never = rtisms_sandbox.add_submission("SENT")
    run = wait(submission_ids=[never], timeout=1, soft_fail=soft_fail, **MODES[mode])
    assert run.task_states == {"wait": ends}
    assert soft_fail or not HAS_ERRORS or isinstance(run.errors["wait"], AirflowSensorTimeout)


def check_execution_timeout(run: Callable[[], FinishedRun]) -> None:
    """
    Check that the execution_timeout fails the only task of a DAG.

    It is no Exception: it passes through ``dag.test()`` of Airflow 2, which has failed the task before that.
    """
    if not AIRFLOW_V_3_0_PLUS:
        with pytest.raises(AirflowTaskTimeout):
            run()
        return
    finished = run()
    assert finished.task_states == {"wait": "failure"}
    assert not HAS_ERRORS or isinstance(finished.errors["wait"], AirflowTaskTimeout)


@pytest.mark.parametrize("kind", ["poke", "deferrable", "balance"])
def test_the_execution_timeout_is_not_skipped(run_dag: RunDag, rtisms_sandbox: Sandbox, kind: str) -> None:
    limit: dict[str, Any] = {"task_id": "wait", "execution_timeout": timedelta(seconds=2), "soft_fail": True}
    with DAG(f"limited_{kind}", schedule=None, start_date=START) as dag:
        if kind == "balance":
            RtiSmsBalanceSensor(minimum=1000, poke_interval=0.2, deferrable=True, **limit)
        else:
            never = rtisms_sandbox.add_submission("SENT")
            RtiSmsDeliverySensor(submission_ids=[never], poke_interval=0.2, **limit, **MODES[kind])
    check_execution_timeout(lambda: run_dag(dag))


def test_the_execution_timeout_ends_a_send_that_waits(run_dag: RunDag, rtisms_sandbox: Sandbox) -> None:
    sms = {"recipients": "+56900000004", "text": "hola", "sender": "96000"}
    wait: dict[str, Any] = {"wait_for_delivery": True, "deferrable": True, "poke_interval": 0.2}

    def attempt(seconds: float) -> FinishedRun:
        rtisms_sandbox.reset()
        with DAG(f"limited_send_{seconds:g}", schedule=None, start_date=START) as dag:
            RtiSmsSendOperator(task_id="wait", execution_timeout=timedelta(seconds=10 * seconds), **sms, **wait)
        return run_dag(dag)

    run = with_more_time(attempt, was_enough=lambda _: "GET sms" in rtisms_sandbox.state().requests)
    assert run.task_states == {"wait": "failure"}
    # Without a task state store it is AirflowFailException, since a retry sends again.
    assert not HAS_ERRORS or "The execution_timeout of the task has passed" in str(run.errors["wait"])
    assert len(rtisms_sandbox.state().messages) == 1


def test_a_connection_in_the_database_serves_the_trigger(
    wait: Any, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_RTISMS_DEFAULT")
    command = [sys.executable, "-m", "airflow", "connections", "add", "rtisms_stored"]
    subprocess.run([*command, "--conn-json", rtisms_sandbox.connection_json()], check=True, capture_output=True)
    with final_after_first_poll(rtisms_sandbox) as later:
        run = wait(submission_ids=[later], rtisms_conn_id="rtisms_stored", deferrable=True)
    assert run.state == "success"


def test_the_example_of_a_wait_runs(run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    done = rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0)
    dag = load_dag((EXAMPLES / "example_rtisms_wait_for_delivery.py").read_text(), tmp_path)
    with final_after_first_poll(rtisms_sandbox) as later:
        ids = [later, done]
        run = run_dag(dag, conf={"submission_ids": ids})
    assert run.state == "success"
    records = run.xcom("wait_for_delivery")
    assert [(record["submission_id"], record["status"]) for record in records] == [(one, "DELIVERED") for one in ids]
    assert [run.xcom("get_details", map_index=index) for index in range(2)] == records
    assert [run.map_names["get_details", index] for index in range(2)] == ids


@pytest.mark.skipif(
    AIRFLOW_V_3_0_PLUS and not AIRFLOW_V_3_1_PLUS,
    reason="dag.test of Airflow 3.0 knows no assets of DAGs without a file",
)
def test_a_later_task_reads_the_counts_from_the_event_of_the_outlet(run_dag: RunDag, rtisms_sandbox: Sandbox) -> None:
    details = Asset("s3://warehouse/details-of-a-test")
    with DAG("outlet", schedule=None, start_date=START) as dag:
        ids = ["4193366853543393", "1234567890123"]
        fetch = RtiSmsBulkGetDetailsOperator(task_id="fetch", submission_ids=ids, on_missing="skip", outlets=[details])

        @task(inlets=[details])
        def read(inlet_events: Any = None) -> Any:
            return inlet_events[details][-1].extra

        fetch >> read()
    run = run_dag(dag)
    assert run.state == "success"
    counts = run.xcom("read")
    assert (counts["requested"], counts["fetched"], counts["missing"], counts["cost"]) == (2, 1, 1, 1)


def test_the_example_of_a_bulk_fetch_runs(run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    rtisms_sandbox.reset(seed=300)
    dag = load_dag((EXAMPLES / "example_rtisms_bulk_reconcile.py").read_text(), tmp_path)
    run = run_dag(dag, conf={"folder": f"file://{tmp_path}", "count": 300})
    assert run.state == "success"
    summary = run.xcom("fetch_details")
    (details,) = tmp_path.glob("day=*/details.csv.gz")
    assert summary["path"] == str(details)
    assert (summary["fetched"], summary["tokens"], summary["requests"]) == (300, 1, 301)
    assert "300 DELIVERED" in run.xcom("report")


def test_the_example_from_a_table_to_people_runs(
    run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "people.db"
    connection = {"conn_type": "sqlite", "host": str(database)}
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_EXAMPLE_PEOPLE", json.dumps(connection))
    dag = load_dag((EXAMPLES / "example_rtisms_table_to_people.py").read_text(), tmp_path)
    assert run_dag(dag).state == "success"
    messages = rtisms_sandbox.state().messages
    assert messages[0].text == "Hello Ana, your invoice 1 over 12500 is due."
    by_number = {message.recipient: message.submission_id for message in messages}
    with closing(sqlite3.connect(database)) as people:
        rows = people.execute("SELECT phone, outcome, submission FROM invoices ORDER BY id").fetchall()
    assert rows == [
        (number, outcome, by_number[number])
        for number, outcome in [
            ("+56900000000", "DELIVERED"),
            ("+56900000002", "UNDELIVERED"),
            ("+56900000100", "DELIVERED"),
        ]
    ]


def test_the_example_into_a_table_runs(
    run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtisms_sandbox.reset(seed=100)
    database = tmp_path / "warehouse.db"
    connection = {"conn_type": "sqlite", "host": str(database)}
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_EXAMPLE_WAREHOUSE", json.dumps(connection))
    dag = load_dag((EXAMPLES / "example_rtisms_details_to_table.py").read_text(), tmp_path)
    run = run_dag(dag, conf={"count": 103})
    assert run.state == "success"
    summary = run.xcom("load")
    assert (summary["table"], summary["requested"], summary["written"], summary["missing"]) == (
        "sms_details",
        103,
        100,
        3,
    )
    assert "100 of 103 SMS have details, cost 100" in run.xcom("check")
    with closing(sqlite3.connect(database)) as warehouse:
        assert warehouse.execute("SELECT count(*), min(status) FROM sms_details").fetchone() == (100, "DELIVERED")


@pytest.mark.skipif(
    AIRFLOW_V_3_0_PLUS and not AIRFLOW_V_3_1_PLUS,
    reason="dag.test() of Airflow 3.0 fails for a task with outlets",
)
def test_the_example_of_the_ledger_runs(
    run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtisms_sandbox.set_timing(pending_for=0, sent_for=0)
    shop = tmp_path / "shop.db"
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_EXAMPLE_LEDGER", json.dumps({"conn_type": "sqlite", "host": str(shop)}))
    code = (EXAMPLES / "example_rtisms_ledger.py").read_text()
    run = run_dag(load_dag(code, tmp_path))
    assert run.state == "success"
    assert (run.xcom("refresh")["written"], run.xcom("refresh")["open"]) == (3, 0)
    assert run.xcom("report") == {"sent": 3, "delivered": 2, "share": 0.6667, "open": 0, "cost": "3.00"}
    late = rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0)
    with closing(sqlite3.connect(shop)) as database, database:
        database.execute(
            "INSERT INTO sms_ledger (message_key, submission_id, sent_at) VALUES ('late', ?, ?)",
            (late, datetime.now(UTC).isoformat()),
        )
    run = run_dag(load_dag(code.removesuffix("example_rtisms_ledger()\n"), tmp_path))
    assert (run.state, run.xcom("refresh")["requested"], run.xcom("refresh")["open"]) == ("success", 1, 0)
    with closing(sqlite3.connect(shop)) as database:
        rows = database.execute("SELECT reference, status FROM sms_ledger ORDER BY reference").fetchall()
    assert rows == [(None, "DELIVERED"), ("july-1", "DELIVERED"), ("july-2", "UNDELIVERED"), ("july-3", "DELIVERED")]
