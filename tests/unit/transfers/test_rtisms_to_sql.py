"""From the API to a table of SQLite; tests/system does the same with PostgreSQL, kills and restarts."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseHook

from airflow_provider_rtisms.bulk import store as file_store
from airflow_provider_rtisms.bulk.store import RtiSmsStorageUnavailableError
from airflow_provider_rtisms.hooks.templates import Redacted
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sandbox.state import FIRST_SEEDED_ID
from airflow_provider_rtisms.sql.table import SqlTable
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from tests.unit.bulk.conftest import bucket  # noqa: F401
from tests.unit.sqlite_file import SqliteFile

COLUMNS = (
    "submission_id TEXT {key}, status TEXT, status_code TEXT, is_final BOOLEAN, registered_at TIMESTAMP, "
    "sent_at TIMESTAMP, done_at TIMESTAMP, "
    "cost NUMERIC, operator_id TEXT, operator_name VARCHAR(10), operator_mcc TEXT, operator_mnc TEXT, "
    "fetched_at TIMESTAMP"
)
OLD, NEW = "2020-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"


class Database(SqliteFile):
    """A database file, and the Connection ``warehouse`` that leads to it."""

    def create(self, *, key: str = "PRIMARY KEY", more: str = "") -> None:
        """Create a table of records."""
        self.do(f"CREATE TABLE details ({COLUMNS.format(key=key)}{more})")

    def ids(self) -> list[str]:
        """Return the submission ids of the table, sorted."""
        return [row[0] for row in self.do("SELECT submission_id FROM details ORDER BY 1")]

    def refuse_some(self, how: str) -> None:
        """Let a trigger decide what becomes of one row in ten."""
        condition = "WHEN new.submission_id LIKE '%9'"
        self.do(f"CREATE TRIGGER t BEFORE INSERT ON details {condition} BEGIN SELECT RAISE({how}); END")


@pytest.fixture
def sandbox(rtisms_sandbox: Sandbox) -> Sandbox:
    rtisms_sandbox.reset(seed=500)
    return rtisms_sandbox


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))


@pytest.fixture
def database(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    return Database(tmp_path / "warehouse.db", "warehouse", monkeypatch)


def seeded(count: int) -> list[str]:
    return [str(FIRST_SEEDED_ID + number) for number in range(count)]


def load(ids: Any = None, **arguments: Any) -> dict[str, Any]:
    defaults = {"task_id": "load", "table": "details", "sql_conn_id": "warehouse", "submission_ids": ids}
    return RtiSmsDetailsToSqlOperator(**{**defaults, **arguments}).execute({})


def leftovers(tmp_path: Path) -> list[str]:
    return [path.suffix for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


def test_a_new_table_has_the_right_columns(sandbox: Sandbox, database: Database, tmp_path: Path) -> None:
    costly = sandbox.add_submission("UNDELIVERED", pending_for=0, sent_for=0, cost=1.25)
    summary = load([costly, *seeded(3)], create_table=True)
    assert (summary["table"], summary["written"], summary["fetched"], summary["path"]) == ("details", 4, 4, None)
    assert summary["cost"] == 4.25
    types = dict(database.rows("SELECT name, type FROM pragma_table_info('details')"))  # type: ignore[arg-type]
    assert types == {
        **dict.fromkeys(["submission_id", "status", "status_code", "registered_at", "sent_at", "done_at"], "TEXT"),
        **{"is_final": "BOOLEAN", "cost": "NUMERIC", "fetched_at": "TEXT"},
        **dict.fromkeys(["operator_id", "operator_name", "operator_mcc", "operator_mnc"], "TEXT"),
    }
    assert database.rows("SELECT name FROM pragma_table_info('details') WHERE pk") == [("submission_id",)]
    row = dict(database.do("SELECT * FROM details WHERE submission_id = ?", costly)[0])
    expected = {"status": "UNDELIVERED", "is_final": 1, "cost": 1.25, "operator_mcc": "730"}
    assert {name: row[name] for name in expected} == expected
    assert abs((datetime.now(UTC) - datetime.fromisoformat(row["fetched_at"])).total_seconds()) < 1000
    assert not leftovers(tmp_path)


def test_raw_is_the_json_as_it_came(database: Database) -> None:
    load(seeded(2), create_table=True, raw=True, table="main.details")
    for submission_id, raw in database.do("SELECT submission_id, raw FROM details"):
        assert json.loads(raw)["id"] == submission_id
        assert json.loads(raw)["info"]["operator"]["mcc"] == "730"


class TestOnConflict:
    def test_update_replaces_older_rows_and_keeps_other_columns(self, database: Database) -> None:
        database.create(more=", note TEXT DEFAULT 'none'")
        one, two, three = seeded(3)
        for submission_id, fetched_at in ((one, OLD), (two, NEW), (three, None)):
            sql = "INSERT INTO details (submission_id, status, fetched_at, note) VALUES (?, 'SENT', ?, 'mine')"
            database.do(sql, submission_id, fetched_at)
        assert load([], create_table=False)["written"] == 0
        assert load(seeded(4))["written"] == 3
        rows = database.rows("SELECT status, note FROM details ORDER BY submission_id")
        assert rows == [("DELIVERED", "mine"), ("SENT", "mine"), ("DELIVERED", "mine"), ("DELIVERED", "none")]

    def test_ignore_leaves_rows_alone(self, database: Database) -> None:
        database.create()
        database.do("INSERT INTO details (submission_id, status, fetched_at) VALUES (?, 'SENT', ?)", seeded(1)[0], OLD)
        summary = load(seeded(3), on_conflict="ignore")
        assert (summary["fetched"], summary["written"]) == (3, 2)
        statuses = database.rows("SELECT status FROM details ORDER BY submission_id")
        assert statuses == [("SENT",), ("DELIVERED",), ("DELIVERED",)]


class TestSources:
    def test_ids_come_from_a_query(self, database: Database) -> None:
        database.do("CREATE TABLE sent (id INTEGER, at TEXT)")
        database.fill("sent", list(zip(seeded(6), ["yesterday", "today"] * 3, strict=True)))
        load(sql="SELECT id FROM sent WHERE at = :day", parameters={"day": "yesterday"}, create_table=True)
        assert database.ids() == seeded(6)[::2]

    def test_the_query_may_go_to_another_database(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = SqliteFile(tmp_path / "source.db", "source", monkeypatch)
        source.do("CREATE TABLE sent (name, submission_id, other)")
        source.fill("sent", [("a", f" 00{seeded(1)[0]} ", 1)])
        load(sql="SELECT * FROM sent", source_conn_id="source", create_table=True)
        load(sql="SELECT submission_id AS one, name FROM sent", submission_ids_column="one", source_conn_id="source")
        assert database.ids() == seeded(1)

    def test_ids_come_from_a_file(self, database: Database, tmp_path: Path) -> None:
        (tmp_path / "ids.csv").write_text("\n".join(["id", *seeded(3)]))
        load(submission_ids_path=str(tmp_path / "ids.csv"), submission_ids_column="id", create_table=True)
        assert database.ids() == seeded(3)

    @pytest.mark.parametrize(
        ("sql", "named"),
        [
            ("SELECT 1 AS a, 2 AS b", "has no column 'submission_id' (submission_ids_column). The columns are: a, b."),
            ("SELECT 1 AS submission_id, 2 AS submission_id", "has more than one column 'submission_id'"),
            ("SELECT NULL", "row 1 of the query has no submission id"),
            ("SELECT 1 UNION ALL SELECT '+56912345678'", "row 2 of the query is a str of 12 characters"),
            ("SELECT 1.5", "row 1 of the query is a value of type float"),
            ("CREATE TABLE other (id)", "returns no table"),
            ("None", 'sql is the word "None"'),
        ],
    )
    def test_a_query_that_gives_no_ids_is_refused(
        self, sandbox: Sandbox, database: Database, sql: str, named: str
    ) -> None:
        with pytest.raises(AirflowFailException) as caught:
            load(sql=sql, create_table=True)
        assert named in str(caught.value)
        assert "12345678" not in str(caught.value)
        assert not sandbox.state().requests


class TestMissing:
    def test_fail_writes_no_row_and_the_retry_asks_only_for_them(
        self, sandbox: Sandbox, database: Database, tmp_path: Path
    ) -> None:
        missing = tmp_path / "missing.csv"
        database.create()
        with pytest.raises(AirflowFailException, match=r"1 of 21 .* 20 of 21 submissions are kept in /"):
            load(["7", *seeded(20)], missing_path=str(missing))
        assert database.ids() == []
        assert missing.read_text().splitlines()[1].startswith("7,")
        sandbox.add_submission(submission_id="7")
        before = sandbox.state().count_responses(200, "GET sms")
        summary = load(["7", *seeded(20)])
        assert (summary["resumed"], summary["written"]) == (20, 21)
        assert sandbox.state().count_responses(200, "GET sms") == before + 1
        assert database.ids() == sorted(["7", *seeded(20)])
        assert not leftovers(tmp_path)

    def test_skip_names_them(self, database: Database, tmp_path: Path) -> None:
        missing = tmp_path / "missing.txt"
        summary = load(["7", *seeded(2)], on_missing="skip", missing_path=str(missing), create_table=True)
        assert (summary["requested"], summary["fetched"], summary["missing"]) == (3, 2, 1)
        assert (summary["missing_ids"], missing.read_text()) == (["7"], "7\n")


class TestBeforeTheFirstRequest:
    @pytest.fixture(autouse=True)
    def _nothing_requested(self, sandbox: Sandbox) -> Iterator[None]:
        yield
        assert not sandbox.state().requests

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({}, r"The table details does not exist\. Create it, or set create_table=True"),
            *(({"table": name}, "table is .*names no table") for name in ("a.b.c", "", "a..b", '"a', "a\nb", None)),
            ({"sql_conn_id": None}, "sql_conn_id is missing: name the Connection"),
            ({"sql_conn_id": "nowhere"}, r"There is no Connection 'nowhere' \(sql_conn_id\): add it"),
            ({"sql_conn_id": "rtisms_default"}, "not one of a database"),
            ({"on_conflict": "replace"}, 'on_conflict is a str of 7 characters: use "update" or "ignore"'),
            ({"on_missing": "ignore"}, 'on_missing is a str of 6 characters: use "fail" or "skip"'),
            ({"submission_ids": None}, "Give one of sql, submission_ids, submission_ids_path and refresh=True"),
            ({"sql": "SELECT 1"}, "Give one of sql, submission_ids, submission_ids_path and refresh=True"),
            ({"source_conn_id": "warehouse"}, "source_conn_id is for sql"),
            ({"parameters": []}, "parameters are for sql"),
            ({"part_folder": 5, "create_table": True}, "part_folder is a value of type int"),
            ({"missing_path": "m.parquet", "create_table": True}, "missing_path ends in"),
            ({"rtisms_conn_id": "nowhere"}, "nowhere"),
        ],
    )
    def test_a_bad_argument_is_refused(self, database: Database, arguments: dict[str, Any], named: str) -> None:
        with pytest.raises(AirflowException, match=named):
            load(**{"ids": seeded(1), **arguments} if "submission_ids" not in arguments else arguments)

    @pytest.mark.parametrize(
        ("changes", "options", "named"),
        [
            (["DROP COLUMN cost"], {}, "has no column cost. Change the table"),
            (
                ["DROP COLUMN operator_mcc", "ADD operator_mcc INTEGER"],
                {},
                "has operator_mcc as INTEGER, which has to be TEXT or BLOB",
            ),
            (
                ["DROP COLUMN done_at", "ADD done_at REAL", "DROP COLUMN status"],
                {},
                "has no column status, has done_at as REAL",
            ),
            ([], {"key": ""}, "(Add|has no) (a )?unique key on submission_id alone"),
            ([], {"key": "", "more": ", PRIMARY KEY (submission_id, fetched_at)"}, "unique key on submission_id alone"),
            ([], {"more": ", day TEXT NOT NULL"}, "columns that records do not fill.*: day. Give them a default"),
        ],
    )
    def test_a_table_that_does_not_fit_is_refused(
        self, database: Database, changes: list[str], options: dict[str, str], named: str
    ) -> None:
        database.create(**options)
        for change in changes:
            database.do(f"ALTER TABLE details {change}")
        with pytest.raises(AirflowFailException, match=named):
            load(seeded(1))

    def test_a_database_that_may_not_be_written_is_found_out(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database.create()
        fields = {"conn_type": "sqlite", "host": str(database.path), "extra": {"mode": "ro"}}
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
        with pytest.raises(AirflowFailException, match=r"OperationalError, SQLITE_READONLY.* permission"):
            load(seeded(1))

    def test_a_locked_database_stays_retryable(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        database.create()
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, timeout=0))
        with closing(connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RtiSmsStorageUnavailableError, match=r"SQLITE_BUSY.* run the task again later"):
                load(seeded(1))

    @pytest.mark.parametrize("missing", ["sqlalchemy", "airflow.providers.common.sql.hooks.sql"])
    def test_a_worker_without_the_packages_is_told_what_to_install(
        self, database: Database, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        monkeypatch.delitem(sys.modules, "airflow_provider_rtisms.sql.table")
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(AirflowFailException, match=r"pip install 'airflow-provider-rtisms\[sql\]'"):
            load(seeded(1), create_table=True)

    def test_another_database_is_refused(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        class SnowflakeHook(type(BaseHook.get_hook("warehouse")).__mro__[1]):  # type: ignore[misc]
            conn_name_attr = "other_conn_id"

            def get_conn(self) -> Any:
                pytest.fail("it was connected to")

        monkeypatch.setattr(BaseHook, "get_hook", lambda *_: SnowflakeHook(other_conn_id="warehouse"))
        with pytest.raises(AirflowFailException) as caught:
            load(seeded(1), create_table=True)
        for named in ("SnowflakeHook", "PostgreSQL", "SQLite", "MySQL", "MariaDB", "output_path"):
            assert named in str(caught.value)


class TestRetry:
    def test_a_load_that_fails_is_repeated_from_the_part(
        self, sandbox: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(file_store, "BACKOFF_BASE", 0.001)
        database.create()
        upsert = SqlTable._write
        failures = [sqlite3.OperationalError, sqlite3.OperationalError]

        def failing(table: SqlTable, connection: Any, waits: Any, json_lines: Any) -> int:
            written = upsert(table, connection, waits, json_lines)
            if written and failures:
                error = failures.pop()("disk I/O error in '+56912345678'")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return written

        monkeypatch.setattr(SqlTable, "_write", failing)
        with caplog.at_level(logging.WARNING):
            assert load(seeded(30))["written"] == 30
        assert not failures
        assert "Attempt 2 of 6 failed" in caplog.text
        assert "12345678" not in caplog.text
        assert sandbox.state().count_responses(200, "GET sms") == 30

    def test_a_load_that_keeps_failing_leaves_the_table_as_it_was(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(file_store, "BACKOFF_BASE", 0.001)
        database.create()
        database.refuse_some("ABORT, 'not ''+56912345678'''")
        with pytest.raises(
            AirflowFailException, match=r"^Writing the table details .*IntegrityError.* 30 of 30 .* kept"
        ) as caught:
            load(seeded(30))
        assert "12345678" not in str(caught.value)
        assert "12345678" not in "".join(traceback.format_exception(caught.value))
        assert database.ids() == []
        database.do("DROP TRIGGER t")
        assert load(seeded(30))["requests"] == 0
        assert database.ids() == seeded(30)

    def test_records_that_a_trigger_swallows_are_found_out(self, database: Database) -> None:
        database.create()
        database.refuse_some("IGNORE")
        with pytest.raises(AirflowFailException, match="3 of 30 records did not land in the table details"):
            load(seeded(30))
        assert database.ids() == []

    def test_the_part_may_be_in_an_object_store(
        self,
        database: Database,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest,
    ) -> None:
        folder: Any = request.getfixturevalue("bucket") / "parts"
        database.create()
        with pytest.raises(AirflowFailException, match=r"5 of 6 submissions are kept in memory:/.*/parts/details\."):
            load(["7", *seeded(5)], part_folder=str(folder))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # the retry runs on another machine
        summary = load(["7", *seeded(5)], part_folder=str(folder), on_missing="skip")
        assert (summary["resumed"], summary["written"]) == (5, 5)
        assert not folder.fs.find(folder.path)

    def test_two_tables_do_not_share_a_part(self, database: Database) -> None:
        database.create()
        for table in ("a_b", "details"):
            with pytest.raises(AirflowFailException, match="unknown to the API"):
                load(["7", *seeded(5)], table=table, create_table=True)
        assert load(["7", *seeded(5)], on_missing="skip", table="a b", create_table=True)["resumed"] == 0
        assert load(["7", *seeded(5)], on_missing="skip", table="a_b")["resumed"] == 5
        assert load(["7", *seeded(5)], on_missing="skip")["resumed"] == 5


def test_nothing_of_a_response_is_logged(
    database: Database, logged: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    query = {"sql": "SELECT :id", "parameters": {"id": seeded(1)[0]}, "create_table": True, "raw": True}
    operator = RtiSmsDetailsToSqlOperator(task_id="load", table="details", sql_conn_id="warehouse", **query)
    operator.parameters = operator.parameters
    assert isinstance(operator.parameters, Redacted)
    summary = operator.execute({})
    json.dumps(summary)
    shown = logged() + repr(summary)
    assert "Bulk fetch done" in shown
    assert "timestamps" not in shown
