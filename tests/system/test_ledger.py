"""The ledger in PostgreSQL, MariaDB and SQLite: sends, refreshes, two of them at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sql import ledger
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from scripts.processes import wait_until
from tests.system.test_databases import POSTGRESQL, Database, database, sandbox, servers

__all__ = ["database", "sandbox", "servers"]

pytestmark = pytest.mark.system
PEOPLE = 40


@pytest.fixture(autouse=True)
def people(database: Database, sandbox: Sandbox) -> None:
    sandbox.set_timing(pending_for=0, sent_for=0)
    database.do("DROP TABLE IF EXISTS ledger", "DELETE FROM people")
    for number in range(PEOPLE):
        database.do(f"INSERT INTO people VALUES ({number}, '+56911{number:03}000', '', 'Ana')")  # noqa: S608


def send(context: Any = None, **arguments: Any) -> Any:
    operator = SqlToRtiSmsOperator(
        task_id="send",
        sql="SELECT id, phone FROM people ORDER BY id",
        sql_conn_id="db",
        recipient_column="phone",
        reference_column="id",
        text="hola",
        sender="96000",
        results_table="ledger",
        create_table=True,
        **arguments,
    )
    return operator.execute(context or {})


def refresh(**arguments: Any) -> dict[str, Any]:
    operator = RtiSmsDetailsToSqlOperator(
        task_id="refresh", table="ledger", sql_conn_id="db", refresh=True, **arguments
    )
    return dict(operator.execute({}))


def test_a_send_and_its_refreshes(database: Database, sandbox: Sandbox) -> None:
    results = send()
    rows = database.do("SELECT reference, submission_id, outcome, status, parts, charset, is_final FROM ledger")
    assert {tuple(map(str, row[:2])) for row in rows} == {(one["reference"], one["submission_id"]) for one in results}
    assert {tuple(row[2:]) for row in rows} == {("submitted", "submitted", 1, 1, None)}
    late = results[0]["submission_id"]
    sandbox.add_submission("PENDING", submission_id=late)
    summary = refresh()
    assert (summary["requested"], summary["written"], summary["open"], summary["too_old"]) == (PEOPLE, PEOPLE, 1, 0)
    sandbox.add_submission("DELIVERED", submission_id=late, pending_for=0, sent_for=0, cost=1.25)
    assert refresh()["requested"] == 1
    assert refresh()["requested"] == 0
    rows = database.do("SELECT reference, outcome, status, cost, is_final FROM ledger")
    assert {(status, outcome, bool(final)) for _, outcome, status, _, final in rows} == {
        ("DELIVERED", "submitted", True)
    }
    assert sum(float(cost) for *_, cost, _ in rows) == PEOPLE - 1 + 1.25
    assert sum(sandbox.state().requests_by_id.values()) == PEOPLE + 1


@pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="Airflow 2 refuses an operator in a thread")
def test_two_refreshes_at_once_do_no_harm(database: Database, sandbox: Sandbox, tmp_path: Any) -> None:
    send()
    with ThreadPoolExecutor(2) as pool:
        summaries = list(pool.map(lambda name: refresh(part_folder=str(tmp_path / name)), ("a", "b")))
    assert all(summary["open"] == 0 for summary in summaries)
    rows = database.do("SELECT status FROM ledger")
    assert [tuple(row) for row in rows] == [("DELIVERED",)] * PEOPLE


@POSTGRESQL
def test_a_locked_table_does_not_hold_up_the_send(
    database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    send()
    many = "INSERT INTO people SELECT i, '+56922' || i || '000', '', 'Ana' FROM generate_series(100, 399) AS i"
    database.do("DELETE FROM ledger", "DELETE FROM people", many)  # of more windows than one
    monkeypatch.setattr(ledger, "FLUSH_ROWS", 1)
    monkeypatch.setattr(ledger, "LOCK_WAIT", 0.5)
    sandbox.set_faults(Fault("latency", seconds=0.2, path="sms", method="POST"))
    with ThreadPoolExecutor(1) as pool, closing(database.connect()) as other:
        results = pool.submit(send, chunk_size=1)
        wait_until(lambda: len(sandbox.state().messages) > PEOPLE or results.done(), what="the first message")
        other.cursor().execute("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE")
        try:
            wait_until(lambda: len(sandbox.state().messages) == PEOPLE + 300, what="the last message")
        finally:
            other.rollback()
        assert len(results.result()) == 300
    assert database.do("SELECT count(*) FROM ledger")[0][0] == 300


def test_rows_that_are_too_old(database: Database, sandbox: Sandbox) -> None:
    send()
    database.do("UPDATE ledger SET sent_at = '2020-01-01 00:00:00+00:00' WHERE reference = '0'") if (
        database.kind != "mysql"
    ) else database.do("UPDATE ledger SET sent_at = '2020-01-01 00:00:00' WHERE reference = '0'")
    summary = refresh()
    assert (summary["requested"], summary["open"], summary["too_old"]) == (PEOPLE - 1, 0, 1)


@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow 3.3 and later have a journal")
def test_sends_again_write_the_same_rows(database: Database, sandbox: Sandbox) -> None:
    class Ti:
        dag_id, task_id, run_id, map_index = "campaign", "send", "monday", -1

        def xcom_push(self, **_: Any) -> None:
            pass

    class Store(dict[str, Any]):
        def set(self, key: str, value: Any, **_: Any) -> None:
            self[key] = json.loads(json.dumps(value))

    context = {"ti": Ti(), "task_state_store": Store()}
    send(context)
    before = sorted(map(tuple, database.do("SELECT message_key, submission_id, sent_at FROM ledger")))
    database.do("DELETE FROM ledger WHERE reference IN ('1', '2', '3')")
    send(context)
    assert sorted(map(tuple, database.do("SELECT message_key, submission_id, sent_at FROM ledger"))) == before
    assert len(sandbox.state().messages) == PEOPLE
    context["task_state_store"] = Store()  # as after a clear that discards the journal
    send(context)
    assert len(sandbox.state().messages) == PEOPLE
