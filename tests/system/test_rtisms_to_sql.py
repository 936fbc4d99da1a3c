"""From the API to a table of a real PostgreSQL, which is killed and locked while the operator loads."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.sandbox import Sandbox, SandboxProcess
from airflow_provider_rtisms.sql.table import to_strict_json
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from scripts.servers import DEBIAN_POSTGRESQL, Postgres
from tests.patience import wait_until
from tests.unit.bulk.conftest import UNSAVED, kill_on_the_way, kill_when, seeded
from tests.unit.bulk.test_lineage import Reported, reported  # noqa: F401

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.skipif(not DEBIAN_POSTGRESQL.exists(), reason="PostgreSQL is not installed"),
]
hooks = pytest.importorskip("airflow.providers.postgres.hooks.postgres", reason="the PostgreSQL provider is missing")
psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

EXAMPLE = Path(__file__).parents[2] / "example_dags" / "example_rtisms_details_to_table.py"
COUNT = 3000
UNKNOWN = [str(number) for number in range(101, 121)]


class Warehouse:
    """A PostgreSQL server, and statements for it."""

    def __init__(self, server: Postgres) -> None:
        self.server = server

    def connect(self) -> Any:
        """Return a connection of the superuser."""
        return psycopg2.connect(host="127.0.0.1", port=self.server.port, user="postgres")

    def do(self, sql: str, *parameters: Any) -> list[Any]:
        """Run a statement in a transaction of its own, and return its rows."""
        with closing(self.connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def connection_json(self, user: str = "postgres") -> str:
        """Return the Connection of Airflow."""
        fields = {"conn_type": "postgres", "host": "127.0.0.1", "port": self.server.port, "login": user}
        return json.dumps({**fields, "schema": "postgres"})

    def ids(self) -> list[str]:
        """Return the submission ids of the table, sorted as numbers."""
        return [row[0] for row in self.do("SELECT submission_id FROM details ORDER BY submission_id::numeric")]

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Stop each load in its INSERT: another transaction has written one of its rows, and may roll back."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            row = "INSERT INTO details (submission_id, is_final, fetched_at) VALUES (%s, false, '2020-01-01')"
            cursor.execute(row, seeded(1))
            yield

    def is_loading(self) -> bool:
        """Return whether a load has sent all records, and waits in its INSERT."""
        return bool(
            self.do("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%%'")
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def warehouse(server: Postgres, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Warehouse:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    warehouse = Warehouse(server)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse.connection_json())
    warehouse.do("DROP TABLE IF EXISTS details")
    return warehouse


@pytest.fixture
def sandbox(rtisms_sandbox: Sandbox) -> Sandbox:
    rtisms_sandbox.reset(seed=300)
    return rtisms_sandbox


@pytest.fixture(params=[True, False], ids=["psycopg 3", "psycopg2"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hook use each of its drivers."""
    monkeypatch.setattr(hooks, "USE_PSYCOPG3", request.param)


def load(ids: Any = None, **arguments: Any) -> dict[str, Any]:
    defaults = {"task_id": "load", "table": "details", "sql_conn_id": "warehouse", "submission_ids": ids}
    return RtiSmsDetailsToSqlOperator(**{**defaults, **arguments}).execute({})


@pytest.mark.usefixtures("driver")
class TestBothDrivers:
    def test_a_new_table_has_the_right_types(self, sandbox: Sandbox, warehouse: Warehouse) -> None:
        costly = sandbox.add_submission("UNDELIVERED", pending_for=0, sent_for=0, cost=0.1)
        load([costly, *seeded(20)], create_table=True, raw=True)
        columns = (
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = 'details' AND table_schema = 'public'"
        )
        moments = dict.fromkeys(["registered_at", "sent_at", "done_at", "fetched_at"], "timestamp with time zone")
        assert dict(warehouse.do(columns)) == {
            **dict.fromkeys(["submission_id", "status", "status_code"], "text"),
            **dict.fromkeys(["operator_id", "operator_name", "operator_mcc", "operator_mnc"], "text"),
            **{**moments, "is_final": "boolean", "cost": "numeric", "raw": "jsonb"},
        }
        ((cost, is_final, raw_id, age),) = warehouse.do(
            "SELECT cost, is_final, raw->>'id', now() - fetched_at FROM details WHERE submission_id = %s", costly
        )
        assert (cost, is_final, raw_id) == (Decimal("0.1"), True, costly)
        assert abs(age.total_seconds()) < 100
        with pytest.raises(psycopg2.errors.UniqueViolation):
            warehouse.do("INSERT INTO details SELECT * FROM details LIMIT 1")

    def test_a_restart_in_the_middle_of_the_load_is_survived(
        self, sandbox: Sandbox, warehouse: Warehouse, caplog: pytest.LogCaptureFixture
    ) -> None:
        load([], create_table=True)
        summaries: list[Any] = []
        thread = threading.Thread(target=lambda: summaries.append(load(seeded(300))))
        with warehouse.blocked():
            thread.start()
            wait_until(warehouse.is_loading, "a load")
            with warehouse.server.down():
                pass
        thread.join()
        assert summaries[0]["written"] == 300
        assert warehouse.ids() == seeded(300)
        assert sandbox.state().count_responses(200, "GET sms") == 300
        assert "Attempt 1 of 6 failed" in caplog.text


def test_nothing_is_lost_or_doubled_by_kills(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.txt"
    task = textwrap.dedent(
        f"""
        from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
        from tests.unit.bulk.conftest import UNSAVED, kill_on_the_way, kill_when, seeded
        summary = RtiSmsDetailsToSqlOperator(
            task_id="load", table="details", sql_conn_id="warehouse", submission_ids=[*{UNKNOWN}, *seeded({COUNT})],
            on_missing="skip", missing_path={str(missing)!r},
        ).execute({{}})
        assert summary["requested"] == summary["fetched"] + summary["missing"] == summary["written"] + 20, summary
        """
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    with SandboxProcess(seed=COUNT) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", sandbox.connection_json())
        load([], create_table=True)

        fetched = lambda: sandbox.state().count_responses(200, "GET sms")  # noqa: E731
        for point in sorted(random.sample(range(1, COUNT - 600), 3)):
            kill_on_the_way(sandbox, task, after=point)
            assert warehouse.ids() == []
        with warehouse.blocked():
            kill_when(warehouse.is_loading, task)
        assert warehouse.ids() == []
        before = fetched()
        subprocess.run([sys.executable, "-c", task], check=True, capture_output=True)
        assert fetched() == before  # all of them were in the part
        assert fetched() <= COUNT + 3 * UNSAVED
    assert warehouse.ids() == seeded(COUNT)
    assert sorted(missing.read_text().split()) == UNKNOWN
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


class TestBeforeTheFirstRequest:
    @pytest.fixture(autouse=True)
    def _nothing_requested(self, sandbox: Sandbox, warehouse: Warehouse) -> Iterator[None]:
        load([], create_table=True)
        sandbox.reset(seed=300)
        yield
        assert not sandbox.state().requests

    @pytest.mark.parametrize(
        ("rights", "arguments", "named"),
        [
            ("SELECT ON details", {}, r"permission denied for table details.* Grant .* INSERT and UPDATE"),
            ("SELECT, INSERT ON details", {}, "permission denied for table details"),
            ("SELECT, INSERT, UPDATE ON details", {"table": "other", "create_table": True}, "CREATE on the schema"),
            ("SELECT, INSERT, UPDATE ON details", {"table": "private.details"}, "permission denied for schema private"),
        ],
    )
    def test_a_missing_permission_is_found_out(
        self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, rights: str, arguments: Any, named: str
    ) -> None:
        warehouse.do("DROP SCHEMA IF EXISTS private CASCADE; DROP ROLE IF EXISTS loader")
        warehouse.do("CREATE ROLE loader LOGIN; CREATE SCHEMA private; CREATE TABLE private.details (a int)")
        warehouse.do(f"REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT {rights} TO loader")
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse.connection_json("loader"))
        try:
            with pytest.raises(AirflowFailException, match=named):
                load(seeded(3), **arguments)
            warehouse.do("GRANT SELECT, INSERT, UPDATE ON details TO loader")
            assert load([])["written"] == 0
            warehouse.do("REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC")
            with pytest.raises(AirflowFailException, match=r"temporary tables.* and TEMPORARY .*on the database"):
                load(seeded(3))
        finally:
            warehouse.do("GRANT TEMPORARY ON DATABASE postgres TO PUBLIC; DROP OWNED BY loader; DROP ROLE loader")

    def test_a_wrong_login_and_a_server_that_is_down(
        self, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse.connection_json("nobody"))
        with pytest.raises(AirflowFailException, match=r"failed \(OperationalError\).* Check the host, the login"):
            load(seeded(3))
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse.connection_json())
        with warehouse.server.down(), pytest.raises(Exception, match="run the task again later") as caught:
            load(seeded(3))
        assert not isinstance(caught.value, AirflowFailException)


class TestRaw:
    @pytest.mark.parametrize(
        "raw",
        [
            r'{"a": "\u0000"}',
            r'{"a": "\ud800"}',
            '{"a": NaN}',
            '{"a": -Infinity}',
            '{"a": 1e999999}',
            '{"a": 1e-999999}',
            '{"a": ' + "1" * 4000 + "}",
            r'{"a": "\ud83d\ude00 \\ \t ñ"}',
            '{"a":\n\t1.50}',
            r'{"a": "\\u0000"}',
        ],
    )
    def test_every_json_lands(self, warehouse: Warehouse, raw: str) -> None:
        ((stored, kind),) = warehouse.do(
            "SELECT j, jsonb_typeof(j) FROM (SELECT %s::jsonb AS j) AS t", to_strict_json(raw)
        )
        assert (stored if kind == "string" else json.dumps(stored)) == (
            raw if kind == "string" else json.dumps(json.loads(raw))
        )

    def test_text_and_json_take_it_too(self, warehouse: Warehouse) -> None:
        for kind in ("text", "json"):
            load([], create_table=True)
            warehouse.do(f"ALTER TABLE details ADD raw {kind}")
            load(seeded(2), raw=True)
            assert [row[0] for row in warehouse.do("SELECT raw::jsonb->>'id' FROM details ORDER BY 1")] == seeded(2)
            warehouse.do("DROP TABLE details")


def test_times_without_a_zone_are_utc(warehouse: Warehouse) -> None:
    load([], create_table=True)
    warehouse.do("ALTER DATABASE postgres SET timezone = 'America/Santiago'")
    warehouse.do("ALTER TABLE details ALTER registered_at TYPE timestamp, ALTER operator_name TYPE varchar(100)")
    load(seeded(2), raw=False)
    ((moment,), _) = warehouse.do("SELECT registered_at FROM details")
    assert moment.isoformat() == "2020-09-17T14:08:03"


def test_a_table_of_another_encoding_and_a_connection_with_dict_rows(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = json.loads(warehouse.connection_json()) | {"extra": {"cursor": "dictcursor", "client_encoding": "latin1"}}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(fields))
    load([*seeded(3)], create_table=True)
    load([*seeded(4)], on_conflict="ignore")
    ids = "SELECT submission_id FROM details ORDER BY 1"
    assert load(sql=ids, submission_ids=None)["fetched"] == 4
    assert warehouse.ids() == seeded(4)


def test_lineage_names_the_table(warehouse: Warehouse, request: pytest.FixtureRequest) -> None:
    read: Reported = request.getfixturevalue("reported")
    load(seeded(2), create_table=True)
    assert read() == ([], [f"postgres://127.0.0.1:{warehouse.server.port}/postgres/public/details"])
