"""A whole Airflow on PostgreSQL, to kill parts of it, with deferred waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import COMPONENTS, AirflowDeployment
from scripts.dag_run import DagRun
from scripts.processes import wait_until
from scripts.servers import Postgres

ROOT = Path(__file__).parents[3]
DAGS = sorted((Path(__file__).parent / "dags").glob("*.py"))
CONNECTION_ID = "rtisms_stored"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests beside this file."""
    only_3_3 = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for mark in (pytest.mark.system, pytest.mark.deployment, pytest.mark.chaos, only_3_3):
                item.add_marker(mark)


@dataclass(frozen=True)
class DeferredWaits:
    """
    A run of the DAG ``deferred_waits``: one task instance for each list of ids, in the order of the lists.

    :param airflow: the deployment that runs it.
    :param sandbox: the sandbox that has the submissions.
    :param run: the run.
    :param waits: the ids of each wait.
    """

    airflow: AirflowDeployment
    sandbox: SandboxProcess
    run: DagRun
    waits: Sequence[Sequence[str]]

    @property
    def submission_ids(self) -> list[str]:
        """All ids, in order."""
        return [one for wait in self.waits for one in wait]

    def await_polls(self, count: int = 2) -> None:
        """Wait until every submission has been polled so many times more."""
        before = self.sandbox.state().requests_by_id

        def fewest() -> int:
            now = self.sandbox.state().requests_by_id
            return min(now.get(one, 0) - before.get(one, 0) for one in self.submission_ids)

        wait_until(lambda: fewest() >= count, what=f"{count} polls of each")

    def deliver(self) -> None:
        """Make every submission DELIVERED."""
        for submission_id in self.submission_ids:
            self.sandbox.add_submission(submission_id=submission_id, pending_for=0, sent_for=0)

    def check_success(self) -> None:
        """Check that the run succeeds, and that each wait returns all its records at its first attempt."""
        assert self.run.finish() == "success", self.run.failure_log()
        attempts = [task["try_number"] for task in self.run.task_instances() if task["task_id"] == "wait"]
        assert attempts == [1] * len(self.waits)
        for index, submission_ids in enumerate(self.waits):
            records = self.run.xcom("wait", map_index=index)
            assert [(record["submission_id"], record["status"]) for record in records] == [
                (one, "DELIVERED") for one in submission_ids
            ]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def deployment(postgres: Postgres) -> Iterator[AirflowDeployment]:
    """One Airflow for all tests, with LocalExecutor; the Connection is in its database."""
    settings = {"DATABASE__SQL_ALCHEMY_CONN": postgres.url, "CORE__EXECUTOR": "LocalExecutor"}
    with AirflowDeployment(DAGS, env={"PYTHONPATH": str(ROOT)}, settings=settings) as airflow:
        airflow.call("POST", "connections", json={"connection_id": CONNECTION_ID, "conn_type": "rtisms"})
        yield airflow


@pytest.fixture
def airflow(deployment: AirflowDeployment) -> Iterator[AirflowDeployment]:
    """The deployment, with one of each component at the start and at the end of a test."""
    yield deployment
    for name in set(deployment.processes) - set(COMPONENTS):
        deployment.kill(name)
    for component in set(COMPONENTS) - set(deployment.processes):
        deployment.start(component)
    deployment.recover()


@pytest.fixture
def sandbox(airflow: AirflowDeployment) -> Iterator[SandboxProcess]:
    """A fresh sandbox, which the Connection leads to."""
    with SandboxProcess() as sandbox:
        store_connection(airflow, sandbox)
        yield sandbox


@pytest.fixture
def start_waits(airflow: AirflowDeployment, sandbox: SandboxProcess) -> Callable[..., DeferredWaits]:
    """Start waits for submissions that stay PENDING, and return once triggers poll all of them."""

    def start(count: int = 1, *, submissions: int = 5) -> DeferredWaits:
        waits = [[sandbox.add_submission("PENDING") for _ in range(submissions)] for _ in range(count)]
        run = airflow.trigger("deferred_waits", params={"waits": waits})
        started = DeferredWaits(airflow, sandbox, run, waits)
        airflow.wait_until(lambda: run.count("deferred") == count, what="all waits to be deferred")
        started.await_polls()
        return started

    return start


def store_connection(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    """Change the stored Connection over the REST API, as the UI does."""
    fields = {"connection_id": CONNECTION_ID, **json.loads(sandbox.connection_json())}
    airflow.call("PATCH", f"connections/{CONNECTION_ID}", json=fields)
