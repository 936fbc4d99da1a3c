"""Waits in the triggerer of a whole Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from tests.partial_success import CASES, add_submissions, final_ids

pytestmark = [
    pytest.mark.system,
    pytest.mark.deployment,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only"),
]

DAGS = Path(__file__).parent / "dags" / "waits.py"
RUN_TIMEOUT = 300.0
"""Seconds."""
#: The cases in which a submission is open at the first poll, so that the triggerer has something to do.
DEFERRED = [case for case in CASES if set(case.statuses) & set("drS")]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(sandbox: SandboxProcess) -> Iterator[AirflowDeployment]:
    with AirflowDeployment([DAGS], env={"AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json()}) as airflow:
        yield airflow


def test_enough_deliveries(
    airflow: AirflowDeployment, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.partial_success.LATER", 60)  # the worker polls before that, and the triggerer after it
    ids = [add_submissions(sandbox, case.statuses) for case in DEFERRED]
    waits = [
        {"submission_ids": some, "min_delivered": case.min_delivered} for case, some in zip(DEFERRED, ids, strict=True)
    ]
    run = airflow.trigger("partial_success", params={"waits": waits})
    run.finish(timeout=RUN_TIMEOUT)
    tasks = {task["map_index"]: task for task in run.task_instances() if task["task_id"] == "wait"}
    states = [tasks[index]["state"] for index in range(len(DEFERRED))]
    assert states == ["success" if case.is_enough else "failed" for case in DEFERRED], run.failure_log()
    assert {task["try_number"] for task in tasks.values()} == {1}
    pushed = run.xcom("count_final")
    for index, (case, some) in enumerate(zip(DEFERRED, ids, strict=True)):
        if case.is_enough:
            returned = {record["submission_id"] for record in run.xcom("wait", map_index=index)}
            assert (returned, pushed[index]) == (final_ids(case, some), 0)
        else:
            assert 0 < pushed[index] <= len(final_ids(case, some))
