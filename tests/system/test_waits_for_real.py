"""Waits in the triggerer of a whole Airflow."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from tests.partial_success import CASES, add_submissions, final_ids

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only"),
]


def test_enough_deliveries(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    """The table of cases, in a real triggerer."""
    ids = [add_submissions(sandbox, case.statuses) for case in CASES]
    run = airflow.trigger("partial_success", params={"ids": ids})
    run.finish()
    tasks = {task["task_id"]: task for task in run.task_instances()}
    pushed = run.xcom("final")
    for index, (case, some) in enumerate(zip(CASES, ids, strict=True)):
        wait = tasks[f"wait_{index}"]
        ended = (wait["state"], wait["try_number"])
        assert ended == ("success" if case.is_enough else "failed", 1), run.failure_log()
        if case.is_enough:
            assert {record["submission_id"] for record in run.xcom(wait["task_id"])} == final_ids(case, some)
            assert pushed[index] == []
        else:
            assert pushed[index]
            assert set(pushed[index]) <= final_ids(case, some)


def test_bad_input_fails_at_once(airflow: AirflowDeployment) -> None:
    run = airflow.trigger("bad_input")
    assert run.finish() == "failed"
    assert run.task_instances()[0]["try_number"] == 1
    assert "submission_ids[0] is a str of 8 characters: use a decimal string" in run.failure_log()
