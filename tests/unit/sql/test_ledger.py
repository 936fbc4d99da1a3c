"""The ledger with SQLite: what sends write into it, and what a refresh asks for."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.api.errors import RtiSmsTransientError
from airflow_provider_rtisms.bulk import store as store_module
from airflow_provider_rtisms.operators import send as send_module
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sql import ledger as ledger_module
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from scripts.processes import wait_until
from tests.documents import Block, each_block
from tests.unit.attempts import TaskStore

pytest.importorskip("airflow.providers.sqlite", reason="the SQLite provider is not installed")

Context = dict[str, Any]
Row = dict[str, Any]
#: Last digits of numbers that the sandbox treats in their own way.
DELIVERED, REJECTED, SENT, NO_BALANCE = "000", "001", "004", "005"


needs_journal = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the journal of a send is new in 3.3")


def journal() -> Context:
    """Return an empty journal, for the context of a task, on an Airflow that has one."""
    return {"task_state_store": TaskStore()} if AIRFLOW_V_3_3_PLUS else {}


class TaskInstance:
    """What a task knows of itself."""

    def __init__(self, run_id: str = "monday", map_index: int = -1) -> None:
        self.dag_id, self.task_id, self.run_id, self.map_index = "campaign", "send", run_id, map_index

        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Database:
    """A file with a table of people, and with the ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.do("CREATE TABLE people (id, phone, name)")

    def do(self, sql: str, *parameters: Any) -> None:
        """Run a statement."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql, parameters)

    def people(self, *endings: str) -> None:
        """Replace the people; the last digits of their numbers say what comes of their messages."""
        self.do("DELETE FROM people")
        for number, ending in enumerate(endings, 1):
            self.do("INSERT INTO people VALUES (?, ?, ?)", f"july-{number}", f"+56900{number:03}{ending}", "Ana")

    def rows(self, where: str = "true") -> list[Row]:
        """Return rows of the ledger, by their references."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(one) for one in connection.execute(f"SELECT * FROM ledger WHERE {where} ORDER BY reference")]  # noqa: S608


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    database = Database(tmp_path / "shop.db")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "sqlite", "host": str(database.path)}))
    return database


@pytest.fixture(autouse=True)
def at_once(rtisms_sandbox: Sandbox) -> None:
    rtisms_sandbox.set_timing(pending_for=0, sent_for=0)


@pytest.fixture
def context() -> Context:
    return {"ti": TaskInstance(), **journal()}


def send(context: Context, **arguments: Any) -> Any:
    defaults = {
        "task_id": "send",
        "sql": "SELECT id, phone, name FROM people ORDER BY id",
        "sql_conn_id": "shop",
        "recipient_column": "phone",
        "reference_column": "id",
        "text": "Hola {name}",
        "sender": "96000",
        "results_table": "ledger",
        "create_table": True,
    }
    return SqlToRtiSmsOperator(**{**defaults, **arguments}).execute(context)


def refresh(context: Context | None = None, **arguments: Any) -> Row:
    defaults = {"task_id": "refresh", "table": "ledger", "sql_conn_id": "shop", "refresh": True}
    return RtiSmsDetailsToSqlOperator(**{**defaults, **arguments}).execute(context or {})


def asked(sandbox: Sandbox) -> dict[str, int]:
    return dict(sandbox.state().requests_by_id)


class TestSends:
    def test_each_message_has_a_row_without_its_number_and_text(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(DELIVERED, REJECTED)
        before = datetime.now(UTC).replace(microsecond=0)
        results = send(context)
        rows = database.rows()
        for number, row in enumerate(rows, 1):
            assert (row["reference"], row["submission_id"]) == (f"july-{number}", results[number - 1]["submission_id"])
            assert (row["outcome"], row["status"]) == ("submitted", "submitted")
            assert [row[name] for name in ("dag_id", "task_id", "run_id", "map_index")] == [
                "campaign", "send", "monday", -1,
            ]  # fmt: skip
            assert (row["parts"], row["charset"]) == (1, 1)
            assert before <= datetime.fromisoformat(row["sent_at"]) <= datetime.now(UTC)
            assert row["fetched_at"] is row["is_final"] is row["cost"] is None
        assert len(rows) == 2
        database.do("DELETE FROM people")
        database.do("VACUUM")
        assert not {text for text in (b"+56900", b"Hola") if text in database.path.read_bytes()}

    def test_what_was_not_submitted_has_a_row_too(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(DELIVERED, NO_BALANCE)
        with pytest.raises(AirflowFailException):
            send(context)
        assert [(row["outcome"], row["status"], bool(row["submission_id"])) for row in database.rows()] == [
            ("submitted", "submitted", True),
            ("refused", "account_no_balance", False),
        ]

    def test_an_uncertain_message_becomes_a_submitted_one_when_it_is_sent_again(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(DELIVERED)
        rtisms_sandbox.set_faults(Fault("lost_response", times=1, path="sms", method="POST"))
        with pytest.raises(AirflowFailException):
            send(context)
        (row,) = database.rows()
        assert (row["outcome"], row["submission_id"]) == ("uncertain", None)
        assert row["sent_at"], "so that a report knows its day"
        send(context, on_uncertain="resend")
        (row,) = database.rows()
        assert row["outcome"] == "submitted"
        assert row["submission_id"]

    @needs_journal
    def test_messages_without_a_reference_have_a_row_for_each_recipient(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        operator = RtiSmsSendOperator(
            task_id="send",
            recipients=["+56900001000", "+56900002000"],
            text="Hola",
            sender="96000",
            results_table="ledger",
            results_conn_id="shop",
            create_table=True,
        )
        operator.execute(context)  # type: ignore[arg-type]
        operator.execute(context)  # type: ignore[arg-type]  # a retry
        rows = database.rows()
        assert [row["reference"] for row in rows] == [None, None]
        assert len({row["submission_id"] for row in rows}) == 2

    @pytest.mark.usefixtures("context")
    def test_each_run_and_each_mapped_task_has_rows_of_its_own(
        self, rtisms_sandbox: Sandbox, database: Database
    ) -> None:
        database.people(DELIVERED)
        for ti in (TaskInstance(), TaskInstance("tuesday"), TaskInstance(map_index=0), TaskInstance(map_index=1)):
            send({"ti": ti, **journal()})
        assert sorted((row["run_id"], row["map_index"]) for row in database.rows()) == [
            ("monday", -1), ("monday", 0), ("monday", 1), ("tuesday", -1),
        ]  # fmt: skip

    @needs_journal
    def test_rows_are_written_while_the_send_goes_on(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database.people(*[DELIVERED] * 40)
        monkeypatch.setattr(ledger_module, "FLUSH_ROWS", 1)
        seen: list[int] = []

        class Looking(TaskStore):
            def set(self, key: str, value: Any, **options: Any) -> None:
                super().set(key, value, **options)
                if len(self) > 1:  # the head is written before there is a table
                    seen.append(len(database.rows()))

        context["task_state_store"] = Looking()
        send(context, chunk_size=1)
        assert any(0 < count < 40 for count in seen)

    @needs_journal
    @pytest.mark.parametrize("written", [0, 1, 3])
    def test_a_retry_writes_what_the_journal_knows_and_a_killed_attempt_had_not_written(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context, written: int
    ) -> None:
        database.people(*[DELIVERED] * 4)
        send(context)
        truth = database.rows()
        database.do("DELETE FROM ledger WHERE reference > ?", f"july-{written}")
        send(context)
        assert database.rows() == truth
        assert len(rtisms_sandbox.state().messages) == 4

    @needs_journal
    def test_rows_that_cannot_be_written_wait_and_the_next_attempt_writes_them(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database.people(*[DELIVERED] * 3)
        send({**context, "ti": TaskInstance("sunday"), **journal()})
        database.do(
            "CREATE TRIGGER broken BEFORE INSERT ON ledger WHEN new.run_id = 'monday' AND new.submission_id > '1' "
            "BEGIN SELECT raise(ABORT, 'no'); END"
        )
        monkeypatch.setattr(store_module, "BACKOFF_BASE", 0.001)
        with pytest.raises(AirflowFailException, match="3 messages of this task have no row there yet"):
            send(context)
        assert len(rtisms_sandbox.state().messages) == 6
        database.do("DROP TRIGGER broken")
        send(context)
        assert len(database.rows("run_id = 'monday' AND submission_id IS NOT NULL")) == 3
        assert len(rtisms_sandbox.state().messages) == 6

    @needs_journal
    def test_a_row_with_details_stays_and_a_forgotten_send_gets_another_row(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(DELIVERED)
        send(context)
        refresh()
        (first,) = database.rows()
        send(context)
        assert database.rows() == [first]
        context |= journal()  # such as of a cleared task on an Airflow that forgets
        send(context)
        rows = database.rows()
        assert len({row["submission_id"] for row in rows}) == 2
        assert first in rows

    @pytest.mark.parametrize("problem", ["refused", "unreachable", "uncertain"])
    def test_a_forgotten_send_keeps_its_row_if_the_next_one_fails(
        self,
        rtisms_sandbox: Sandbox,
        database: Database,
        context: Context,
        monkeypatch: pytest.MonkeyPatch,
        problem: str,
    ) -> None:
        database.people(DELIVERED)
        (first,) = send(context)
        context |= journal()  # such as of a cleared task on an Airflow that forgets
        faults = {
            "refused": Fault("error", statuses=(403,), times=9, path="sms"),
            "unreachable": Fault("outage"),
            "uncertain": Fault("lost_response", times=1, path="sms", method="POST"),
        }
        rtisms_sandbox.set_faults(faults[problem])
        with pytest.raises((AirflowFailException, RtiSmsTransientError)):
            send(context)
        assert (first["submission_id"], "submitted") in {
            (row["submission_id"], row["outcome"]) for row in database.rows()
        }
        rtisms_sandbox.set_faults()
        (second,) = send(context, on_uncertain="resend")
        rows = database.rows()
        assert {row["submission_id"] for row in rows} == {first["submission_id"], second["submission_id"]}
        assert {row["outcome"] for row in rows} == {"submitted"}

    def test_a_table_that_cannot_take_rows_stops_the_send(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(DELIVERED)
        with pytest.raises(AirflowFailException, match="The table ledger does not exist"):
            send(context, create_table=False)
        with pytest.raises(AirflowFailException, match="results_table is a str of 0 characters that names no table"):
            send(context, results_table="")
        with pytest.raises(AirflowFailException, match="The table people has no column message_key, reference, "):
            send(context, results_table="people")
        database.do("CREATE TABLE ledger (message_key TEXT PRIMARY KEY, reference TEXT)")
        with pytest.raises(AirflowFailException, match="The table ledger has no column submission_id"):
            send(context)
        assert not rtisms_sandbox.state().messages

    @pytest.mark.parametrize(
        "constraint",
        [
            "CREATE TRIGGER broken BEFORE INSERT ON ledger BEGIN SELECT raise(ABORT, 'no'); END",
            "CREATE TRIGGER broken BEFORE INSERT ON ledger BEGIN SELECT raise(IGNORE); END",
            "CREATE TRIGGER broken BEFORE INSERT ON ledger WHEN length(new.reference) > 100 "
            "BEGIN SELECT raise(ABORT, 'no'); END",
        ],
    )
    def test_a_table_that_refuses_the_rows_to_come_stops_the_send(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context, constraint: str
    ) -> None:
        database.people(*[DELIVERED] * 3)
        send({"ti": TaskInstance("sunday"), **journal()})
        before = database.rows()
        database.do("UPDATE people SET id = ? WHERE id = 'july-2'", "ñ" * 200)
        database.do(constraint)
        with pytest.raises(AirflowFailException, match=r"IntegrityError|did not land"):
            send(context)
        assert len(rtisms_sandbox.state().messages) == 3
        assert database.rows() == before

    def test_more_results_than_xcom_takes_are_in_the_table(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(send_module, "MAX_RESULTS_IN_XCOM", 2)
        database.people(DELIVERED, DELIVERED, REJECTED)
        with pytest.raises(AirflowFailException, match=r"too many for XCom.* Set output_path or results_table"):
            send(context, results_table=None, create_table=False)
        assert not rtisms_sandbox.state().messages
        outcomes = {"submitted": 3, "refused": 0, "uncertain": 0, "not_sent": 0, "excluded": 0}
        counts = {"messages": 3, **outcomes, "vanished": 0}
        assert send(context) == {"table": "ledger", **counts}
        assert context["ti"].pushed["submissions"] == {"table": "ledger", **counts}
        assert len(database.rows()) == 3
        waited = send(context, wait_for_delivery=True, fail_on=())
        assert waited == {"table": "ledger", "submitted": 3, "by_status": {"DELIVERED": 2, "REJECTED": 1}}
        context |= journal()
        rtisms_sandbox.set_faults(Fault("error", statuses=(403,), path="sms"))
        with pytest.raises(AirflowFailException):
            send(context)
        assert context["ti"].pushed["submissions"]["not_sent"] == 3

    @pytest.mark.parametrize("arguments", [{"results_conn_id": "shop"}, {"create_table": True}])
    def test_arguments_of_the_table_need_the_table(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context, arguments: Row
    ) -> None:
        with pytest.raises(AirflowFailException, match="are for results_table"):
            send(context, **{"results_table": None, "create_table": False, **arguments})

    @each_block("ledger-table")
    def test_the_table_of_the_page_takes_rows(
        self, block: Block, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        with closing(sqlite3.connect(database.path)) as connection:
            connection.executescript(block.code.replace("sms_ledger", "ledger").replace("timestamptz", "text"))
        database.people(DELIVERED)
        send(context, create_table=False)
        assert refresh()["written"] == 1


class TestRefresh:
    def test_only_open_rows_are_asked_for_once_and_the_rest_is_left_alone(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(DELIVERED, REJECTED, SENT)
        send(context)
        summary = refresh()
        assert (summary["requested"], summary["written"], summary["open"], summary["too_old"]) == (3, 3, 1, 0)
        assert [(row["status"], row["is_final"], row["reference"]) for row in database.rows()] == [
            ("DELIVERED", 1, "july-1"),
            ("REJECTED", 1, "july-2"),
            ("SENT", 0, "july-3"),
        ]
        assert all(row["outcome"] == "submitted" and row["cost"] == 1 for row in database.rows())
        summary = refresh()
        assert summary["requested"] == 1
        assert sorted(asked(rtisms_sandbox).values()) == [1, 1, 2]

    def test_late_states_arrive(self, rtisms_sandbox: Sandbox, database: Database, context: Context) -> None:
        rtisms_sandbox.set_timing(pending_for=3600, sent_for=0)
        database.people(DELIVERED)
        send(context)
        assert refresh()["open"] == 1
        assert [row["status"] for row in database.rows()] == ["PENDING"]
        submission_id = database.rows()[0]["submission_id"]
        rtisms_sandbox.add_submission("DELIVERED", submission_id=submission_id, pending_for=0, sent_for=0)
        assert refresh()["open"] == 0
        assert [row["status"] for row in database.rows()] == ["DELIVERED"]
        assert refresh()["requested"] == 0

    def test_rows_older_than_the_lookback_are_counted_and_not_asked_for(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(SENT, SENT)
        send(context)
        old = (datetime.now(UTC) - timedelta(days=8)).isoformat(timespec="seconds")
        database.do("UPDATE ledger SET sent_at = ? WHERE reference = 'july-1'", old)
        summary = refresh()
        assert (summary["requested"], summary["open"], summary["too_old"]) == (1, 1, 1)
        summary = refresh(lookback=timedelta(days=9))
        assert (summary["requested"], summary["open"], summary["too_old"]) == (2, 2, 0)

    def test_an_id_that_the_api_does_not_know_stays_open(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(DELIVERED, DELIVERED)
        send(context)
        database.do("UPDATE ledger SET submission_id = '77' WHERE reference = 'july-1'")
        summary = refresh()
        assert (summary["missing"], summary["fetched"], summary["open"]) == (1, 1, 1)

    def test_an_id_that_is_none_is_named(self, rtisms_sandbox: Sandbox, database: Database, context: Context) -> None:
        database.people(DELIVERED)
        send(context)
        database.do("UPDATE ledger SET submission_id = 'tbd'")
        with pytest.raises(AirflowFailException, match="A submission_id in the table ledger is a str of 3 characters"):
            refresh()

    def test_a_table_of_details_refreshes_too(self, rtisms_sandbox: Sandbox, database: Database) -> None:
        first = rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0)
        second = rtisms_sandbox.add_submission("PENDING", pending_for=0, sent_for=0)
        load = RtiSmsDetailsToSqlOperator(
            task_id="load", table="ledger", sql_conn_id="shop", create_table=True, submission_ids=[first, second]
        )
        load.execute({})
        rtisms_sandbox.add_submission("DELIVERED", submission_id=second, pending_for=0, sent_for=0)
        refresh()
        with closing(sqlite3.connect(database.path)) as connection:
            statuses = dict(connection.execute("SELECT submission_id, status FROM ledger"))
        assert statuses == {first: "DELIVERED", second: "DELIVERED"}
        assert asked(rtisms_sandbox) == {first: 1, second: 2}

    def test_an_older_answer_does_not_replace_a_newer_one(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(SENT)
        send(context)
        later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat(timespec="seconds")
        database.do("UPDATE ledger SET fetched_at = ?, status = 'SENT', is_final = 0", later)
        refresh()
        assert [row["status"] for row in database.rows()] == ["SENT"]

    def test_a_final_state_arrives_although_the_clock_of_another_worker_was_ahead(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(DELIVERED)
        send(context)
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
        database.do("UPDATE ledger SET fetched_at = ?, status = 'SENT', is_final = 0", later)
        assert refresh()["open"] == 0
        assert [row["status"] for row in database.rows()] == ["DELIVERED"]

    @pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="Airflow 2 lets only one thread call execute")
    def test_a_final_state_stays_although_the_clock_of_another_worker_is_ahead(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(SENT)
        send(context)
        rtisms_sandbox.set_faults(Fault("latency", seconds=1, path="sms"))
        earlier = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(refresh)
            wait_until(lambda: bool(asked(rtisms_sandbox)) or late.done(), what="the request of the late refresh")
            database.do("UPDATE ledger SET fetched_at = ?, status = 'DELIVERED', is_final = 1", earlier)
            late.result()
        assert [(row["status"], row["is_final"]) for row in database.rows()] == [("DELIVERED", 1)]

    def test_a_refresh_that_failed_goes_on_from_there(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(*[DELIVERED] * 5)
        send(context)
        database.do("CREATE TRIGGER broken BEFORE UPDATE ON ledger BEGIN SELECT raise(ABORT, 'no'); END")
        with pytest.raises(AirflowFailException, match="5 of 5 submissions are kept"):
            refresh()
        assert {row["status"] for row in database.rows()} == {"submitted"}
        database.do("DROP TRIGGER broken")
        assert refresh()["resumed"] == 5
        assert set(asked(rtisms_sandbox).values()) == {1}
        assert {row["status"] for row in database.rows()} == {"DELIVERED"}

    def test_a_retry_goes_on_although_more_was_sent_meanwhile(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(*[DELIVERED] * 5)
        send(context)
        attempts = {"ti": TaskInstance("hourly")}
        database.do("CREATE TRIGGER broken BEFORE UPDATE ON ledger BEGIN SELECT raise(ABORT, 'no'); END")
        with pytest.raises(AirflowFailException, match="5 of 5 submissions are kept"):
            refresh(attempts)
        database.do("DROP TRIGGER broken")
        send({"ti": TaskInstance("tuesday"), **journal()})
        summary = refresh(attempts)
        assert (summary["requested"], summary["written"], summary["resumed"]) == (10, 10, 5)
        assert set(asked(rtisms_sandbox).values()) == {1}

    @pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="Airflow 2 lets only one thread call execute")
    def test_two_dags_refresh_on_one_worker_at_once(
        self, rtisms_sandbox: Sandbox, database: Database, context: Context
    ) -> None:
        database.people(*[DELIVERED] * 5)
        send(context)
        rtisms_sandbox.set_faults(Fault("latency", seconds=0.3, path="sms"))
        runs = [{"ti": TaskInstance(run)} for run in ("hourly", "after the send")]
        with ThreadPoolExecutor(2) as pool:
            summaries = list(pool.map(refresh, runs))
        assert [one["requested"] for one in summaries] == [5, 5]
        assert {row["status"] for row in database.rows()} == {"DELIVERED"}

    def test_the_lookback_has_no_limit(self, rtisms_sandbox: Sandbox, database: Database, context: Context) -> None:
        database.people(DELIVERED)
        send(context)
        assert refresh(lookback=timedelta(days=3_000_000))["requested"] == 1

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ({"submission_ids": ["1"]}, "Give one of"),
            ({"create_table": True}, "leave out create_table"),
            ({"on_conflict": "ignore"}, "leave out create_table and on_conflict"),
            ({"lookback": "7"}, "lookback is a str"),
            ({"lookback": timedelta(days=-1)}, "lookback is"),
            ({"lookback": 0}, "lookback is 0"),
        ],
    )
    def test_wrong_arguments(self, rtisms_sandbox: Sandbox, database: Database, arguments: Row, problem: str) -> None:
        with pytest.raises(AirflowFailException, match=problem):
            refresh(**arguments)
