"""Reports of a real PostgreSQL, MariaDB and SQLite, against the same truth."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_2_PLUS

from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.report import read_report, view_sql
from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE
from tests.system.test_databases import Database, database, load, sandbox, servers
from tests.unit.bulk.conftest import seeded
from tests.unit.test_report import ALL, COLUMNS, TIMES, Ledger, cost, make_rows, truth

__all__ = ["database", "sandbox", "servers"]

pytestmark = pytest.mark.system

ROWS = make_rows(11, 400)


@pytest.fixture
def ledger(database: Database) -> Database:
    """The table ``ledger`` with random rows, of types as the package makes them."""
    number = {"postgres": "numeric", "mysql": "decimal(38, 12)", "sqlite": "NUMERIC"}[database.kind]
    time = {"postgres": "timestamptz", "mysql": "datetime(6)", "sqlite": "TEXT"}[database.kind]
    types = {"is_final": "boolean", "cost": number, **dict.fromkeys(TIMES, time)}
    columns = ", ".join(f"{one} {types.get(one, 'text')}" for one in COLUMNS)
    values = ", ".join(f"({', '.join(literal(row[one], database.kind) for one in COLUMNS)})" for row in ROWS)
    database.do(
        "DROP VIEW IF EXISTS ledger_report",
        "DROP TABLE IF EXISTS ledger",
        f"CREATE TABLE ledger ({columns})",
        f"INSERT INTO ledger VALUES {values}",  # noqa: S608
    )
    return database


def literal(value: Any, kind: str) -> str:
    if value is None or isinstance(value, bool | Decimal):
        return "NULL" if value is None else str(value)
    text = value.isoformat() if isinstance(value, datetime) else value.replace("'", "''")
    text = text.replace("+00:00", "") if kind == "mysql" and isinstance(value, datetime) else text
    return f"'{text}'"


def test_each_database_counts_the_same(ledger: Database) -> None:
    assert read_report("db", "ledger") == truth(ROWS)
    assert read_report("db", "ledger", campaign_column="team", by="campaign,day") == truth(
        ROWS, ["campaign", "day"], "team"
    )
    days = {"since": "2026-10-31", "until": "2026-11-01"}
    assert read_report("db", "ledger", by="network", **days) == truth(ROWS, ["network"], **days)  # type: ignore[arg-type]
    assert read_report("db", "ledger", by=()) == truth(ROWS, [])


def test_views_count_the_same_in_any_session(ledger: Database) -> None:
    dialect = {"postgres": "postgresql"}.get(ledger.kind, ledger.kind)
    ledger.do(view_sql(dialect, "ledger"))
    session = {
        "postgres": "SET TIME ZONE 'America/Santiago'",
        "mysql": "SET time_zone = '-04:00'",
        "sqlite": "SELECT 1",
    }
    found = ledger.do(session[ledger.kind], "SELECT * FROM ledger_report")
    expected = truth(ROWS)[:-1]
    lines = [dict(zip(expected[0], row, strict=True)) for row in found]
    for line in lines:
        line |= {"day": line["day"] and str(line["day"]), "cost": cost(Decimal(str(line["cost"])) + Decimal("0.00"))}
        line["share"] = None if line["share"] is None else float(line["share"])
    assert sorted(lines, key=lambda line: [line[one] or "" for one in ALL]) == expected


@pytest.mark.parametrize("separator", ["%", "'", "%s", "\\", "x"])
def test_any_text_separates_campaigns(ledger: Database, separator: str) -> None:
    rows = [row | {"reference": (row["reference"] or "").replace("-", separator)} for row in ROWS]
    written = separator.replace("\\", "\\\\") if ledger.kind == "mysql" else separator
    ledger.do(f"UPDATE ledger SET reference = replace(reference, '-', {literal(written, '')})")  # noqa: S608
    expected = truth(rows, ["campaign"], separator=separator)
    assert read_report("db", "ledger", by="campaign", campaign_separator=separator) == expected


def test_a_table_of_details(sandbox: Sandbox, database: Database) -> None:
    database.do("DROP TABLE IF EXISTS made")
    load(seeded(50), table="made", create_table=True)
    database.do("ALTER TABLE made ADD COLUMN Team varchar(10)", "UPDATE made SET Team = 'a'")
    database.do("ALTER TABLE made ADD COLUMN wave integer", "UPDATE made SET wave = 7")
    (*lines, total) = read_report("db", "made", by="network")
    assert total["sent"] == sum(line["sent"] for line in lines) == 50
    assert Decimal(total["cost"]) == database.do("SELECT sum(cost) FROM made")[0][0]
    assert read_report("db", "made", by="campaign", campaign_column="team")[0]["campaign"] == "a"
    assert read_report("db", "made", by="campaign", campaign_column="wave")[0]["campaign"] == "7"


def test_a_missing_table_is_named(database: Database) -> None:
    with pytest.raises(RtiSmsError, match=r"nowhere.*Name a table or a view"):
        read_report("db", "nowhere")


@pytest.mark.slow
def test_a_shell_finds_a_stored_connection(airflow_database: Path, tmp_path: Path) -> None:
    Ledger(tmp_path / "it").create(make_rows(1))
    fields = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "it")})
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "connections", "add", "stored", "--conn-json", fields], check=True, timeout=PATIENCE)
    for command in (
        *([[*airflow, "rtisms", "report"]] if AIRFLOW_V_3_2_PLUS else []),
        [sys.executable, "-m", "airflow_provider_rtisms.report"],
    ):
        words = [*command, "--conn-id", "stored", "--table", "ledger", "--output", "json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == truth(make_rows(1))
