"""
``airflow rtisms`` in a shell, where it fails, and the preview of a task; the blocks of the documents run its commands
with success.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_2_PLUS

from airflow_provider_rtisms.preview import main
from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE

DAG = """
from airflow.providers.common.compat.sdk import DAG
from airflow_provider_rtisms.operators.rtisms import RtiSmsGetDetailsOperator, RtiSmsSendOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator

with DAG("dunning", schedule=None, params={"least": 2}):
    query = {"sql": "SELECT * FROM people WHERE id >= {{ params.least }}", "sql_conn_id": "shop"}
    columns = {"recipient_column": "phone", "text": "Hola {name}, {{ macros.ds_add(ds, 0)[:2] }}"}
    out = {"output_path": "/nowhere/{{ ti.try_number }}.csv", "results_table": "sent", "create_table": True}
    more = {"exclude_sql": "SELECT phone FROM people WHERE id = 3", "price": "0.5", "sender": "{{ var.value.sender }}"}
    SqlToRtiSmsOperator(task_id="table", **query, **columns, **out, **more)
    RtiSmsSendOperator(task_id="of_a_run", recipients="{{ ti.xcom_pull('people') }}", text="hola", sender="96000")
    RtiSmsSendOperator.partial(task_id="mapped", text="hola").expand(recipients=["+56900000100"])
    RtiSmsGetDetailsOperator(task_id="another", submission_id="1")
"""


@pytest.fixture
def dunning(airflow_database: Path, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A DAG file, and the database of its people behind a Connection."""
    pytest.importorskip("airflow.providers.sqlite")
    (airflow_database.parent / "dags" / "dunning.py").write_text(DAG)
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE people (id INT, phone TEXT, name TEXT)")
        rows = [
            (1, "+56900000101", "Ana"),
            (2, "+56900000102", "Eva"),
            (3, "+56900000103", "Iga"),
            (4, "+48600100104", "Ł"),
        ]
        connection.executemany("INSERT INTO people VALUES (?, ?, ?)", rows)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    monkeypatch.setenv("AIRFLOW_VAR_SENDER", "96000")
    return path


@pytest.mark.slow
@pytest.mark.outer_minors
def test_the_preview_of_a_task(dunning: Path, rtisms_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dag-id", "dunning", "--task-id", "table", "--samples", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for shown in (
        "3 messages, 2 parts, at most 1 each",
        "excluded: 1 message",
        "cost: 1.0",
        "Ł (U+0141) is not in GSM 7-bit: 1 message",
        'message 1: 12 characters, 1 part, charset 1: "Hola Eva, 20"',
    ):
        assert shown in lines
    with sqlite3.connect(dunning) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("people",)]
    assert rtisms_sandbox.state().requests == {}


@pytest.mark.slow
@pytest.mark.outer_minors
@pytest.mark.usefixtures("dunning")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--dag-id", "dunning", "--task-id", "of_a_run"], "The field recipients .*'ti' is undefined.* dry_run=True"),
        (["--dag-id", "dunning", "--task-id", "mapped"], "no mapped one"),
        (["--dag-id", "dunning", "--task-id", "another"], "RtiSmsGetDetailsOperator"),
        (["--dag-id", "dunning", "--task-id", "none"], "dunning has no task none"),
        (["--dag-id", "none", "--task-id", "table"], "There is no DAG none"),
        (["--dag-id", "dunning"], "together"),
        (["--dag-id", "dunning", "--task-id", "table", "--text", "a"], "together"),
        (["--dag-id", "dunning", "--task-id", "table", "--price", "-1"], "price"),
    ],
)
def test_a_task_that_cannot_be_previewed(
    options: list[str], named: str, capsys: pytest.CaptureFixture[str], rtisms_sandbox: Sandbox
) -> None:
    assert main(options) == 1
    assert re.search(named, capsys.readouterr().err)
    assert rtisms_sandbox.state().requests == {}


@pytest.mark.slow
@pytest.mark.outer_minors
@pytest.mark.usefixtures("dunning")
@pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="commands of providers are from Airflow 3.2 on")
def test_the_preview_of_a_task_in_a_shell(dunning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections and Variables are in Airflow's database."""
    monkeypatch.delenv("AIRFLOW_CONN_SHOP")
    monkeypatch.delenv("AIRFLOW_VAR_SENDER")
    for words in (f"connections add shop --conn-type sqlite --conn-host {dunning}", "variables set sender 96000"):
        subprocess.run([sys.executable, "-m", "airflow", *words.split()], timeout=PATIENCE, check=True)
    command = [sys.executable, "-m", "airflow", "rtisms", "preview", "--dag-id", "dunning", "--task-id", "table"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=PATIENCE, check=True)
    assert "3 messages, 2 parts, at most 1 each" in done.stdout.splitlines()
