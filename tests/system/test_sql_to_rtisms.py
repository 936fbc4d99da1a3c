"""From a table of PostgreSQL to people, in a DAG that Airflow itself runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, BaseHook

from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sql import databases
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from scripts.servers import DEBIAN_POSTGRESQL, Postgres
from tests.system.conftest import RunDag
from tests.system.test_sending import everything_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.skipif(not DEBIAN_POSTGRESQL.exists(), reason="PostgreSQL is not installed"),
]
pytest.importorskip("airflow.providers.postgres", reason="the PostgreSQL provider is not installed")
psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

COUNT = 3000
DIGITS = "5698"
"""What all numbers begin with, and nothing else in a database does."""


def number(index: int) -> str:
    return f"+{DIGITS}{index // 800:04}{100 + index % 800}"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        with closing(psycopg2.connect(host="127.0.0.1", port=server.port, user="postgres")) as database, database:
            cursor = database.cursor()
            cursor.execute("CREATE TABLE people (id bigint PRIMARY KEY, phone text, name text, due date)")
            rows = [(index, number(index), f"Señora {index}") for index in range(COUNT)]
            cursor.executemany("INSERT INTO people VALUES (%s, %s, %s, '2026-11-30')", rows)
        yield server


@pytest.fixture(autouse=True)
def _connection(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"conn_type": "postgres", "host": "127.0.0.1", "port": postgres.port, "login": "postgres"}
    monkeypatch.setenv("AIRFLOW_CONN_PEOPLE", json.dumps({**fields, "schema": "postgres"}))


def send(**arguments: Any) -> SqlToRtiSmsOperator:
    defaults = {
        "task_id": "send",
        "sql": "SELECT * FROM people",
        "sql_conn_id": "people",
        "recipient_column": "phone",
        "text": "Hola {name}, vence el {due}",
        "reference_column": "id",
        "sender": "96000",
    }
    return SqlToRtiSmsOperator(**{**defaults, **arguments})


def test_a_dag_reads_its_sql_and_text_from_files_and_leaks_nothing(
    request: pytest.FixtureRequest,
    run_dag: RunDag,
    rtisms_sandbox: Sandbox,
    airflow_database: Path,
    tmp_path: Path,
) -> None:
    rtisms_sandbox.set_balance("10000")
    (tmp_path / "people.sql").write_text("SELECT * FROM {{ params.table }} WHERE id >= %(least)s ORDER BY id")
    (tmp_path / "text.j2").write_text("Hola {name}, run {{ run_id }}\n")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    output = tmp_path / "results.csv"
    with DAG(
        request.node.name,
        schedule=None,
        start_date=start,
        template_searchpath=[str(tmp_path)],
        params={"table": "people"},
    ) as dag:
        send(sql="people.sql", text="text.j2", parameters={"least": "1000"}, output_path=str(output))
    run = run_dag(dag, xcoms=("submissions",))
    assert run.state == "success"
    summary = run.xcom("send")
    assert summary == run.xcom("send", "submissions")
    assert (summary["path"], summary["messages"], summary["submitted"]) == (str(output), 2000, 2000)
    messages = {message.recipient: message.text for message in rtisms_sandbox.state().messages}
    assert messages.keys() == {number(index) for index in range(1000, COUNT)}
    assert messages[number(1000)].startswith("Hola Señora 1000, run manual__")
    # Not through capfd: Airflow's loggers would keep its stream, which is closed when this test ends.
    capture = request.config.pluginmanager.getplugin("capturemanager")
    shown = everything_in(airflow_database) + "".join(capture.read_global_capture())
    assert "redacted: 1 values" in shown
    assert DIGITS + "0001" not in shown
    assert f"Señora {1001}" not in shown  # not the text above: the database has the source of this file too
    assert "SELECT * FROM people WHERE id" in shown


def test_rows_stay_on_the_server_until_they_are_read() -> None:
    connection = BaseHook.get_hook("people").get_conn()
    with closing(connection), closing(databases.open_cursor(connection)) as cursor:
        assert cursor.name == "rtisms"
        cursor.execute("SELECT generate_series(1, 100000000)")
        assert len(cursor.fetchmany(10)) == 10


def test_values_go_out_as_a_person_writes_them(rtisms_sandbox: Sandbox) -> None:
    columns = (
        "0::numeric(20,8) AS a, 12.50::numeric AS b, 1e22::float8 AS c, 0.1::float8 AS d, 7::float8 AS e, "
        "'2026-03-01'::date AS f, '10:05'::time AS g, '2026-03-01 10:05+00'::timestamptz AS h, "
        "'00000000-0000-0000-0000-000000000007'::uuid AS i, '{\"x\": 1}'::jsonb::text AS j"
    )
    text = " ".join(f"{{{column}}}" for column in "abcdefghij")
    send(sql=f"SELECT phone, id, {columns} FROM people WHERE id = 1", text=text).execute({})  # noqa: S608
    (message,) = rtisms_sandbox.state().messages
    written = message.text.split(" ")
    assert written[:8] == ["0.00000000", "12.50", "1" + "0" * 22, "0.1", "7", "2026-03-01", "10:05:00", "2026-03-01"]
    assert datetime.fromisoformat(f"{written[7]} {written[8]}") == datetime(2026, 3, 1, 10, 5, tzinfo=UTC)
    assert written[9:] == ["00000000-0000-0000-0000-000000000007", '{"x":', "1}"]


@pytest.mark.parametrize(
    "value",
    [
        *(
            "'NaN'::float8",
            "'Infinity'::float8",
            "'NaN'::numeric",
            "1e130::numeric(131)",
            "'{\"a\": 1}'::jsonb",
            "'[1]'::json",
        ),
        *("ARRAY[1, 2]", "'{a,b}'::text[]", "'-1 hour'::interval", "'\\x00'::bytea", "true", "null", "int4range(1, 5)"),
    ],
)
def test_a_value_that_no_text_can_hold_is_refused(rtisms_sandbox: Sandbox, value: str) -> None:
    sql = "SELECT phone, id, ? AS name FROM people WHERE id = 1".replace("?", value)
    with pytest.raises(AirflowFailException, match=r"row 1 has .* in name.*Nothing was sent"):
        send(sql=sql, text="Hola {name}").execute({})
    assert rtisms_sandbox.state().requests == {}
