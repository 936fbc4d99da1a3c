"""Partial success of sends that wait: one table of cases for a wait in the worker and in the triggerer."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from airflow_provider_rtisms import waiting
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from tests.partial_success import CASES, Case
from tests.patience import PATIENCE, with_more_time
from tests.unit.attempts import Pushes

pytestmark = [pytest.mark.usefixtures("quick_retries"), pytest.mark.slow, pytest.mark.outer_minors]

#: The last three digits of numbers to which the sandbox delivers, or does not, by the letters of a case.
DIGITS = {"D": "100", "R": "001", "U": "008", "S": "004"}
SENT_CASES = [case for case in CASES if "?" not in case.statuses]
in_both_places = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def numbers(statuses: str) -> list[str]:
    return [f"+569000{position:02}{DIGITS[letter.upper()]}" for position, letter in enumerate(statuses)]


def send(context: Any, recipients: list[str], **options: Any) -> Any:
    """Send and wait to the end; a task that resumes is another object in another process."""
    arguments = {
        "task_id": "send",
        "recipients": recipients,
        "text": "hola",
        "sender": "96000",
        "wait_for_delivery": True,
        "poke_interval": 0.1,
        "timeout": PATIENCE,
        **options,
    }
    try:
        return RtiSmsSendOperator(**arguments).execute(context)
    except TaskDeferred as deferral:
        _, kwargs = deferral.trigger.serialize()
        (event,) = asyncio.run(fire(RtiSmsDeliveryTrigger(**kwargs)))
        return RtiSmsSendOperator(**arguments).execute_complete(context, event)


async def fire(trigger: RtiSmsDeliveryTrigger) -> list[Any]:
    return [event.payload async for event in trigger.run()]


@in_both_places
@pytest.mark.parametrize("case", SENT_CASES, ids=lambda case: f"{case.statuses[-5:]} {case.min_delivered}")
def test_enough_deliveries(rtisms_sandbox: Sandbox, case: Case, deferrable: bool) -> None:
    context = {"ti": Pushes()}
    recipients = numbers(case.statuses)
    if case.is_enough:
        records = send(context, recipients, min_delivered=case.min_delivered, deferrable=deferrable)
        assert len(records) == len(recipients)
        assert set(context["ti"].pushed) == {"submissions"}
        return
    with pytest.raises(AirflowFailException, match="min_delivered can no longer be reached"):
        send(context, recipients, min_delivered=case.min_delivered, deferrable=deferrable)
    assert {record["is_final"] for record in context["ti"].pushed["records"]} == {True}


@in_both_places
@pytest.mark.parametrize(("statuses", "options"), [("DR", {}), ("R", {"min_delivered": 1})])
def test_a_failed_wait_pushes_its_records(
    rtisms_sandbox: Sandbox, statuses: str, options: dict[str, Any], deferrable: bool
) -> None:
    context = {"ti": Pushes()}
    with pytest.raises(AirflowFailException):
        send(context, numbers(statuses), deferrable=deferrable, **options)
    assert "REJECTED" in [record["status"] for record in context["ti"].pushed["records"]]


@in_both_places
def test_a_wait_that_times_out_pushes_its_records(rtisms_sandbox: Sandbox, deferrable: bool) -> None:
    def attempt(seconds: float) -> list[str]:
        context = {"ti": Pushes()}
        with pytest.raises(AirflowSensorTimeout):
            send(context, numbers("DS"), deferrable=deferrable, timeout=4 * seconds, min_delivered=1)
        return [record["status"] for record in context["ti"].pushed.get("records", [])]

    assert with_more_time(attempt, was_enough=lambda statuses: statuses) == ["DELIVERED"]


@in_both_places
def test_large_waits_push_none(rtisms_sandbox: Sandbox, deferrable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_RECORDS_IN_DATABASE", 1)
    context = {"ti": Pushes()}
    with pytest.raises(AirflowFailException, match="needs 2 of 2"):
        send(context, numbers("DR"), deferrable=deferrable, min_delivered=2)
    assert "records" not in context["ti"].pushed
    assert len(send(context, numbers("DDR"), deferrable=deferrable, min_delivered=2)) == 3


@in_both_places
def test_a_share_is_of_all_messages(rtisms_sandbox: Sandbox, deferrable: bool) -> None:
    """The response to one of two requests is lost. Its messages have no submission id, and may not be delivered."""
    options: dict[str, Any] = {"on_uncertain": "skip", "chunk_size": 2, "deferrable": deferrable}
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
    context = {"ti": Pushes()}
    with pytest.raises(AirflowFailException, match=r"needs 3 of 4 messages, and at most 2 .*no submission id"):
        send(context, numbers("DDDD"), min_delivered=0.75, **options)
    assert rtisms_sandbox.state().requests.get("GET sms") is None, "it failed before the first poll"

    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
    assert len(send(context, numbers("DDDD"), min_delivered=0.5, **options)) == 2
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
    assert len(send(context, numbers("DDDD"), min_delivered=2, **options)) == 2


@pytest.mark.parametrize("min_delivered", [0, 1.5, True, "1", 3])
def test_it_is_checked_before_anything_is_sent(rtisms_sandbox: Sandbox, min_delivered: Any) -> None:
    with pytest.raises(AirflowFailException, match="min_delivered"):
        send({}, numbers("DD"), min_delivered=min_delivered)
    assert "POST sms" not in rtisms_sandbox.state().requests


def test_counts_by_status_are_returned_with_a_file(rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    path = str(tmp_path / "results.csv")
    result = send({}, numbers("DDR"), min_delivered=0.6, output_path=path)
    assert result == {"path": path, "submitted": 3, "by_status": {"DELIVERED": 2, "REJECTED": 1}}


def test_people_of_a_query(rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("airflow.providers.sqlite", reason="the SQLite provider is not installed")
    with closing(sqlite3.connect(tmp_path / "people.db")) as database, database:
        database.execute("CREATE TABLE people (phone)")
        database.executemany("INSERT INTO people VALUES (?)", [(number,) for number in numbers("DDR")])
    monkeypatch.setenv("AIRFLOW_CONN_PEOPLE", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "people.db")}))

    def send_to_people(min_delivered: float) -> Any:
        return SqlToRtiSmsOperator(
            task_id="send",
            sql="SELECT phone FROM people",
            sql_conn_id="people",
            recipient_column="phone",
            text="hola",
            sender="96000",
            wait_for_delivery=True,
            min_delivered=min_delivered,
            poke_interval=0.1,
        ).execute({"ti": Pushes()})

    assert len(send_to_people(0.6)) == 3
    with pytest.raises(AirflowFailException, match="needs 3 of 3"):
        send_to_people(1.0)
