"""The example DAGs on CeleryExecutor: PostgreSQL, Redis and two workers."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.servers import Postgres, Redis

pytestmark = [
    pytest.mark.system,
    pytest.mark.deployment,
    pytest.mark.celery,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only"),
]

EXAMPLES = sorted((Path(__file__).parents[2] / "example_dags").glob("*.py"))
WORKERS = ("celery-worker-1", "celery-worker-2")
SUBMISSIONS = 8


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess(seed=1000, pending_for=0.2, sent_for=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(sandbox: SandboxProcess) -> Iterator[AirflowDeployment]:
    with Postgres() as postgres, Redis() as redis:
        settings = {
            "CORE__EXECUTOR": "CeleryExecutor",
            "DATABASE__SQL_ALCHEMY_CONN": postgres.url,
            "CELERY__BROKER_URL": redis.url,
            "CELERY__RESULT_BACKEND": postgres.url.replace("postgresql+psycopg2", "db+postgresql"),
        }
        env = {"AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json()}
        with AirflowDeployment(EXAMPLES, env=env, settings=settings) as airflow:
            for worker in WORKERS:
                airflow.start("celery-worker", name=worker)
            yield airflow


def test_waits_run_on_two_workers(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    ids = [sandbox.add_submission("PENDING") for _ in range(SUBMISSIONS)]
    run = airflow.trigger("example_rtisms_wait_for_delivery", params={"submission_ids": ids})
    for task in run.changes():
        if task["state"] == "deferred":
            for submission_id in ids:
                sandbox.add_submission(submission_id=submission_id, pending_for=0, sent_for=1)
    assert run.state() == "success", run.failure_log()
    assert [record["submission_id"] for record in run.xcom("wait_for_delivery")] == ids
    details = [run.xcom("get_details", map_index=index) for index in range(SUBMISSIONS)]
    assert [(record["submission_id"], record["status"]) for record in details] == [(one, "DELIVERED") for one in ids]
    for worker in WORKERS:
        assert "succeeded in" in airflow.processes[worker].log.read_text(), f"{worker} got no task"


def test_a_day_is_reconciled(airflow: AirflowDeployment, sandbox: SandboxProcess, tmp_path: Path) -> None:
    params = {"folder": f"file://{tmp_path}", "count": 1000}
    run = airflow.trigger("example_rtisms_bulk_reconcile", params=params, logical_date="2026-01-02T00:00:00Z")
    assert run.finish() == "success", run.failure_log()
    assert run.xcom("fetch_details")["fetched"] == 1000
    with gzip.open(tmp_path / "ds=2026-01-02" / "details.csv.gz", "rt") as details:
        assert len(details.readlines()) == 1001
