"""Waits in the triggerer of a whole Airflow, which begin there."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.dag_run import DagRun
from tests.partial_success import CASES, add_submissions, final_ids

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only"),
]

WAITS = 50


def logs_of_workers(run: DagRun) -> list[Path]:
    """Return the logs that workers have written for the waits of a run; those of a triggerer have other names."""
    folder = run.airflow.home / "logs" / f"dag_id={run.dag_id}" / f"run_id={run.run_id}"
    return [log for log in folder.rglob("attempt=*.log") if "task_id=wait" in str(log) and "trigger" not in log.name]


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


@pytest.mark.slow
def test_mapped_waits_begin_without_a_worker(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    """The ids come from an upstream task, and the Connection from Airflow's database."""
    ids = [sandbox.add_submission("PENDING") for _ in range(WAITS)]
    tokens = sandbox.state().tokens_issued
    run = airflow.trigger("mapped_waits_true", params={"ids": ids})

    def are_all_polled() -> bool:
        polls = sandbox.state().requests_by_id
        return all(polls.get(one, 0) > 1 for one in ids)

    airflow.wait_until(are_all_polled, what="two polls of each submission")
    assert run.count("deferred") == WAITS
    assert logs_of_workers(run) == []
    assert sandbox.state().tokens_issued == tokens + 1

    # The triggerer dies, and another one begins again. Some waits end; each resumes in a worker.
    airflow.kill("triggerer")
    ended = (0, 1, WAITS - 1)
    for index in ended:
        sandbox.add_submission(submission_id=ids[index], pending_for=0, sent_for=0)
    airflow.start("triggerer")
    airflow.wait_until(lambda: run.count("success") == len(ended) + 1, what="the ends of waits")
    records = [run.xcom("wait", map_index=index) for index in ended]
    assert [[record["submission_id"] for record in some] for some in records] == [[ids[index]] for index in ended]
    assert run.count("deferred") == WAITS - len(ended)
    assert len(logs_of_workers(run)) == len(ended)

    for one in ids:  # the next test finds no open waits
        sandbox.add_submission(submission_id=one, pending_for=0, sent_for=0)
    assert run.finish() == "success", run.failure_log()


def test_bad_input_fails_with_the_same_error(airflow: AirflowDeployment) -> None:
    run = airflow.trigger("bad_input")
    assert run.finish() == "failed"
    assert run.task_instances()[0]["try_number"] == 1
    assert "submission_ids[0] is a str of 8 characters: use a decimal string" in run.failure_log()
