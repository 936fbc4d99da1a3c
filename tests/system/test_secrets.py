"""
No secret, token, phone number or text leaks, at log level DEBUG (SECURITY.md).

Airflow runs a DAG that uses everything. Then a test searches all logs and the whole metadata database, with XCom and
rendered templates, for the secrets that the sandbox and this test know.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import Fault, Sandbox, SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from tests.system.conftest import CLIENT_SECRET, RECIPIENT, WRONG_SECRET
from tests.system.conftest import LEAK_TEXT as TEXT

pytestmark = pytest.mark.outer_minors

DAG_ID = "rtisms_every_use"
DAG_FILE = Path(__file__).parent / "dags" / f"{DAG_ID}.py"
FAULTS = [
    Fault("error", statuses=(503, 429), times=2, path="sms", method="GET"),
    Fault("reset", times=1, path="sms", method="GET"),
    Fault("cut_off", times=1, path="auth"),
]
SANDBOX: dict[str, Any] = {"token_lifetime": 3, "pending_for": 0, "sent_for": 0, "faults": FAULTS}
DEBUG = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG", "AIRFLOW__LOGGING__FAB_LOGGING_LEVEL": "DEBUG"}
VARIABLES = {"AIRFLOW_VAR_RTISMS_RECIPIENT": RECIPIENT, "AIRFLOW_VAR_RTISMS_TEXT": TEXT}
#: The tasks of the DAG. Each of them can wait for a submission of its own.
TASKS = re.findall(r'task_id="(\w+)"', DAG_FILE.read_text())
#: After so many polls, faults included, a deferrable task has deferred to its trigger.
ENOUGH_POLLS = 6
#: ``airflow dags test`` itself writes this at DEBUG for every secret that it has to mask; a deployment does not.
AIRFLOWS_OWN = re.compile(r"^.*Sending request .* msg=MaskSecret\(.*$", re.MULTILINE)
#: Tables in which the secret belongs.
TABLES_WITH_SECRETS = {"connection"}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with a client secret that is easy to find, short-lived tokens and some faults."""
    with Sandbox(client_secret=CLIENT_SECRET, **SANDBOX) as sandbox:
        yield sandbox


def connections(sandbox: Sandbox) -> dict[str, dict[str, str]]:
    """Return the Connections of the DAG, by id."""
    right = json.loads(sandbox.connection_json())
    return {"rtisms_default": right, "rtisms_wrong": {**right, "password": WRONG_SECRET}}


@contextmanager
def deliveries(sandbox: Sandbox, may_finish: Callable[[str], bool] = lambda task: True) -> Iterator[dict[str, str]]:
    """
    Add an open submission for each task, and deliver it after enough polls. Yield their ids by task id.

    :param may_finish: returns whether the wait of a task may finish.
    """
    open_ids = {task: sandbox.add_submission("PENDING") for task in TASKS}
    stop = threading.Event()

    def deliver() -> None:
        waiting = dict(open_ids)
        while not stop.wait(0.2):
            polls = sandbox.state().requests_by_id
            ready = [task for task, one in waiting.items() if polls.get(one, 0) >= ENOUGH_POLLS]
            for task in filter(may_finish, ready):
                sandbox.add_submission(submission_id=waiting.pop(task))

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        yield open_ids
    finally:
        stop.set()
        thread.join()


def secrets(sandbox: Sandbox) -> dict[str, list[str]]:
    """Return the secrets that no test may find, each with the encodings in which it can occur."""
    tokens = sandbox.state().tokens
    assert tokens
    values_by_name = {
        "the client secret": [CLIENT_SECRET],
        "the wrong client secret": [WRONG_SECRET],
        "a token": tokens,
        "a phone number": [RECIPIENT.removeprefix("+")],
        "a text": [TEXT],
    }
    return {name: [one for value in values for one in encodings(value)] for name, values in values_by_name.items()}


def encodings(value: str) -> set[str]:
    """Return a value as it is, percent-encoded, form-encoded, in JSON, as Python's repr, in base64 and in UCS-2."""
    return {
        value,
        quote(value, safe=""),
        quote_plus(value),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
        ascii(value)[1:-1],
        base64.b64encode(value.encode()).decode(),
        value.encode("utf-16-be").hex(),
    }


def evidence(home: Path) -> dict[str, str]:
    """Return all log files below the home of an Airflow, and all tables of its database, by name."""
    logs = {str(log.relative_to(home)): log.read_text(errors="replace") for log in home.rglob("*.log*")}
    tables = {}
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in set(names) - TABLES_WITH_SECRETS:
            rows = database.execute(f'SELECT * FROM "{name}"').fetchall()  # noqa: S608  # a name from the database
            tables[f"table {name}"] = "\n".join(_readable(value) for row in rows for value in row)
    return {**logs, **tables}


def _readable(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def leaks(texts: Mapping[str, str], secrets_by_name: Mapping[str, list[str]]) -> list[str]:
    """Return which secrets are in which texts. A failing test may print them, since they are made up."""
    return [
        f"{name} in {where}: ...{text[max(0, text.index(secret) - 200) : text.index(secret) + 200]}..."
        for where, text in texts.items()
        for name, all_encodings in secrets_by_name.items()
        for secret in all_encodings
        if secret in text
    ]


def assert_tasks_as_expected(states: Mapping[str, str], home: Path) -> None:
    expected = {task: "failed" if task.startswith("failing_") else "success" for task in TASKS}
    wrong = {task: state for task, state in states.items() if state != expected[task]}
    logs = [log for task in wrong for log in sorted(home.rglob(f"*task_id={task}/**/*.log*"))]
    assert not wrong, "\n".join([f"{wrong}", *(log.read_text(errors="replace")[-6000:] for log in logs)])
    assert states.keys() == expected.keys()


def assert_evidence_is_complete(texts: Mapping[str, str], sandbox: Sandbox) -> None:
    """Check that the evidence has everything in it that a leak could be in."""
    everything = "\n".join(texts.values())
    tables = "\n".join(text for place, text in texts.items() if place.startswith("table "))
    assert "Attempt 1 of 5 failed" in everything  # a log line about a retry
    assert "HTTP 401" in everything  # one about refused credentials
    assert "4193366853543001 REJECTED" in everything  # and one about a failed wait
    assert "debug" in everything.lower()
    assert "Entel Pcs" in tables  # an XCom
    assert "4193366853543393" in tables  # a rendered template
    assert "redacted: " in tables
    assert leaks(texts, {"a network": ["Entel Pcs"]})  # the search works
    assert sandbox.state().count_responses(503) == 1
    assert [message.text for message in sandbox.state().messages] == [TEXT] * 3  # 2 tasks and a notifier


def airflow(home: Path, *arguments: str, env: Mapping[str, str]) -> str:
    """Run a command of Airflow with a home of its own, and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *arguments],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


def run_in_one_process(home: Path, database: Path, sandbox: Sandbox) -> tuple[dict[str, str], dict[str, str]]:
    """Run the DAG with ``airflow dags test``. Return the evidence, and the final state of each task."""
    stored = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in connections(sandbox).items()}
    (home / "dags").mkdir(parents=True)
    shutil.copy(DAG_FILE, home / "dags")
    shutil.copy(database, home / "airflow.db")
    with deliveries(sandbox) as open_ids:
        conf = json.dumps({"open_ids": open_ids})
        output = airflow(home, "dags", "test", DAG_ID, "--conf", conf, env={**DEBUG, **VARIABLES, **stored})
    (run_id,) = set(re.findall(r"manual__[0-9T:.+-]+", output))
    listed = airflow(home, "tasks", "states-for-dag-run", DAG_ID, run_id, "--output", "json", env={})
    states = {task["task_id"]: task["state"] for task in json.loads(listed[listed.index("[{") :])}
    return {"output": AIRFLOWS_OWN.sub("", output), **evidence(home)}, states


def test_nothing_leaks_in_one_process(sandbox: Sandbox, new_database: Path, tmp_path: Path) -> None:
    texts, states = run_in_one_process(tmp_path, new_database, sandbox)
    assert leaks(texts, secrets(sandbox)) == []
    assert_tasks_as_expected(states, tmp_path)
    assert_evidence_is_complete(texts, sandbox)
    assert "running trigger in line" in texts["output"]


@pytest.mark.deployment
@pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts the components of Airflow 3.3")
def test_nothing_leaks_in_a_whole_deployment(airflow: AirflowDeployment, sandbox_process: SandboxProcess) -> None:
    """Scheduler, workers, triggerer and API server run, and the Connections are in the database."""
    sandbox_process.reset(**SANDBOX)

    def deferral_is_recorded(task: str) -> bool:
        """Airflow fails a task whose trigger fires before the scheduler has recorded that its worker has exited."""
        recorded = f"TaskInstance Finished: dag_id={DAG_ID}, task_id={task},"
        deferred = airflow.call("GET", f"dags/{DAG_ID}/dagRuns/~/taskInstances", params={"state": "deferred"})
        is_deferred = task in {one["task_id"] for one in deferred["task_instances"]}
        log = (airflow.home / "logs" / "scheduler.log").read_text(errors="replace")
        return not is_deferred or recorded in log

    with deliveries(sandbox_process, may_finish=deferral_is_recorded) as open_ids:
        run = airflow.trigger(DAG_ID, params={"open_ids": open_ids})
        seen = {(task["task_id"], task["state"]) for task in run.changes()}
    texts = evidence(airflow.home)
    assert leaks(texts, secrets(sandbox_process)) == []
    assert_tasks_as_expected({task["task_id"]: task["state"] for task in run.task_instances()}, airflow.home)
    other_dags = re.compile(rf"logs/dag_id=(?!{DAG_ID}/)")
    of_this_dag = {name: text for name, text in texts.items() if not other_dags.match(name)}
    assert_evidence_is_complete(of_this_dag, sandbox_process)
    assert ("wait_deferred", "deferred") in seen
