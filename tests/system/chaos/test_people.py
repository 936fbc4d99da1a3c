"""Personal texts from PostgreSQL, with the worker killed (SIGKILL) at random points."""

from __future__ import annotations

import csv
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from airflow_provider_rtisms.sending.outbox import DEFAULT_WINDOW
from scripts.airflow_deployment import AirflowDeployment
from scripts.dag_run import DagRun
from scripts.servers import Postgres

PEOPLE = 5000
KILLS = 10
DIGITS = "5697"


def number(index: int) -> str:
    return f"+{DIGITS}{index // 800:04}{100 + index % 800}"


@pytest.fixture(scope="module")
def people(postgres: Postgres, deployment: AirflowDeployment) -> Iterator[None]:
    """Make a table of people in a database of its own, and the Connection ``people``."""
    psycopg2 = pytest.importorskip("psycopg2")
    server = {"host": "127.0.0.1", "port": postgres.port, "user": "postgres"}
    with closing(psycopg2.connect(**server)) as database:
        database.autocommit = True
        database.cursor().execute("CREATE DATABASE people")
    with closing(psycopg2.connect(dbname="people", **server)) as database, database:
        cursor = database.cursor()
        cursor.execute("CREATE TABLE people (id bigint PRIMARY KEY, phone text, name text)")
        rows = [(index, number(index), f"Señora {index}") for index in range(PEOPLE)]
        cursor.executemany("INSERT INTO people VALUES (%s, %s, %s)", rows)
    fields = {"host": "127.0.0.1", "port": postgres.port, "login": "postgres", "schema": "people"}
    deployment.call("POST", "connections", json={"connection_id": "people", "conn_type": "postgres", **fields})
    yield
    deployment.call("DELETE", "connections/people")


def task_of(run: DagRun) -> dict[str, Any]:
    (task,) = run.task_instances()
    return task


def results_of(path: Path) -> dict[str, str]:
    """Return the outcomes in a file of results, by reference."""
    with path.open(newline="") as file:
        return {row["reference"]: row["outcome"] for row in csv.DictReader(file)}


def received(sandbox: SandboxProcess) -> Counter[str]:
    return Counter(message.recipient for message in sandbox.state().messages)


@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("people")
def test_a_worker_that_is_killed_again_and_again_sends_each_reference_once(
    airflow: AirflowDeployment, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    chance = random.Random(11)
    sandbox.set_balance("10000")
    sandbox.set_faults(Fault("latency", seconds=0.15, path="sms"))
    run = airflow.trigger("people", params={"path": str(tmp_path / "results.csv")})
    target = kills = 0
    while kills < KILLS:
        target += chance.randint(1, 350)
        airflow.wait_until(lambda least=target: len(sandbox.state().messages) >= least, what=f"{target} messages")
        pid = task_of(run)["pid"]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            kills += 1
        process = Path(f"/proc/{pid}")
        airflow.wait_until(lambda gone=process: not gone.exists(), what="the end of the worker")
        target = len(sandbox.state().messages)
    assert target < PEOPLE, "the last kill came too late"
    run.finish()

    sent = received(sandbox)
    assert set(sent.values()) == {1}
    outcomes = results_of(tmp_path / "results.csv")
    assert outcomes.keys() == {str(index) for index in range(PEOPLE)}, "somebody is lost"
    counts = Counter(outcomes.values())
    assert counts.keys() <= {"submitted", "uncertain"}
    uncertain = {reference for reference, outcome in outcomes.items() if outcome == "uncertain"}
    assert len(uncertain) <= KILLS * DEFAULT_WINDOW
    assert all(sent[number(int(reference))] == 1 for reference in outcomes.keys() - uncertain)
    assert task_of(run)["try_number"] == KILLS + 1
    log = run.failure_log(lines=1000)
    assert all(f"{len(uncertain)} uncertain: " in log and f" {reference}" in log for reference in uncertain)
    print(f"{KILLS} kills: {counts}")
