"""
A month of sends and refreshes, with what goes wrong in a month; at its end the ledger is compared with the sandbox.

Each day texts the people of a table, and refreshes the ledger a few times. Meanwhile workers are killed (SIGKILL) while
they send or refresh, the database crashes or is locked, the API is down for a moment, the secret is rotated, finished
sends are cleared, and states come late. A day takes about a second.

    python -m tests.system.ledger_month SEED [--days 30] [--messages 20000] [--postgres]
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from scripts.servers import Postgres

#: Last digits of numbers that the sandbox treats in their own way: states, and a number that is refused.
ENDINGS = ["000"] * 12 + ["001", "002", "003", "005"]
#: How often an attempt that was killed, or that failed, is repeated.
ATTEMPTS = 30


class TaskInstance:
    """A task of one DAG run."""

    task_id, map_index = "send", -1

    def __init__(self, run_id: str) -> None:
        self.dag_id, self.run_id = "campaign", run_id

    def xcom_push(self, key: str, value: Any) -> None:
        """Take no notice: the ledger is what counts."""


class FileStore:
    """A task state store that outlives its process: one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key."""
        return self._values.get(key, default)

    def set(self, key: str, value: Any, **_: Any) -> None:
        """Keep a value."""
        with self._lock:
            self._values[key] = value
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(self._values))
            new.replace(self._path)


@dataclass
class Month:
    """What a month has done."""

    folder: Path
    sandbox: SandboxProcess
    postgres: Postgres | None
    random: random.Random
    people: dict[str, str] = field(default_factory=dict)  # the numbers, by reference
    least: int = 0
    again: int = 0
    killed: int = 0
    failed: int = 0

    def connect(self) -> Any:
        """Return a connection to the database."""
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
        store = self.folder / f"{run_id}.json"
        self.until_done(
            lambda: operator.execute({"ti": TaskInstance(run_id), "task_state_store": FileStore(store)}),  # type: ignore[typeddict-item,typeddict-unknown-key]
            may_fail=lambda error: "account has no balance" in error,
        )

    def refresh(self) -> None:
        """Refresh the ledger, until an attempt ends well."""
        operator = RtiSmsDetailsToSqlOperator(task_id="refresh", table="ledger", sql_conn_id="db", refresh=True)
        due = self.count_open()
        self.least += due
        before = self.killed + self.failed
        self.until_done(lambda: operator.execute({}))
        self.again += due * (self.killed + self.failed - before)  # at most, if an attempt ended at the last moment

    def count_open(self) -> int:
        """Return how many rows can still change."""
        query = "SELECT count(*) FROM ledger WHERE submission_id IS NOT NULL AND (is_final IS NULL OR NOT is_final)"
        return int(self.do(query)[0][0])

    def until_done(self, work: Callable[[], Any], may_fail: Callable[[str], bool] = lambda _: False) -> None:
        """Work in processes of their own, some of which are killed, until one ends well."""
        for attempt in range(ATTEMPTS):
            kill_after = self.random.expovariate(2) if attempt == 0 and self.random.random() < 0.15 else None
            problem = self._in_a_process(work, kill_after)
            if problem is None or (problem and may_fail(problem)):
                return
            if problem:
                self.failed += 1
        raise AssertionError(f"{ATTEMPTS} attempts failed; the last one: {problem}")

    def _in_a_process(self, work: Callable[[], Any], kill_after: float | None) -> str | None:
        """Return the error; None if there was none; an empty one if the process was killed."""
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            problem = None
            try:
                os.close(reader)
                with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                    for descriptor in (1, 2):
                        os.dup2(nowhere.fileno(), descriptor)
                work()
            except BaseException as error:
                problem = f"{type(error).__name__}: {error}"
            os.write(writer, pickle.dumps(problem)[:60_000])
            os._exit(0)
        os.close(writer)
        killer = threading.Timer(kill_after, lambda: os.kill(process, signal.SIGKILL)) if kill_after else None
        if killer is not None:
            killer.start()
        with open(reader, "rb") as pipe:  # noqa: PTH123
            written = pipe.read()
        if killer is not None:
            killer.cancel()
            killer.join()
        os.waitpid(process, 0)
        if not written:
            self.killed += 1
            return ""
        problem = pickle.loads(written)  # noqa: S301  # of our own child
        return None if problem is None else str(problem)

    def disturb(self) -> int:
        """Let something go wrong for a moment, beside what goes on, and return the process that does."""
        choices: list[Callable[[], Any]] = [
            lambda: self.sandbox.set_faults(Fault("outage", times=5)),
            lambda: self.sandbox.set_faults(Fault("error", statuses=(503,), probability=0.1, times=20, path="sms")),
            lambda: self.sandbox.set_faults(Fault("lost_response", times=1, path="sms", method="POST")),
            lambda: self.sandbox.revoke_tokens(),
            self._stop_the_database,
            lambda: None,
        ]
        choice = self.random.choice(choices)
        if (process := os.fork()) == 0:  # a thread that holds a lock of SQLite would block the workers, which are forks
            with suppress(Exception):
                choice()
            os._exit(0)
        return process

    def _stop_the_database(self) -> None:
        if self.postgres is not None:
            with self.postgres.down():
                pass
            return
        with closing(self.connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(0.5)  # the time that another program writes

    def run(self, days: int, messages: int) -> None:
        """Live through the days."""
        self.do("CREATE TABLE people (id varchar(40) PRIMARY KEY, day varchar(20), phone varchar(40))")
        for day in range(1, days + 1):
            run_id = f"day-{day:02}"
            rows = []
            for number in range(messages // days):
                reference = f"{run_id}-{number}"
                self.people[reference] = f"+56{day:02}{number:05}{self.random.choice(ENDINGS)}"
                rows.append(f"('{reference}', '{run_id}', '{self.people[reference]}')")
            self.do(f"INSERT INTO people VALUES {', '.join(rows)}")  # noqa: S608
            self.sandbox.set_timing(pending_for=self.random.uniform(0, 1), sent_for=self.random.uniform(0, 3))
            if day % 7 == 3:
                self.sandbox.rotate_secret(f"secret-{day}")
                os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"] = self.sandbox.connection_json()
            trouble = self.disturb()
            self.send(run_id)
            for _ in range(self.random.randint(1, 3)):
                self.refresh()
            os.waitpid(trouble, 0)
            self.sandbox.set_faults()
            if self.random.random() < 0.2:
                self.send(run_id)  # somebody clears the task
        while self.count_open():
            self.refresh()
            time.sleep(0.2)  # the sandbox's clock goes on

    def check(self) -> str:
        """
        Compare the ledger with the sandbox, and return the figures.

        :raises AssertionError: they differ.
        """
        state = self.sandbox.state()
        by_number = {number: reference for reference, number in self.people.items()}
        sent: dict[str, list[str]] = {}
        for message in state.messages:
            if message.submission_id is not None:
                sent.setdefault(by_number[message.recipient], []).append(message.submission_id)
        assert all(len(ids) == 1 for ids in sent.values()), "somebody was texted twice"
        columns = "reference, submission_id, outcome, status, is_final, cost, run_id"
        ledger = {row[0]: row for row in self.do(f"SELECT {columns} FROM ledger")}  # noqa: S608
        assert ledger.keys() == self.people.keys()
        endings = {"000": "DELIVERED", "001": "REJECTED", "002": "UNDELIVERED", "003": "EXPIRED"}
        cost = uncertain = 0
        for reference, (_, submission_id, outcome, status, is_final, paid, run_id) in ledger.items():
            assert run_id == reference.rpartition("-")[0]
            if outcome == "submitted":
                assert sent[reference] == [submission_id]
                assert (status, bool(is_final)) == (endings[self.people[reference][-3:]], True)
                cost += Decimal(str(paid))
                continue
            assert submission_id is None
            if outcome == "refused":
                assert reference not in sent
                assert self.people[reference].endswith("005")
            else:
                assert outcome == "uncertain", outcome
                uncertain += 1
        known = {one[1] for one in ledger.values() if one[1]}
        assert cost == len(known), "each message has one part, which costs 1"
        requests = state.responses.get("GET sms", {}).get("200", 0)
        assert self.least <= requests <= self.least + self.again, (self.least, requests, self.again)
        return (
            f"{len(ledger)} messages, {len(known)} submitted and final, {uncertain} uncertain after a kill or a lost "
            f"response, nobody twice; cost {cost}; {requests} requests of at least {self.least} "
            f"({requests / max(self.least, 1):.3f}); {self.killed} kills, {self.failed} failed attempts"
        )


def live(seed: int, days: int, messages: int, *, with_postgres: bool = False) -> str:
    """Live through a month in a folder of its own, and return its figures."""
    database = Postgres() if with_postgres else nullcontext()
    with tempfile.TemporaryDirectory() as name, SandboxProcess(balance="1000000") as sandbox, database as postgres:
        folder = Path(name)
        tempfile.tempdir = name
        fields: dict[str, Any] = {"conn_type": "sqlite", "host": str(folder / "db")}
        if postgres is not None:
            fields = {"conn_type": "postgres", "host": "127.0.0.1", "port": postgres.port, "login": "postgres"}
            fields["schema"] = "postgres"
        os.environ["AIRFLOW_CONN_DB"] = json.dumps(fields)
        os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"] = sandbox.connection_json()
        month = Month(folder, sandbox, postgres, random.Random(seed))
        try:
            month.run(days, messages)
            return month.check()
        finally:
            tempfile.tempdir = None
            for variable in ("AIRFLOW_CONN_DB", "AIRFLOW_CONN_RTISMS_DEFAULT"):
                with suppress(KeyError):
                    del os.environ[variable]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--postgres", action="store_true")
    arguments = parser.parse_args()
    print(live(arguments.seed, arguments.days, arguments.messages, with_postgres=arguments.postgres))
