"""The send operator in DAGs that Airflow itself runs, on every version. More is in test_sending_for_real.py."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE
from tests.system.conftest import RunDag

pytestmark = pytest.mark.system

NUMBERS = [f"+5691234567{last}" for last in (8, 9)]
TEXT = "Confidential: " + "the load is late"  # in two parts: the database has the source of this file too
START = datetime(2026, 1, 1, tzinfo=UTC)
SEND: dict[str, Any] = {"task_id": "send", "text": "{{ var.value.sms_text }}", "sender": "96000"}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_SMS_TEXT", TEXT)
    monkeypatch.setenv("AIRFLOW_VAR_SMS_RECIPIENTS", str(NUMBERS))


def everything_in(database: Path, before: str = "") -> str:
    """Return all rows of all tables of a database that were not there before. Tests of a process share the database."""
    known = set(before.splitlines())
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(line for row in connection.iterdump() for line in row.splitlines() if line not in known)


def test_it_sends_waits_in_a_trigger_and_leaks_nothing(
    run_dag: RunDag, rtisms_sandbox: Sandbox, airflow_database: Path
) -> None:
    before = everything_in(airflow_database)
    with DAG("send_and_wait", schedule=None, start_date=START) as dag:
        RtiSmsSendOperator(
            recipients="{{ var.value.sms_recipients }}",
            wait_for_delivery=True,
            deferrable=True,
            poke_interval=0.2,
            timeout=PATIENCE,
            **SEND,
        )
    run = run_dag(dag, xcoms=("submissions",))
    assert run.state == "success"
    messages = rtisms_sandbox.state().messages
    assert [(message.recipient, message.text) for message in messages] == [(number, TEXT) for number in NUMBERS]
    ids = [message.submission_id for message in messages]
    assert [submission["submission_id"] for submission in run.xcom("send", "submissions")] == ids
    assert [(record["submission_id"], record["status"]) for record in run.xcom("send")] == [
        (submission_id, "DELIVERED") for submission_id in ids
    ]
    everything = everything_in(airflow_database, before)
    assert "redacted: " in everything
    assert TEXT not in everything
    assert not any(number.removeprefix("+") in everything for number in NUMBERS)


def test_what_is_written_is_sent_in_a_native_dag(run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "code.txt").write_text("0{{ params.code }}")
    with DAG(
        "native",
        schedule=None,
        start_date=START,
        params={"code": 815},
        template_searchpath=[str(tmp_path)],
        render_template_as_native_obj=True,
    ) as dag:

        @task
        def people() -> list[str]:
            return NUMBERS

        @task
        def rows() -> list[dict[str, str]]:
            return [{"recipient": NUMBERS[0], "text": "1e5", "reference": "007"}]

        numbers = people()
        alert = RtiSmsNotifier(recipients=NUMBERS[1], text="1", sender="97000")
        RtiSmsSendOperator(task_id="one", recipients=NUMBERS[0], text="007", sender="96000", on_success_callback=alert)
        late = RtiSmsSendOperator(task_id="late", text="{{ params.code }}", sender="96000")
        late.recipients = numbers
        RtiSmsSendOperator.partial(task_id="mapped", text="code.txt", sender="96000").expand(recipients=numbers)
        pulled = RtiSmsSendOperator(task_id="pulled", messages="{{ ti.xcom_pull('rows') }}", sender="96000")
        rows() >> pulled
    run = run_dag(dag)
    assert run.state == "success", run.errors
    (result,) = run.xcom("pulled")
    assert result["reference"] == "007"
    sent = [(message.sender, message.recipient, message.text) for message in rtisms_sandbox.state().messages]
    assert sorted(sent) == sorted(
        [
            ("96000", NUMBERS[0], "007"),
            ("97000", NUMBERS[1], "1"),
            *(("96000", number, text) for number in NUMBERS for text in ("815", "0815")),
            ("96000", NUMBERS[0], "1e5"),
        ]
    )


def test_mapped_tasks_messages_and_a_text_file_are_redacted_too(
    run_dag: RunDag,
    rtisms_sandbox: Sandbox,
    airflow_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    digits = f"569{1234569}"  # in two parts, because Airflow stores the source of this file, too
    monkeypatch.setenv("AIRFLOW_VAR_SMS_MESSAGES", str([{"recipient": f"+{digits}0", "text": TEXT, "reference": "a"}]))
    monkeypatch.setenv("AIRFLOW_VAR_SMS_ONE", f"+{digits}1")
    others = ["+56912345680", "+56912345681"]  # not like the digits: the database has what a task returns
    (tmp_path / "text.txt").write_text("{{ var.value.sms_text }} again\n")
    before = everything_in(airflow_database)
    with DAG("redacted", schedule=None, start_date=START, template_searchpath=[str(tmp_path)]) as dag:

        @task
        def people() -> list[list[str]]:
            return [[number] for number in others]

        RtiSmsSendOperator.partial(**SEND).expand(recipients=people())
        RtiSmsSendOperator(task_id="messages", messages="{{ var.value.sms_messages }}", sender="96000")
        RtiSmsSendOperator(task_id="file", recipients="{{ var.value.sms_one }}", text="text.txt", sender="96000")
    run = run_dag(dag)
    assert run.state == "success"
    assert [result["reference"] for result in run.xcom("messages")] == ["a"]
    assert "reference" not in run.xcom("file")[0]
    sent = {message.recipient: message.text for message in rtisms_sandbox.state().messages}
    assert sent == {**dict.fromkeys([*others, f"+{digits}0"], TEXT), f"+{digits}1": f"{TEXT} again"}
    rows = everything_in(airflow_database, before).splitlines()
    assert len([row for row in rows if "redacted: 1 values" in row and f"redacted: {len(TEXT)} characters" in row]) >= 2
    assert not [row for row in rows if TEXT in row or digits in row]
