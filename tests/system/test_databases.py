"""What the operators say and do when a real PostgreSQL, MariaDB or SQLite fails, keeps a row, or holds a lock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.bulk import store as file_store
from airflow_provider_rtisms.bulk.store import columns_of
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sql.databases import get_hook
from airflow_provider_rtisms.sql.table import (
    Layout,
    SqlTable,
    layout_of_details,
    open_table,
    parse_table_name,
)
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from scripts.servers import DEBIAN_POSTGRESQL, MariaDb, Postgres
from tests.unit.bulk.conftest import seeded

pytestmark = pytest.mark.system

PHONE, NAME, DATE = "+56912345678", "O'Higgins (Bernardo) \"el 'jefe'\"", "12/34/2026"
VALUES = ["912345678", "Higgins", "Bernardo", "jefe", "12/34", "4711"]
"""Parts of values that no error may show."""
COLUMNS = (
    "submission_id varchar(100) PRIMARY KEY, status varchar(20), status_code varchar(10), is_final boolean, "
    "registered_at {time}, sent_at {time}, done_at {time}, cost numeric(10,4), operator_id varchar(20), "
    "operator_name varchar(100), operator_mcc varchar(5), operator_mnc varchar(5), fetched_at {time}"
)


class Database:
    """
    A database behind the Connection ``db``.

    :param kind: of it: ``postgres``, ``mysql`` or ``sqlite``.
    :param connect: opens another connection.
    :param time: the type of times.
    """

    def __init__(self, kind: str, connect: Callable[[], Any], time: str) -> None:
        self.kind = kind
        self.connect = connect
        self.time = time

    def do(self, *statements: str) -> list[Any]:
        """Run statements, and return the rows of the last one."""
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            rows = list(cursor.fetchall()) if cursor.description else []
            connection.commit()
        return rows

    def create(self) -> None:
        """Create the tables ``people``, with one row, and ``details``."""
        name, values = NAME.replace("'", "''"), f"4711, '{PHONE}', '{DATE}'"
        self.do("DROP TABLE IF EXISTS people", "DROP TABLE IF EXISTS details")
        self.do(
            "CREATE TABLE people (id integer PRIMARY KEY, phone varchar(100), day varchar(100), name varchar(100))",
            f"INSERT INTO people VALUES ({values}, '{name}')",  # noqa: S608
            f"CREATE TABLE details ({COLUMNS.format(time=self.time)})",
        )


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[type[Any]], Any]]:
    """Return the server of a class; it is started once."""
    running: dict[type[Any], Any] = {}

    def server(kind: type[Any]) -> Any:
        if kind not in running:
            running[kind] = kind().__enter__()
        return running[kind]

    yield server
    for one in running.values():
        one.__exit__(None, None, None)


def with_drivers(*names: str) -> pytest.MarkDecorator:
    """Run a test with some of the drivers only."""
    return pytest.mark.parametrize("database", names, indirect=True)


POSTGRESQL = with_drivers("psycopg2", "psycopg")
MARIADB = with_drivers("MySQLdb", "mysql.connector")
SERVERS = with_drivers("psycopg2", "psycopg", "MySQLdb", "mysql.connector")


@pytest.fixture(params=["psycopg2", "psycopg", "MySQLdb", "mysql.connector", "sqlite3"])
def database(
    request: pytest.FixtureRequest, servers: Any, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Database:
    driver = pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    fields: dict[str, Any] = {"host": "127.0.0.1"}
    if request.param.startswith("psycopg"):
        hooks = pytest.importorskip("airflow.providers.postgres.hooks.postgres", reason="no PostgreSQL provider")
        if not DEBIAN_POSTGRESQL.exists():
            pytest.skip("PostgreSQL is not installed")
        monkeypatch.setattr(hooks, "USE_PSYCOPG3", request.param == "psycopg")
        port = servers(Postgres).port
        fields |= {"conn_type": "postgres", "port": port, "login": "postgres", "schema": "postgres"}
        made = Database("postgres", lambda: driver.connect(host="127.0.0.1", port=port, user="postgres"), "timestamptz")
    elif request.param == "sqlite3":
        fields = {"conn_type": "sqlite", "host": str(tmp_path / "db")}
        made = Database("sqlite", lambda: sqlite3.connect(tmp_path / "db", timeout=0), "text")
    else:
        pytest.importorskip("airflow.providers.mysql.hooks.mysql", reason="no MySQL provider")
        if shutil.which("mariadbd") is None:
            pytest.skip("MariaDB is not installed")
        port = servers(MariaDb).port
        client = "mysqlclient" if request.param == "MySQLdb" else "mysql-connector-python"
        extra = {"client": client} | ({"use_pure": True} if client != "mysqlclient" else {})
        fields |= {"conn_type": "mysql", "port": port, "login": "root", "schema": "warehouse", "extra": extra}
        other = import_module("MySQLdb")
        made = Database(
            "mysql",
            lambda: other.connect(host="127.0.0.1", port=port, user="root", database="warehouse"),
            "datetime(6) NULL",
        )
    monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps(fields))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(file_store, "BACKOFF_BASE", 0.01)
    made.create()
    return made


@pytest.fixture
def sandbox(rtisms_sandbox: Sandbox) -> Sandbox:
    rtisms_sandbox.reset(seed=100)
    return rtisms_sandbox


def send(sql: str, parameters: Any = None, **arguments: Any) -> Any:
    return SqlToRtiSmsOperator(
        **{"task_id": "send", "sql": sql, "parameters": parameters, "sql_conn_id": "db", "recipient_column": "phone"},
        **{"text": "hola", "sender": "96000", **arguments},
    ).execute({})


def load(ids: Any = None, **arguments: Any) -> dict[str, Any]:
    defaults = {"task_id": "load", "table": "details", "sql_conn_id": "db", "submission_ids": ids}
    return RtiSmsDetailsToSqlOperator(**{**defaults, **arguments}).execute({})


def failure_of(attempt: Callable[[], Any], *, is_permanent: bool = True) -> str:
    """Return the message of a failure, which is permanent or not; nothing that is printed of it shows a value."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        attempt()
    shown, error = "".join(traceback.format_exception(caught.value)), caught.value.__cause__ or caught.value
    while error := error.__cause__ or error.__context__:  # type: ignore[assignment]
        shown += repr(error)
    assert not [value for value in VALUES if value in shown]
    assert isinstance(caught.value, AirflowFailException) is is_permanent
    return str(caught.value)


#: Parameters that do not fit one mark.
UNFIT: list[Any] = [[], [1, 2, 3], {"other": PHONE}]


class TestErrorsOfQueries:
    @pytest.mark.parametrize(
        ("sql", "parameters"),
        [
            ("SELECT phone, name::int FROM people", None),
            ("SELECT phone, (1 / (id - 4711)) FROM people", None),
            ("SELECT phone FROM people WHERE id = %s", [NAME]),
            ("SELECT phone FROM people WHERE %s::date > now()", [DATE]),
            ("SELECT phone FROM people WHERE name ~ %s", ["(" + NAME]),
            ("SELECT phone FROM people LIMIT %s", [NAME]),
            ("SELECT name::json FROM people", None),
        ],
    )
    @POSTGRESQL
    def test_values_are_not_shown(self, sandbox: Sandbox, database: Database, sql: str, parameters: Any) -> None:
        message = failure_of(lambda: send(sql, parameters))
        assert "The query failed (" in message
        assert "Nothing was sent" in message
        assert not sandbox.state().requests

    @pytest.mark.parametrize(
        ("sql", "parameters", "named"),
        [
            ("SELECT phone FROM nobody", None, "nobody"),
            ("SELECT telephone FROM people", None, "telephone"),
            ("SELECT telephone FROM people WHERE name = {}", [NAME], "telephone"),
            ("SELECT phone FROM people WHERE name = {} AND id = {} ORDRE BY id", [NAME, 4711], "ORDRE"),
            (f"SELECT phone FROM people WHERE phone = '{PHONE}' FROM", None, "FROM"),  # noqa: S608
            (f"SELECT phone FROM people WHERE phone = '{PHONE}", None, "The query failed ("),  # noqa: S608
            ("SELECT nothing_like_it(phone, {}, {}) FROM people", [NAME, 4711], "nothing_like_it"),
            *(("SELECT phone FROM people WHERE id = {}", one, "The query failed (") for one in UNFIT),
        ],
    )
    def test_a_mistake_is_named_and_not_retried(
        self, sandbox: Sandbox, database: Database, sql: str, parameters: Any, named: str
    ) -> None:
        mark = "?" if database.kind == "sqlite" else "%s"
        sql = sql.replace("{}", mark)
        message = failure_of(lambda: send(sql, parameters))
        assert named in message
        assert "Nothing was sent" in message
        message = failure_of(lambda: load(sql=sql, parameters=parameters))
        assert named in message
        assert not sandbox.state().requests

    @SERVERS
    def test_a_percent_sign_beside_parameters(self, database: Database) -> None:
        sql, least = "SELECT phone FROM people WHERE name LIKE '%' AND id > %s", 4711
        try:
            message = failure_of(lambda: send(sql, [least]))
        except pytest.fail.Exception:
            pytest.skip("this driver takes a single %")
        assert "Write %% for a % sign" in message
        assert send(sql.replace("'%'", "'%%'"), [least]) == []


class TestRights:
    @SERVERS
    def test_a_missing_right_is_not_retried(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        if database.kind == "postgres":
            with suppress(Exception):  # it is there already
                database.do("CREATE ROLE reader LOGIN")
        else:
            database.do(
                "CREATE OR REPLACE USER reader@localhost", "GRANT SELECT ON warehouse.details TO reader@localhost"
            )
        fields = json.loads(os.environ["AIRFLOW_CONN_DB"])
        monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps(fields | {"login": "reader"}))
        message = failure_of(lambda: send("SELECT phone FROM people"))
        assert "people" in message
        assert "Grant the user of the Connection SELECT" in message
        monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps(fields | {"login": "reader", "password": "wrong"}))
        if database.kind == "mysql":
            message = failure_of(lambda: send("SELECT phone FROM people"))
            assert "Check the host, the login, the password" in message

    def test_a_read_only_server_is_not_retried(self, sandbox: Sandbox, database: Database) -> None:
        turn_on, turn_off = {
            "postgres": (
                "ALTER ROLE postgres SET default_transaction_read_only = on",
                "SET default_transaction_read_only = off; ALTER ROLE postgres RESET default_transaction_read_only",
            ),
            "mysql": ("SET GLOBAL tx_read_only = 1", "SET GLOBAL tx_read_only = 0"),
            "sqlite": ("", ""),
        }[database.kind]
        if not turn_on:
            pytest.skip("see tests/unit")
        database.do(turn_on)
        try:
            message = failure_of(lambda: load(seeded(3)))
        finally:
            with closing(database.connect()) as connection:
                if database.kind == "postgres":
                    connection.autocommit = True
                for statement in turn_off.split("; "):
                    connection.cursor().execute(statement)
        assert "read-only server" in message
        assert not sandbox.state().requests


class TestCodes:
    def test_a_load_that_fails_shows_nothing(self, database: Database) -> None:
        """A trigger of the table reports values."""
        text = (PHONE + " " + NAME).replace("'", "''")
        body = {
            "postgres": f"RAISE EXCEPTION '{text}' USING ERRCODE = '22000', DETAIL = new.submission_id",
            "mysql": f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1366, MESSAGE_TEXT = '{text}'",
            "sqlite": f"SELECT RAISE(ABORT, '{text}')",
        }[database.kind]
        make_trigger(database, "INSERT", body)
        message = failure_of(lambda: load(seeded(3)))
        assert "Writing the table details failed (" in message
        assert seeded(1)[0] not in message
        assert database.do("SELECT count(*) FROM details") == [(0,)]


def make_trigger(database: Database, event: str, body: str) -> None:
    """Let something happen before each row that is written into ``details``."""
    if database.kind == "postgres":
        function = (
            f"CREATE OR REPLACE FUNCTION trigger_of_details() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; "
        )
        database.do(
            function + "END $$",
            f"CREATE TRIGGER t BEFORE {event} ON details FOR EACH ROW EXECUTE FUNCTION trigger_of_details()",
        )
    elif database.kind == "mysql":
        database.do(f"CREATE TRIGGER t BEFORE {event} ON details FOR EACH ROW {body}")
    else:
        database.do(f"CREATE TRIGGER t BEFORE {event} ON details BEGIN {body}; END")


class TestOldRows:
    OLD, NEW = "'2020-01-01 00:00:00'", "'2999-01-01 00:00:00'"

    def insert(self, database: Database, submission_id: str, moment: str) -> None:
        """Write a row of another run."""
        columns = "submission_id, status, is_final, fetched_at"
        database.do(f"INSERT INTO details ({columns}) VALUES ('{submission_id}', 'SENT', false, {moment})")  # noqa: S608

    @pytest.mark.parametrize("returned", ["RETURN NULL", "RETURN OLD", "new := old; RETURN new"])
    def test_a_trigger_that_keeps_the_old_row_fails_the_load(self, database: Database, returned: str) -> None:
        if database.kind != "postgres" and returned != "RETURN NULL":
            pytest.skip("PostgreSQL's")
        self.insert(database, seeded(1)[0], self.OLD)
        kept = ", ".join(f"new.{one} = old.{one}" for one in ("status", "is_final", "fetched_at"))
        body = {"postgres": returned, "mysql": f"SET {kept}", "sqlite": "SELECT RAISE(IGNORE)"}[database.kind]
        make_trigger(database, "UPDATE", body)
        message = failure_of(lambda: load(seeded(3)))
        assert "1 of 3 records did not land in the table details" in message
        assert database.do("SELECT status FROM details") == [("SENT",)]
        assert load(seeded(3), on_conflict="ignore")["written"] == 2

    def test_rows_that_are_newer_stay(self, database: Database) -> None:
        one, two, _ = seeded(3)
        self.insert(database, one, self.OLD)
        self.insert(database, two, self.NEW)
        assert load(seeded(3))["written"] == 2
        assert load(seeded(3))["fetched"] == 3
        states = database.do("SELECT status FROM details ORDER BY submission_id")
        assert [row[0] for row in states] == ["DELIVERED", "SENT", "DELIVERED"]

    def test_a_column_that_rounds_times_does_not_fail(self, database: Database) -> None:
        if database.kind == "postgres":
            database.do("CREATE DOMAIN moment AS timestamp(0)", "ALTER TABLE details ALTER fetched_at TYPE moment")
        elif database.kind == "mysql":
            database.do("ALTER TABLE details MODIFY fetched_at datetime NULL")
        try:
            self.insert(database, seeded(1)[0], self.OLD)
            assert load(seeded(20))["written"] == 20
            assert load(seeded(20))["fetched"] == 20
        finally:
            if database.kind == "postgres":
                database.do("DROP TABLE details", "DROP DOMAIN moment")


class Stopped(BaseException):
    """What a signal raises, as Airflow's timeout of a task does."""


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise :class:`Stopped` in this thread after so many seconds."""

    def stop(*_: Any) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class TestLocks:
    """Another transaction holds the lock until the test ends, or for a while."""

    @contextmanager
    def locked(self, database: Database, table: str = "details", *, whole: bool = True) -> Iterator[None]:
        with closing(database.connect()) as connection:
            cursor = connection.cursor()
            if database.kind == "sqlite":
                connection.isolation_level = None
                cursor.execute("BEGIN EXCLUSIVE")
            elif whole:
                cursor.execute(f"LOCK TABLE {table}" + (" WRITE" if database.kind == "mysql" else ""))
            else:
                cursor.execute(f"SELECT * FROM {table} FOR UPDATE")  # noqa: S608
            # A wait that hears no signal would not end otherwise.
            timer = threading.Timer(150, connection.close)
            timer.start()
            try:
                yield
                assert timer.is_alive(), "the lock was let go after 150 s"
            finally:
                timer.cancel()
                timer.join()

    @pytest.mark.parametrize("whole", [True, False], ids=["table", "row"])
    @pytest.mark.parametrize("operator", [lambda: load(seeded(3)), lambda: send("SELECT phone FROM people FOR UPDATE")])
    @SERVERS
    def test_a_signal_ends_the_wait(self, database: Database, operator: Callable[[], Any], *, whole: bool) -> None:
        TestOldRows().insert(database, seeded(1)[0], TestOldRows.OLD)
        with (
            self.locked(database, "details", whole=whole),
            self.locked(database, "people", whole=whole),
            pytest.raises(BaseException) as caught,  # noqa: PT011
            stopped_after(3),
        ):
            operator()
        assert isinstance(caught.value, Stopped) or isinstance(caught.value.__cause__, Stopped)
        assert database.do("SELECT status FROM details") == [("SENT",)]

    def test_the_load_goes_on_once_the_lock_is_gone(self, database: Database) -> None:
        TestOldRows().insert(database, seeded(1)[0], TestOldRows.OLD)
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with self.locked(database, whole=False):
                held.set()
                release.wait(120)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(100)
        timer = threading.Timer(2.5, release.set)
        timer.start()
        try:
            assert load(seeded(30))["written"] == 30
        finally:
            release.set()
            thread.join()
            timer.join()
        assert database.do("SELECT count(*) FROM details WHERE status = 'DELIVERED'") == [(30,)]

    @POSTGRESQL
    def test_the_limit_of_the_connection_holds(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        fields = json.loads(os.environ["AIRFLOW_CONN_DB"])
        fields["extra"] = {"options": "-c lock_timeout=1500"}
        monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps(fields))
        with self.locked(database, "people"):
            message = failure_of(lambda: send("SELECT phone FROM people"), is_permanent=False)
        assert "55P03" in message


def test_a_table_may_be_called_as_our_staging_table(database: Database) -> None:
    name = "RTISMS_staging" if database.kind == "sqlite" else "rtisms_staging"
    database.do(f"DROP TABLE IF EXISTS {name}", f"ALTER TABLE details RENAME TO {name}")
    assert load(seeded(3), table=name)["written"] == 3
    assert load(seeded(3), table=name)["fetched"] == 3
    database.do(f"DROP TABLE {name}")


def record(**values: Any) -> bytes:
    """Return a record as the part of a fetch has it."""
    made = dict.fromkeys(columns_of(raw="raw" in values)) | {"submission_id": "7", "is_final": True}
    return json.dumps(made | {"fetched_at": "2026-09-06T00:30:00+00:00"} | values).encode() + b"\n"


TYPES = "SELECT attname, atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'details'::regclass AND attnum > 0"


class TestCreateTable:
    def test_a_table_of_ours_takes_every_value(self, database: Database) -> None:
        database.do("DROP TABLE details")
        name = "\\N \\. \t \n % %s :x 'Ñ\" \N{PILE OF POO}" + "x" * 300
        lines = [
            record(
                operator_name=name, cost=0.75, registered_at="2026-09-06T00:30:00+00:00", raw=json.dumps({"a": name})
            ),
            record(submission_id="8" * 100, cost=1e-7, is_final=False, raw="{}"),
        ]
        for expected in (2, 2):
            table = open_table(get_hook("it", "db"), "details", layout_of_details(columns_of(raw=True)), create=True)
            assert table.load(lines) == expected
        rows = database.do(
            "SELECT submission_id, operator_name, cost, is_final, sent_at, raw FROM details ORDER BY submission_id"
        )
        assert [row[0] for row in rows] == ["7", "8" * 100]
        assert rows[0][1] == name
        assert [float(row[2]) for row in rows] == [0.75, 1e-7]
        assert [bool(row[3]) for row in rows] == [True, False]
        assert [row[4] for row in rows] == [None, None]
        if database.kind == "postgres":
            types = dict(database.do(TYPES))
            assert {one: types[one] for one in ("submission_id", "sent_at", "is_final", "cost", "raw")} == {
                **{"submission_id": "text", "sent_at": "timestamp with time zone", "is_final": "boolean"},
                **{"cost": "numeric", "raw": "jsonb"},
            }
        raw = rows[0][5]
        assert (raw if isinstance(raw, dict) else json.loads(raw)) == {"a": name}
        ((moment,),) = database.do("SELECT registered_at FROM details WHERE registered_at IS NOT NULL")
        moment = datetime.fromisoformat(str(moment))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        assert moment == datetime(2026, 9, 6, 0, 30, tzinfo=UTC)

    def test_names_are_taken_as_they_are(self, database: Database) -> None:
        for name in ("Od'd :x", "select"):
            assert load(seeded(3), table=name, create_table=True)["written"] == 3
            assert load(seeded(4), table=name, on_conflict="ignore")["written"] == 1
            mark = "`" if database.kind == "mysql" else '"'
            assert database.do(f"SELECT count(*) FROM {mark}{name}{mark}") == [(4,)]  # noqa: S608
            database.do(f"DROP TABLE {mark}{name}{mark}")

    def test_more_rows_than_one_batch_land(self, database: Database) -> None:
        table = open_table(get_hook("it", "db"), "details", layout_of_details(columns_of(raw=False)))
        assert table.load(record(submission_id=str(number)) for number in range(1, 2502)) == 2501
        assert database.do("SELECT count(*) FROM details") == [(2501,)]


def test_a_key_may_have_two_columns(database: Database) -> None:
    layout = Layout(
        {"reference": "text", "run": "text", "status": "text", "at": "time"}, ["at"], ["reference", "run"], "at"
    )

    def write(*rows: tuple[str, str, str, int]) -> int:
        table = SqlTable(get_hook("it", "db"), parse_table_name("ledger"), layout, "update")
        table.check(create=True)
        made = [dict(zip(layout.kinds, (*row[:3], f"2026-01-0{row[3]}T00:00:00+00:00"), strict=True)) for row in rows]
        return table.load(json.dumps(row).encode() for row in made)

    database.do("DROP TABLE IF EXISTS ledger")
    assert write(("a", "1", "SENT", 2), ("a", "2", "SENT", 2), ("b", "1", "SENT", 2)) == 3
    assert write(("a", "1", "DELIVERED", 3), ("a", "2", "DELIVERED", 1)) == 1
    rows = database.do("SELECT status FROM ledger ORDER BY reference, run")
    assert [row[0] for row in rows] == ["DELIVERED", "SENT", "SENT"]
    database.do(
        "DROP TABLE ledger", "CREATE TABLE ledger (reference varchar(9) PRIMARY KEY, run varchar(9), status varchar(9))"
    )
    database.do(f"ALTER TABLE ledger ADD at {database.time}")
    with pytest.raises(RtiSmsError, match="unique key on reference, run alone"):
        write()
    database.do("DROP TABLE ledger")


#: Types of PostgreSQL that hold no fractions.
ROUNDING = ("numeric(10,0)", "numeric(10,-1)", "rounded")


class TestTablesThatAreRefused:
    """They are refused before the first request, with the column, the reason and the remedy."""

    @pytest.fixture(autouse=True)
    def _nothing_requested(self, sandbox: Sandbox) -> Iterator[None]:
        yield
        assert not sandbox.state().requests

    @pytest.mark.parametrize(
        ("statement", "named"),
        [
            ("MODIFY cost numeric", r"has cost as decimal\(10,0\), which rounds 0\.75 to 1, .* decimal with a scale"),
            ("MODIFY cost float", r"has cost as float, which has to be decimal with a scale or double"),
            ("MODIFY done_at timestamp NULL", r"has done_at as timestamp, which .* time zone .* has to be datetime"),
            ("MODIFY fetched_at timestamp(6) NULL", r"has fetched_at as timestamp\(6\), which"),
            ("MODIFY sent_at date NULL", r"has sent_at as date, which has to be datetime"),
            ("ENGINE=MyISAM", r"has the engine MyISAM, which has no transactions: .* ENGINE=InnoDB"),
            ("ENGINE=Aria", r"has the engine Aria, which has no transactions"),
            (
                "MODIFY operator_name varchar(100) CHARACTER SET utf8mb3",
                r"has operator_name as varchar\(100\) in utf8mb3, which cannot hold every character.*TO CHARACTER SET",
            ),
            ("MODIFY operator_name varchar(100) CHARACTER SET latin1", r"operator_name as varchar\(100\) in latin1"),
            ("MODIFY status enum('SENT','DELIVERED')", r"has status as enum.*, which has to be varchar or text"),
            ("MODIFY submission_id bigint", r"has submission_id as bigint.*, which has to be varchar or text"),
            ("DROP PRIMARY KEY, ADD INDEX (submission_id)", r"has no unique key on submission_id alone"),
            ("DROP PRIMARY KEY, ADD UNIQUE (submission_id(5))", r"has no unique key on submission_id alone"),
            ("ADD UNIQUE named (operator_name, status)", r"other unique keys on columns of records: named"),
            ("ADD day date NOT NULL", r"columns that records do not fill.*: day"),
        ],
    )
    @MARIADB
    def test_of_mariadb(self, database: Database, statement: str, named: str) -> None:
        database.do(f"ALTER TABLE details {statement}")
        with pytest.raises(AirflowFailException, match=named):
            load(seeded(3))

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            *((f"ALTER cost TYPE {one}", r"has cost as numeric\(.*, which rounds 0\.75 to 1") for one in ROUNDING),
            ("ALTER cost TYPE integer", "has cost as integer, which has to be numeric or double precision"),
            ("DROP COLUMN status", "has no column status"),
            ("ALTER submission_id TYPE bigint USING 1", "submission_id as bigint, which has to be text or character"),
            ("ALTER sent_at TYPE date", "has sent_at as date, which has to be timestamp with time zone or timestamp"),
            ("ADD day date NOT NULL", "records do not fill.*: day"),
            ("DROP CONSTRAINT details_pkey", r"Add a unique key on submission_id alone: ALTER TABLE"),
            ("DROP CONSTRAINT details_pkey, ADD UNIQUE (submission_id, status)", "Add a unique key on submission_id"),
            (
                "DROP CONSTRAINT details_pkey; ALTER TABLE details ADD PRIMARY KEY (submission_id) DEFERRABLE",
                "DEFERRABLE",
            ),
            ("ADD UNIQUE (submission_id) DEFERRABLE INITIALLY DEFERRED", "DEFERRABLE"),
            ("ADD note needed", "do not fill.*: note"),
            ("ADD note other", "do not fill.*: note"),
        ],
    )
    @POSTGRESQL
    def test_of_postgresql(self, database: Database, change: str, named: str) -> None:
        database.do("CREATE DOMAIN rounded AS numeric(8,0)", "CREATE DOMAIN needed AS text NOT NULL")
        database.do("CREATE DOMAIN other AS needed", f"ALTER TABLE details {change}")
        try:
            with pytest.raises(AirflowFailException, match=named):
                load(seeded(3))
        finally:
            database.do("DROP TABLE details", "DROP DOMAIN rounded", "DROP DOMAIN needed CASCADE")

    @pytest.mark.parametrize("has_partition", [False, True])
    @POSTGRESQL
    def test_a_partitioned_table_needs_a_partition(self, database: Database, has_partition: bool) -> None:
        columns = f"{COLUMNS.format(time='timestamptz')}, note text NOT NULL DEFAULT 'x'"
        database.do("DROP TABLE details", f"CREATE TABLE details ({columns}) PARTITION BY HASH (submission_id)")
        if has_partition:
            database.do("CREATE TABLE part PARTITION OF details FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
            assert load([])["written"] == 0
            return
        with pytest.raises(AirflowFailException, match="has no partitions"):
            load(seeded(3))

    @pytest.mark.parametrize("table", ["pg_temp.x", "pg_temp_3.x", "temp.x"])
    @pytest.mark.parametrize("create", [True, False])
    def test_a_temporary_one(self, database: Database, table: str, *, create: bool) -> None:
        with pytest.raises(AirflowFailException, match=r"temporary one, which disappears with its connection"):
            load(seeded(3), table=table, create_table=create)


@MARIADB
class TestMariaDb:
    def test_more_columns_and_a_key_of_the_users(self, database: Database) -> None:
        database.do(
            "ALTER TABLE details DROP PRIMARY KEY, ADD id bigint AUTO_INCREMENT PRIMARY KEY, "
            "ADD UNIQUE (submission_id), "
            "ADD note varchar(9) NOT NULL DEFAULT 'none', ADD at timestamp NOT NULL DEFAULT current_timestamp"
        )
        assert load(seeded(3))["written"] == 3
        assert load(seeded(4), on_conflict="ignore")["written"] == 1
        assert load(seeded(4))["written"] == 4
        assert database.do("SELECT count(*), min(note) FROM details") == [(4, "none")]

    def test_a_server_that_cuts_values_is_told_not_to(self, database: Database) -> None:
        before = database.do("SELECT @@GLOBAL.sql_mode")[0][0]
        database.do("ALTER TABLE details MODIFY operator_name varchar(5)", "SET GLOBAL sql_mode = ''")
        try:
            message = failure_of(lambda: load(seeded(30)))
        finally:
            database.do(f"SET GLOBAL sql_mode = '{before}'")
        assert "1406). Make each column wide enough" in message
        assert database.do("SELECT count(*) FROM details") == [(0,)]

    @pytest.mark.parametrize(
        ("rights", "named"),
        [
            (["SELECT"], "INSERT"),
            (["SELECT", "INSERT"], "UPDATE"),
            (["SELECT", "INSERT", "UPDATE"], "CREATE TEMPORARY TABLES"),
        ],
    )
    def test_a_missing_right_is_found_before_the_first_request(
        self, sandbox: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch, rights: list[str], named: str
    ) -> None:
        database.do(
            "CREATE OR REPLACE USER loader@localhost",
            *(f"GRANT {right} ON warehouse.details TO loader@localhost" for right in rights),
            *(
                []
                if named.startswith("CREATE")
                else ["GRANT CREATE TEMPORARY TABLES ON warehouse.* TO loader@localhost"]
            ),
        )
        monkeypatch.setenv(
            "AIRFLOW_CONN_DB", json.dumps(json.loads(os.environ["AIRFLOW_CONN_DB"]) | {"login": "loader"})
        )
        message = failure_of(lambda: load(seeded(3)))
        assert named in message
        assert not sandbox.state().requests
        database.do(
            "GRANT SELECT, INSERT, UPDATE ON warehouse.details TO loader@localhost",
            "GRANT CREATE TEMPORARY TABLES ON warehouse.* TO loader@localhost",
        )
        assert load(seeded(3))["written"] == 3

    def test_rows_that_are_not_read_hide_no_mistake(self, sandbox: Sandbox, database: Database) -> None:
        message = failure_of(lambda: load(sql="SELECT if(seq = 2, concat('Bern', 'ardo'), seq) FROM seq_1_to_5000"))
        assert "row 2 of the query is a str of 8 characters" in message
        assert not sandbox.state().requests
