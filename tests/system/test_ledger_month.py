"""
A month of sends and refreshes, with what goes wrong in a month; at its end the ledger is compared with the sandbox.

Each day texts the people of a table, and refreshes the ledger a few times. Meanwhile workers are killed (SIGKILL) while
they send or refresh, the database crashes or is locked, the API is down for a moment, the secret is rotated, finished
sends are cleared, and states come late. A day takes about a second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from scripts.servers import DEBIAN_POSTGRESQL, Postgres

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow 3.3 and later have a journal"),
]
#: Final states by the last digits of a number; the sandbox refuses 005.
STATES = {"000": "DELIVERED", "001": "REJECTED", "002": "UNDELIVERED", "003": "EXPIRED"}
ENDINGS = ["000"] * 12 + ["001", "002", "003", "005"]
#: How often an attempt that was killed, or that failed, is repeated.
ATTEMPTS = 30
FORK = multiprocessing.get_context("fork")


class FileStore:
    """A task state store that outlives its process: one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def set(self, key: str, value: Any, **_: Any) -> None:
        self._values[key] = value
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._values))
        new.replace(self._path)


def report_to(writer: Any, work: Callable[[], Any]) -> None:
    """Work, and tell another process the error; None if there was none."""
    problem = None
    try:
        work()
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
    writer.send(problem)


@dataclass
class Month:
    """
    What a month has done.

    :param people: the numbers by reference.
    :param least: the requests that refreshes need, and ``again`` those that attempts which failed may have made too.
    """

    folder: Path
    sandbox: SandboxProcess
    postgres: Postgres | None
    random: random.Random
    people: dict[str, str] = field(default_factory=dict)
    least: int = 0
    again: int = 0
    ended_early: int = 0

    def connect(self) -> Any:
        if self.postgres is None:
            return sqlite3.connect(self.folder / "db", timeout=60)
        import psycopg2

        return psycopg2.connect(host="127.0.0.1", port=self.postgres.port, user="postgres")

    def do(self, sql: str) -> list[Any]:
        """Run a statement, and return its rows."""
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            rows = list(cursor.fetchall()) if cursor.description else []
            connection.commit()
        return rows

    def send(self, run_id: str) -> None:
        """Send to the people of a day, until an attempt ends well."""
        operator = SqlToRtiSmsOperator(
            task_id="send",
            sql=f"SELECT id, phone FROM people WHERE day = '{run_id}' ORDER BY id",  # noqa: S608
            sql_conn_id="db",
            recipient_column="phone",
            reference_column="id",
            text="Hola",
            sender="96000",
            on_uncertain="skip",
            chunk_size=self.random.choice([5, 20, 50]),
            results_table="ledger",
            create_table=True,
        )
        names = {"dag_id": "campaign", "task_id": "send", "run_id": run_id, "map_index": -1}
        ti = SimpleNamespace(**names, xcom_push=lambda **_: None)

        def work() -> None:
            store = FileStore(self.folder / f"{run_id}.json")
            operator.execute({"ti": ti, "task_state_store": store})  # type: ignore[typeddict-item,typeddict-unknown-key]

        self.until_done(work, may_fail="account has no balance")

    def refresh(self) -> None:
        """Refresh the ledger, until an attempt ends well."""
        operator = RtiSmsDetailsToSqlOperator(task_id="refresh", table="ledger", sql_conn_id="db", refresh=True)
        due, before = self.count_open(), self.ended_early
        self.until_done(lambda: operator.execute({}))
        self.least += due
        self.again += due * (self.ended_early - before)  # at most, if an attempt ended at the last moment

    def count_open(self) -> int:
        """Return how many rows can still change."""
        query = "SELECT count(*) FROM ledger WHERE submission_id IS NOT NULL AND (is_final IS NULL OR NOT is_final)"
        return int(self.do(query)[0][0])

    def until_done(self, work: Callable[[], Any], may_fail: str | None = None) -> None:
        """Work in processes of their own, the first of which may be killed, until one ends well."""
        for attempt in range(ATTEMPTS):
            kill_after = self.random.expovariate(2) if attempt == 0 and self.random.random() < 0.15 else None
            reader, writer = FORK.Pipe(duplex=False)
            process = FORK.Process(target=report_to, args=(writer, work))
            process.start()
            writer.close()
            if reader.poll(kill_after):
                problem = reader.recv()
                if problem is None or (may_fail and may_fail in problem):
                    return process.join()
            else:
                process.kill()
                problem = "killed"
            process.join()
            self.ended_early += 1
        raise AssertionError(f"{ATTEMPTS} attempts failed; the last one: {problem}")

    def disturb(self) -> Any:
        """Let something go wrong for a moment, beside what goes on; return the process that does."""
        choices: list[Callable[[], Any]] = [
            lambda: self.sandbox.set_faults(Fault("outage", times=5)),
            lambda: self.sandbox.set_faults(Fault("error", statuses=(503,), probability=0.1, times=20, path="sms")),
            lambda: self.sandbox.set_faults(Fault("lost_response", times=1, path="sms", method="POST")),
            self.sandbox.revoke_tokens,
            self._stop_the_database,
            lambda: None,
        ]
        # Not a thread: one that holds a lock of SQLite would block the workers, which are forks.
        process = FORK.Process(target=self.random.choice(choices))
        process.start()
        return process

    def _stop_the_database(self) -> None:
        if self.postgres is not None:
            with self.postgres.down():
                return
        with closing(self.connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(0.5)  # the time that another program writes

    def run(self, days: int, messages: int) -> None:
        """Live through the days."""
        self.do("CREATE TABLE people (id varchar(40) PRIMARY KEY, day varchar(20), phone varchar(40))")
        for day in range(1, days + 1):
            run_id = f"day-{day:02}"
            numbers = [f"+56{day:02}{one:05}{self.random.choice(ENDINGS)}" for one in range(messages // days)]
            today = {f"{run_id}-{index}": number for index, number in enumerate(numbers)}
            rows = ", ".join(f"('{reference}', '{run_id}', '{number}')" for reference, number in today.items())
            self.do(f"INSERT INTO people VALUES {rows}")  # noqa: S608
            self.people |= today
            self.sandbox.set_timing(pending_for=self.random.uniform(0, 1), sent_for=self.random.uniform(0, 3))
            if day % 7 == 3:
                self.sandbox.rotate_secret(f"secret-{day}")
                os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"] = self.sandbox.connection_json()
            trouble = self.disturb()
            self.send(run_id)
            for _ in range(self.random.randint(1, 3)):
                self.refresh()
            trouble.join()
            self.sandbox.set_faults()
            if self.random.random() < 0.2:
                self.send(run_id)  # somebody clears the task
        while self.count_open():
            self.refresh()
            time.sleep(0.2)  # the sandbox's clock goes on

    def check(self) -> None:
        """Compare the ledger with the sandbox."""
        state = self.sandbox.state()
        sent: dict[str, list[str]] = defaultdict(list)
        for message in state.messages:
            if message.submission_id is not None:
                sent[message.recipient].append(message.submission_id)
        assert all(len(ids) == 1 for ids in sent.values()), "somebody was texted twice"
        ledger = self.do("SELECT reference, run_id, outcome, submission_id, status, is_final, cost FROM ledger")
        assert {row[0] for row in ledger} == self.people.keys()
        assert len(ledger) == len(self.people)
        submitted = 0
        for reference, run_id, outcome, submission_id, status, is_final, cost in ledger:
            number = self.people[reference]
            assert run_id == reference.rpartition("-")[0]
            if outcome == "submitted":
                assert sent[number] == [submission_id]
                assert (status, bool(is_final)) == (STATES[number[-3:]], True)
                assert Decimal(str(cost)) == 1
                submitted += 1
                continue
            assert submission_id is None
            assert (outcome, number[-3:], number in sent) == ("refused", "005", False) or outcome == "uncertain"
        assert submitted
        requests = state.responses.get("GET sms", {}).get("200", 0)
        assert self.least <= requests <= self.least + self.again, (self.least, requests, self.again)


@pytest.mark.parametrize("with_postgres", [False, True])
def test_a_month_of_trouble_ends_with_the_truth(
    with_postgres: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_postgres and not DEBIAN_POSTGRESQL.exists():
        pytest.skip("PostgreSQL is not installed")
    with SandboxProcess(balance="1000000") as sandbox, Postgres() if with_postgres else nullcontext() as postgres:
        fields: dict[str, Any] = {"conn_type": "sqlite", "host": str(tmp_path / "db")}
        if postgres:
            fields = {"conn_type": "postgres", "host": "127.0.0.1", "port": postgres.port, "login": "postgres"}
            fields["schema"] = "postgres"
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps(fields))
        monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", sandbox.connection_json())
        month = Month(tmp_path, sandbox, postgres, random.Random(1))
        month.run(days=4, messages=120)
        month.check()
