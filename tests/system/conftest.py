"""A real Airflow in this process: a migrated database, and DAGs that tests define in code, on every version."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

RunDag = Callable[..., "FinishedRun"]


class FinishedRun:
    """
    A finished DAG run, read from the tables of the database. Airflow's classes for it differ between versions.

    :param database: the SQLite file.
    :param dag_id: the id of the DAG.
    :param run_id: the id of the run.
    """

    def __init__(self, database: Path, dag_id: str, run_id: str) -> None:
        self._database = database
        self._of_run = {"dag_id": dag_id, "run_id": run_id}

    @classmethod
    def latest(cls, database: Path, dag_id: str) -> FinishedRun:
        """Return the newest run of a DAG."""
        run_id = cls(database, dag_id, "")._one("SELECT run_id FROM dag_run WHERE dag_id = :dag_id ORDER BY id DESC")
        return cls(database, dag_id, run_id)

    @property
    def state(self) -> str:
        """The final state of the run."""
        return self._one("SELECT state FROM dag_run WHERE dag_id = :dag_id AND run_id = :run_id")

    def task_state(self, task_id: str) -> str:
        """Return the final state of a task."""
        return self._one(
            "SELECT state FROM task_instance WHERE dag_id = :dag_id AND run_id = :run_id AND task_id = :task_id",
            task_id=task_id,
        )

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        """Return an XCom of a task; None if there is none."""
        value = self._one(
            "SELECT value FROM xcom WHERE dag_id = :dag_id AND run_id = :run_id AND task_id = :task_id AND key = :key",
            task_id=task_id,
            key=key,
        )
        while isinstance(value, str | bytes):  # JSON in a column of bytes (Airflow 2) or of JSON (Airflow 3)
            try:
                value = json.loads(value)
            except ValueError:
                break
        return value

    def _one(self, query: str, **values: str) -> Any:
        with closing(sqlite3.connect(self._database)) as database:
            row = database.execute(query, {**self._of_run, **values}).fetchone()
        return row[0] if row else None


@pytest.fixture(scope="session")
def airflow_database() -> Path:
    """The migrated database of this session's Airflow."""
    home = Path(os.environ["AIRFLOW_HOME"])
    (home / "dags").mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    return home / "airflow.db"


@pytest.fixture
def run_dag(airflow_database: Path) -> RunDag:
    """Run a DAG with ``dag.test()``, triggers included, and return the :class:`FinishedRun`."""

    def run(dag: Any) -> FinishedRun:
        _write_to_database(dag)
        finished = dag.test()
        return FinishedRun(airflow_database, dag.dag_id, finished.run_id)

    return run


def run_example(airflow_database: Path, name: str, **params: Any) -> FinishedRun:
    """Run an example DAG with ``airflow dags test``, which exits with 1 if the DAG fails."""
    example = Path(__file__).parents[2] / "example_dags" / f"{name}.py"
    shutil.copy(example, airflow_database.parent / "dags")
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", name, "--conf", json.dumps(params)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = FinishedRun.latest(airflow_database, name)
    assert run.state == "success"
    return run


def _write_to_database(dag: Any) -> None:
    """Write a DAG that is in no file to the database. From Airflow 3.1 on, ``dag.test()`` fails without that."""
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
