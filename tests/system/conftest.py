"""A real Airflow in this process: a migrated database, and DAGs that tests define in code, on every version."""

from __future__ import annotations

import fcntl
import functools
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

RunDag = Callable[..., "FinishedRun"]

HERE = Path(__file__).parent
TIMEOUT = 600
"""Seconds that a test here may take. A command of Airflow takes 2 s on an idle machine, and 20 s on a busy one."""
STATES = ("success", "failure", "skipped")
"""The final states of a task for which Airflow has callbacks."""
HAS_ERRORS = AIRFLOW_V_3_3_PLUS or not AIRFLOW_V_3_0_PLUS
"""Whether ``dag.test()`` passes the exception of a failed task to its callbacks."""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Give the tests here more time, and start with those that take longest."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))
    yield  # to plugins that shuffle and deselect
    items.sort(key=lambda item: (not item.get_closest_marker("deployment"), not item.get_closest_marker("system")))


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
