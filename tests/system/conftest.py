"""
A real Airflow: in this process, on every version, for DAGs that tests define in code; and a whole one, of Airflow 3.3.

The whole one is started once, and nothing else of weight runs beside it (``make test-deployment``).
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import runpy
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from airflow import settings
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from tests.documents import ROOT, blocks
from tests.otlp import collector
from tests.statsd import StatsdListener

RunDag = Callable[..., "FinishedRun"]

HERE = Path(__file__).parent
TIMEOUT = 1800
"""Seconds that a test here may take, the start of a whole Airflow included. Most take less than 10."""
STATES = ("success", "failure", "skipped")
"""The final states of a task for which Airflow has callbacks."""
HAS_ERRORS = AIRFLOW_V_3_3_PLUS or not AIRFLOW_V_3_0_PLUS
"""Whether ``dag.test()`` passes the exception of a failed task to its callbacks."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests here more time."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@dataclass
class FinishedRun:
    """
    A finished DAG run, as the callbacks of its tasks saw it.

    :param state: the final state of the run.
    :param task_states: the final state of each task by task id, one of STATES.
    :param errors: the exceptions of failed tasks by task id; empty where HAS_ERRORS is false.
    :param xcoms: the XComs by task id, map index and key.
    :param map_names: what ``map_index_template`` has given, by task id and map index.
    """

    state: str = ""
    task_states: dict[str, str] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)
    xcoms: dict[tuple[str, int, str], Any] = field(default_factory=dict)
    map_names: dict[tuple[str, int], str | None] = field(default_factory=dict)

    def xcom(self, task_id: str, key: str = "return_value", *, map_index: int = -1) -> Any:
        """Return an XCom of a task; None if there is none."""
        return self.xcoms.get((task_id, map_index, key))

    def watch(self, task: Any, keys: tuple[str, ...]) -> None:
        """
        Add callbacks to a task that record its final state and its XComs.

        :param task: an operator.
        :param keys: the keys of the XComs.
        """
        for state in STATES:
            name = f"on_{state}_callback"
            own = getattr(task, name) or []
            setattr(task, name, [*(own if isinstance(own, list | tuple) else [own]), self._reader(state, keys)])

    def _reader(self, state: str, keys: tuple[str, ...]) -> Callable[[Mapping[str, Any]], None]:
        def read(context: Mapping[str, Any]) -> None:
            ti = context["ti"]
            self.task_states.setdefault(ti.task_id, state)  # Airflow 2 calls a skipped task's on_success_callback too
            if error := context.get("exception"):
                self.errors[ti.task_id] = error
            self.map_names[ti.task_id, ti.map_index] = ti.rendered_map_index
            for key in keys:
                value = ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
                self.xcoms[ti.task_id, ti.map_index, key] = value

        return read


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A migrated database to copy. All workers of pytest-xdist have the same, since a migration takes some seconds."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    home = folder / "airflow-new"
    with (folder / "airflow-new.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            env = {**os.environ, "AIRFLOW_HOME": str(folder / "airflow-migrating")}
            command = [sys.executable, "-m", "airflow", "db", "migrate"]
            subprocess.run(command, env=env, check=True, capture_output=True)
            (folder / "airflow-migrating").rename(home)
    return home / "airflow.db"


@pytest.fixture(scope="session")
def airflow_database(new_database: Path) -> Path:
    """The migrated database of this session's Airflow."""
    home = Path(os.environ["AIRFLOW_HOME"])
    (home / "dags").mkdir(exist_ok=True)
    if settings.Session is not None:  # a test before may have opened the database while it was empty
        settings.Session.remove()
        settings.engine.dispose()
    with closing(sqlite3.connect(new_database)) as source, closing(sqlite3.connect(home / "airflow.db")) as target:
        source.backup(target)
    if AIRFLOW_V_3_0_PLUS and not AIRFLOW_V_3_3_PLUS:
        _keep_the_api_of_tasks()
    return home / "airflow.db"


@pytest.fixture
def run_dag(airflow_database: Path) -> RunDag:
    """Run a DAG with ``dag.test()``, triggers included, and return the :class:`FinishedRun`."""

    def run(dag: Any, *, conf: dict[str, Any] | None = None, xcoms: tuple[str, ...] = ()) -> FinishedRun:
        _write_to_database(dag)
        finished = FinishedRun()
        for task in dag.tasks:
            finished.watch(task, ("return_value", *xcoms))
        finished.state = str(dag.test(run_conf=conf).state)
        return finished

    return run


def _keep_the_api_of_tasks() -> None:
    """Let ``dag.test()`` build the API that tasks call once, as it does from Airflow 3.3 on: it takes 2 s of CPU."""
    from airflow.sdk.execution_time import supervisor

    supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)


def load_dag(code: str, folder: Path) -> Any:
    """
    Return the DAG of a DAG file.

    :param code: the text of the file, whose last line makes the DAG: ``my_dag()``.
    :param folder: a folder to write the file to.
    """
    code, made = re.subn(r"^(?=\w+\(\)\n\Z)", "result = ", code, flags=re.MULTILINE)
    assert made == 1
    file = folder / "block.py"
    file.write_text(code)
    return runpy.run_path(str(file))["result"]


def _write_to_database(dag: Any) -> None:
    """
    Write a DAG that is in no file to the database.

    From Airflow 3.1 on, ``dag.test()`` fails without that. Airflow 2 needs it for the events of datasets.
    """
    if not AIRFLOW_V_3_0_PLUS:
        dag.sync_to_db()
    if not AIRFLOW_V_3_1_PLUS:
        return
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    try:
        from airflow.serialization.definitions.dag import SerializedDAG
    except ImportError:  # Airflow 3.1
        from airflow.serialization.serialized_objects import SerializedDAG
    DagBundlesManager().sync_bundles_to_db()
    lazy = LazyDeserializedDAG.from_dag(dag)
    with create_session() as session:
        SerializedDAG.bulk_write_to_db("dags-folder", None, [lazy], session=session)
        SerializedDagModel.write_dag(lazy, bundle_name="dags-folder", session=session)


# --- A whole Airflow -----------------------------------------------------------------------------

NUMBERS = [f"+569123451{position:02}" for position in range(50)]
ON_DUTY = "+56912345999"
TEXT = "Confidential: the load is late"
CLIENT_SECRET = "s3cret+of/the=tést&%"  # a form encodes each of these characters
WRONG_SECRET = "wr0ng+secret/of=the&tést%"
RECIPIENT = "+56912345678"
LEAK_TEXT = "Your code is 481516, señora"

EXAMPLES = ("send_and_wait", "split_fetch", "wait_for_delivery")


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[SandboxProcess]:
    """The sandbox of the deployment. Tests use ``sandbox``, which is reset."""
    with SandboxProcess(client_secret=CLIENT_SECRET) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def watched_sandbox() -> Iterator[SandboxProcess]:
    """A sandbox whose balance is watched all the time, so that the counts of the other one stay exact."""
    with SandboxProcess(balance="1000") as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsdListener]:
    with StatsdListener() as listener:
        yield listener


@pytest.fixture(scope="session")
def otlp() -> Iterator[tuple[int, list[bytes]]]:
    """The port to which the deployment exports its spans, and what has come there."""
    with collector() as (port, bodies):
        yield port, bodies


@pytest.fixture(scope="session")
def openlineage_events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the events of OpenLineage, which only the DAG ``fetch`` reports."""
    return tmp_path_factory.mktemp("openlineage") / "events.jsonl"


def stored_connections(sandbox: SandboxProcess, watched: SandboxProcess) -> dict[str, dict[str, Any]]:
    """Return the Connections in the database of the deployment, by id."""
    connection = json.loads(sandbox.connection_json())
    return {
        "rtisms_default": connection,
        "rtisms_wrong": {**connection, "password": WRONG_SECRET},
        "rtisms_stored": connection,
        "rtisms_once": {**connection, "extra": json.dumps({"max_attempts": 1})},
        "rtisms_watched": json.loads(watched.connection_json()),
    }


def changed_dags(folder: Path) -> list[Path]:
    """Write DAGs of the documentation and an example, with changes: tasks that fail, and deadlines that have passed."""
    (deadline,) = blocks("deadline")
    (approval,) = blocks("approval")
    late = _replaced(deadline.code, {"timedelta(minutes=30)": "timedelta(0)"})
    limited = _replaced(late, {"kwargs={": 'kwargs={"dedup_key": "late", "at_most_every": 3600, '})
    in_executor = {
        "hourly_load": "late_in_executor",
        "AsyncCallback": "SyncCallback",
        "kwargs={": 'kwargs={"rtisms_conn_id": "rtisms_in_env", ',  # Airflow refuses it Connections in the database too
    }
    files = {
        "hourly_load": late,
        "approval": approval.code,
        "late": _replaced(limited, {"hourly_load": "late_in_triggerer"}),
        "late_sync": _replaced(limited, in_executor),
    }
    for name, code in files.items():
        (folder / f"{name}.py").write_text(code)
    return [folder / f"{name}.py" for name in files]


def _replaced(code: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    return code


@pytest.fixture(scope="session")
def deployment(
    request: pytest.FixtureRequest,
    sandbox_process: SandboxProcess,
    watched_sandbox: SandboxProcess,
    statsd: StatsdListener,
    otlp: tuple[int, list[bytes]],
    openlineage_events: Path,
    new_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AirflowDeployment]:
    """
    The whole Airflow of this session, with all DAGs of the tests. Tests use ``airflow``.

    Log lines are at DEBUG, where a leak would show, except if a test looks at the pages as a person does.
    """
    pictures = any(item.get_closest_marker("ui") for item in request.session.items)
    transport = {"type": "file", "log_file_path": str(openlineage_events), "append": True}
    settings = {
        "CORE__DEFAULT_TASK_RETRY_DELAY": "1",
        "CORE__TEST_CONNECTION": "Enabled",
        "LOGGING__FAB_LOGGING_LEVEL": "INFO" if pictures else "DEBUG",
        "LOGGING__LOGGING_LEVEL": "INFO" if pictures else "DEBUG",
        "OPENLINEAGE__SELECTIVE_ENABLE": "True",
        "OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "TRACES__OTEL_ON": "True",
    }
    env = {
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_CONN_RTISMS_IN_ENV": sandbox_process.connection_json(),
        "AIRFLOW_CONN_LEDGER": json.dumps(
            {"conn_type": "sqlite", "host": str(tmp_path_factory.mktemp("ledger") / "ledger.db")}
        ),
        "AIRFLOW_VAR_ON_DUTY": ON_DUTY,
        "AIRFLOW_VAR_RTISMS_RECIPIENT": RECIPIENT,
        "AIRFLOW_VAR_RTISMS_TEXT": LEAK_TEXT,
        "AIRFLOW_VAR_SMS_ON_DUTY": ON_DUTY,
        "AIRFLOW_VAR_SMS_RECIPIENTS": json.dumps(NUMBERS),
        "AIRFLOW_VAR_SMS_TEXT": TEXT,
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{otlp[0]}/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        **statsd.settings,
    }
    examples = [ROOT / "example_dags" / f"example_rtisms_{name}.py" for name in EXAMPLES]
    dags = [*sorted((HERE / "dags").glob("*.py")), *examples, *changed_dags(tmp_path_factory.mktemp("changed"))]
    connections = stored_connections(sandbox_process, watched_sandbox)
    with AirflowDeployment(
        dags, env=env, settings=settings, database=new_database, connections=connections
    ) as deployment:
        deployment.call("PATCH", "pools", json=POOL)
        yield deployment


#: A pool for mapped tasks that share a threshold; the request can be repeated.
POOL = {
    "actions": [{"action": "create", "entities": [{"name": "rtisms", "slots": 4}], "action_on_existence": "overwrite"}]
}


@pytest.fixture
def sandbox(sandbox_process: SandboxProcess) -> SandboxProcess:
    """The sandbox of the deployment, as at its start. A test resets it to other settings if it needs them."""
    sandbox_process.reset()
    return sandbox_process


@pytest.fixture
def airflow(deployment: AirflowDeployment, sandbox: SandboxProcess) -> AirflowDeployment:
    """The whole Airflow of this session, with all components running and a fresh sandbox."""
    deployment.recover()
    return deployment
