"""Triggerers are killed with SIGKILL in the middle of waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripts.airflow_deployment import AirflowDeployment
from tests.system.chaos.conftest import DeferredWaits


def triggerer_jobs(airflow: AirflowDeployment) -> list[int]:
    """Return the ids of the triggerers that Airflow regards as alive, in the order of their start."""
    jobs: list[dict[str, Any]] = airflow.call("GET", "jobs", params={"job_type": "TriggererJob", "is_alive": True})[
        "jobs"
    ]
    return sorted(job["id"] for job in jobs)


def holders(waits: DeferredWaits) -> set[int | None]:
    """Return the ids of the triggerers that hold the waits."""
    tasks = [task for task in waits.run.task_instances() if task["state"] == "deferred"]
    return {task["triggerer_job"]["id"] if task["triggerer_job"] else None for task in tasks}


def test_a_wait_goes_on_once_a_killed_triggerer_is_restarted(
    airflow: AirflowDeployment, start_waits: Callable[..., DeferredWaits]
) -> None:
    waits = start_waits()
    airflow.kill("triggerer")
    at_the_kill = waits.sandbox.state()
    assert waits.run.count("deferred") == 1
    airflow.start("triggerer")
    waits.await_polls()
    waits.deliver()
    waits.check_success()
    assert waits.sandbox.state().tokens_issued == at_the_kill.tokens_issued + 1  # the token of the new process


def test_another_triggerer_takes_over_from_a_killed_one(
    airflow: AirflowDeployment, start_waits: Callable[..., DeferredWaits]
) -> None:
    first = set(triggerer_jobs(airflow))
    airflow.start("triggerer", name="triggerer-2")
    airflow.wait_until(lambda: len(triggerer_jobs(airflow)) == 2, what="two triggerers")
    (second,) = set(triggerer_jobs(airflow)) - first
    waits = start_waits(6, submissions=2)
    victim = second if second in holders(waits) else min(first)
    survivor = ({second} | first) - {victim}
    airflow.kill("triggerer-2" if victim == second else "triggerer")
    airflow.wait_until(lambda: holders(waits) == survivor, what="the survivor to hold every wait")
    waits.await_polls()
    waits.deliver()
    waits.check_success()
