"""The send operator in DAGs that Airflow itself runs, on every version. More is in test_sending_for_real.py."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_provider_rtisms.links.rtisms import PANEL_URL
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Sandbox
from tests.system.conftest import RunDag

pytestmark = pytest.mark.system

NUMBERS = ["+56912345678", "+56912345679"]
TEXT = "Confidential: the load is late"
SEND: dict[str, Any] = {"task_id": "send", "text": "{{ var.value.sms_text }}", "sender": "96000"}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_SMS_TEXT", TEXT)
    monkeypatch.setenv("AIRFLOW_VAR_SMS_RECIPIENTS", str(NUMBERS))


def dag_of(request: pytest.FixtureRequest) -> DAG:
    return DAG(request.node.name, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC))


def stored(database: Path, query: str, *values: str) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute(query, values).fetchall())


def test_it_sends_waits_in_a_trigger_and_leaks_nothing(
    request: pytest.FixtureRequest, run_dag: RunDag, rtisms_sandbox: Sandbox, airflow_database: Path
) -> None:
    with dag_of(request) as dag:
        RtiSmsSendOperator(
            recipients="{{ var.value.sms_recipients }}",
            wait_for_delivery=True,
            deferrable=True,
            poke_interval=0.2,
            timeout=60,
            **SEND,
        )
    run = run_dag(dag)
    assert run.state == "success"
    messages = rtisms_sandbox.state().messages
    assert [(message.recipient, message.text) for message in messages] == [(number, TEXT) for number in NUMBERS]
    ids = [message.submission_id for message in messages]
    assert [submission["submission_id"] for submission in run.xcom("send", "submissions")] == ids
    assert [(record["submission_id"], record["status"]) for record in run.xcom("send")] == [
        (submission_id, "DELIVERED") for submission_id in ids
    ]
    with closing(sqlite3.connect(airflow_database)) as connection:
        # The database has the source of the DAG file too, and the source has the text.
        everything = "\n".join(row for row in connection.iterdump() if not row.startswith('INSERT INTO "dag_code"'))
    assert "hidden: " in everything
    assert TEXT not in everything
    assert not any(number.removeprefix("+") in everything for number in NUMBERS)


def test_mapped_tasks_redact_what_they_render_too(
    request: pytest.FixtureRequest, run_dag: RunDag, rtisms_sandbox: Sandbox, airflow_database: Path
) -> None:
    with dag_of(request) as dag:

        @task
        def people() -> list[list[str]]:
            return [[number] for number in NUMBERS]

        RtiSmsSendOperator.partial(**SEND).expand(recipients=people())
    assert run_dag(dag).state == "success"
    assert sorted(message.recipient for message in rtisms_sandbox.state().messages) == NUMBERS
    query = "SELECT rendered_fields FROM rendered_task_instance_fields WHERE dag_id = ? AND task_id = 'send'"
    rendered = stored(airflow_database, query, dag.dag_id)
    assert rendered.count("hidden: 1 values") == 2
    assert rendered.count(f"hidden: {len(TEXT)} characters") == 2


@pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="Airflow 2 computes links when it shows them")
def test_the_link_leads_to_the_panel(request: pytest.FixtureRequest, run_dag: RunDag, rtisms_sandbox: Sandbox) -> None:
    with dag_of(request) as dag:
        RtiSmsSendOperator(recipients="{{ var.value.sms_recipients }}", **SEND)
    assert run_dag(dag).xcom("send", "_link_RtiSmsPanelLink") == PANEL_URL
