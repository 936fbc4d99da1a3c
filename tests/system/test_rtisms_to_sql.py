"""From the API to a table of a real PostgreSQL, which is killed and locked while the operator loads."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.bulk import store as file_store
from airflow_provider_rtisms.sandbox import Sandbox, SandboxProcess
from airflow_provider_rtisms.sql.table import to_strict_json
from scripts.servers import Postgres
from tests.patience import wait_until
from tests.system.test_databases import POSTGRESQL, Database, database, load, sandbox, servers, with_drivers
from tests.unit.bulk.conftest import UNSAVED, kill_on_the_way, kill_when, seeded
from tests.unit.bulk.test_lineage import Reported, reported

__all__ = ["database", "reported", "sandbox", "servers"]

pytestmark = [pytest.mark.slow, pytest.mark.system]

PSYCOPG2 = with_drivers("psycopg2")
COUNT = 3000
UNKNOWN = [str(number) for number in range(101, 121)]
#: How lineage names the table on its server.
TABLE = "/postgres/public/details"


@pytest.fixture(autouse=True)
def new_table(database: Database) -> None:
    """A table ``details`` as the package makes it."""
    database.do("DROP TABLE details")
    load([], create_table=True)


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change the Connection ``db``."""

    def log_in(**fields: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps(json.loads(os.environ["AIRFLOW_CONN_DB"]) | fields))

    return log_in


def ids_in(database: Database) -> list[str]:
    """Return the submission ids of the table, sorted as numbers."""
    return [row[0] for row in database.do("SELECT submission_id FROM details ORDER BY submission_id::numeric")]


@contextmanager
def blocked(database: Database) -> Iterator[Callable[[], bool]]:
    """Stop each load in its INSERT: another transaction has written a row. Yield whether a load has come that far."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%'"
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        row = "INSERT INTO details (submission_id, is_final, fetched_at) VALUES (%s, false, '2020-01-01')"
        cursor.execute(row, seeded(1))
        yield lambda: bool(database.do(waiting))


@POSTGRESQL
def test_a_restart_in_the_middle_of_the_load_is_survived(
    database: Database,
    sandbox: Sandbox,
    servers: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_store, "BACKOFF_BASE", 4.0)  # a slow machine takes its time to restart
    summaries: list[Any] = []
    thread = threading.Thread(target=lambda: summaries.append(load(seeded(100))))
    with blocked(database) as is_loading:
        thread.start()
        wait_until(is_loading, "a load")
        with servers(Postgres).down():
            pass
    thread.join()
    assert summaries[0]["written"] == 100
    assert ids_in(database) == seeded(100)
    assert sandbox.state().count_responses(200, "GET sms") == 100
    assert "Attempt 1 of 6 failed" in caplog.text


@PSYCOPG2
def test_nothing_is_lost_or_doubled_by_kills(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, scratch = tmp_path / "missing.txt", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    task = textwrap.dedent(
        f"""
        from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
        from tests.unit.bulk.conftest import UNSAVED, kill_on_the_way, kill_when, seeded
        summary = RtiSmsDetailsToSqlOperator(
            task_id="load", table="details", sql_conn_id="db", submission_ids=[*{UNKNOWN}, *seeded({COUNT})],
            on_missing="skip", missing_path={str(missing)!r},
        ).execute({{}})
        assert summary["requested"] == summary["fetched"] + summary["missing"] == summary["written"] + 20, summary
        """
    )
    with SandboxProcess(seed=COUNT) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", sandbox.connection_json())
        for point in sorted(random.sample(range(1, COUNT - 600), 3)):
            kill_on_the_way(sandbox, task, after=point)
            assert ids_in(database) == []
        with blocked(database) as is_loading:
            kill_when(is_loading, task)
        assert ids_in(database) == []
        before = sandbox.state().count_responses(200, "GET sms")
        subprocess.run([sys.executable, "-c", task], check=True, capture_output=True)
        assert sandbox.state().count_responses(200, "GET sms") == before  # all of them were in the part
        assert before <= COUNT + 3 * UNSAVED
    assert ids_in(database) == seeded(COUNT)
    assert sorted(missing.read_text().split()) == UNKNOWN
    assert not [path for path in scratch.rglob("*") if path.is_file()]


@PSYCOPG2
@pytest.mark.parametrize(
    ("rights", "arguments", "named"),
    [
        ("SELECT ON details", {}, r"permission denied for table details.* Grant .* INSERT and UPDATE"),
        ("SELECT, INSERT ON details", {}, "permission denied for table details"),
        ("SELECT, INSERT, UPDATE ON details", {"table": "other", "create_table": True}, "CREATE on the schema"),
        ("SELECT, INSERT, UPDATE ON details", {"table": "private.details"}, "permission denied for schema private"),
    ],
)
def test_a_missing_permission_is_found_before_the_first_request(
    database: Database, sandbox: Sandbox, log_in: Callable[..., None], rights: str, arguments: Any, named: str
) -> None:
    database.do("DROP SCHEMA IF EXISTS private CASCADE; DROP ROLE IF EXISTS loader")
    database.do("CREATE ROLE loader LOGIN; CREATE SCHEMA private; CREATE TABLE private.details (a int)")
    database.do(f"REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT {rights} TO loader")
    log_in(login="loader")
    try:
        with pytest.raises(AirflowFailException, match=named):
            load(seeded(3), **arguments)
        database.do("GRANT SELECT, INSERT, UPDATE ON details TO loader")
        assert load([])["written"] == 0
        database.do("REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC")
        with pytest.raises(AirflowFailException, match=r"temporary tables.* and TEMPORARY .*on the database"):
            load(seeded(3))
    finally:
        database.do("GRANT TEMPORARY ON DATABASE postgres TO PUBLIC; DROP OWNED BY loader; DROP ROLE loader")
    assert not sandbox.state().requests


@PSYCOPG2
def test_a_wrong_login_fails_and_a_server_that_is_down_may_be_back_later(
    database: Database, sandbox: Sandbox, servers: Any, log_in: Callable[..., None]
) -> None:
    log_in(login="nobody")
    with pytest.raises(AirflowFailException, match=r"failed \(OperationalError\).* Check the host, the login"):
        load(seeded(3))
    log_in(login="postgres")
    with servers(Postgres).down(), pytest.raises(Exception, match="run the task again later") as caught:
        load(seeded(3))
    assert not isinstance(caught.value, AirflowFailException)
    assert not sandbox.state().requests


@PSYCOPG2
@pytest.mark.parametrize(
    "raw",
    [
        *(r'{"a": "\u0000"}', r'{"a": "\ud800"}', r'{"a": "\\u0000"}', r'{"a": "\ud83d\ude00 \\ \t ñ"}'),
        *('{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999999}', '{"a": 1e-999999}', '{"a": ' + "1" * 4000 + "}"),
        '{"a":\n\t1.50}',
    ],
    ids=ascii,
)
def test_every_json_lands_in_raw(database: Database, raw: str) -> None:
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT j, jsonb_typeof(j) FROM (SELECT %s::jsonb AS j) AS t", [to_strict_json(raw)])
        ((stored, kind),) = cursor.fetchall()
    assert (stored if kind == "string" else json.dumps(stored)) == (
        raw if kind == "string" else json.dumps(json.loads(raw))
    )


@PSYCOPG2
@pytest.mark.parametrize("kind", ["text", "json"])
def test_raw_may_be_text_or_json(database: Database, kind: str) -> None:
    database.do(f"ALTER TABLE details ADD raw {kind}")
    load(seeded(2), raw=True)
    assert [row[0] for row in database.do("SELECT raw::jsonb->>'id' FROM details ORDER BY 1")] == seeded(2)


@PSYCOPG2
def test_times_without_a_zone_are_utc(database: Database) -> None:
    database.do("ALTER DATABASE postgres SET timezone = 'America/Santiago'")
    database.do("ALTER TABLE details ALTER registered_at TYPE timestamp, ALTER operator_name TYPE varchar(100)")
    load(seeded(2))
    rows = database.do("ALTER DATABASE postgres RESET timezone", "SELECT registered_at FROM details")
    assert rows[0][0].isoformat() == "2020-09-17T14:08:03"


@PSYCOPG2
def test_a_connection_may_have_another_encoding_and_dict_rows(
    database: Database, log_in: Callable[..., None], reported: Reported
) -> None:
    log_in(extra={"cursor": "dictcursor", "client_encoding": "latin1"})
    load([*seeded(3)])
    assert reported()[1] == [f"postgres://127.0.0.1:{json.loads(os.environ['AIRFLOW_CONN_DB'])['port']}{TABLE}"]
    load([*seeded(4)], on_conflict="ignore")
    assert load(sql="SELECT submission_id FROM details ORDER BY 1")["fetched"] == 4
    assert ids_in(database) == seeded(4)
