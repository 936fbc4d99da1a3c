"""What docs/operations.md says of a wait or a fetch while the API, a triggerer, a worker or the database fails."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.processes import wait_until
from scripts.servers import Postgres
from tests.system.chaos.conftest import DeferredWaits, store_connection

StartWaits = Callable[..., DeferredWaits]
OUTAGE = 60.0
"""Seconds."""
IDS = 800
IN_FLIGHT = 8
"""The max_concurrency of the bulk fetch."""


def finish(waits: DeferredWaits) -> None:
    waits.await_polls()
    waits.deliver()
    waits.check_success()


def test_a_wait_outlives_an_outage(airflow: AirflowDeployment, start_waits: StartWaits) -> None:
    waits = start_waits()
    before = waits.sandbox.state()
    waits.sandbox.set_faults(Fault("outage"))
    end = time.monotonic() + OUTAGE
    airflow.wait_until(lambda: time.monotonic() > end, what="the end of the outage")
    during = waits.sandbox.state()
    assert during.count_responses("outage") >= len(waits.submission_ids)
    assert during.count_responses(200) == before.count_responses(200)
    assert waits.run.count("deferred") == 1
    waits.sandbox.set_faults()
    finish(waits)
    assert waits.sandbox.state().tokens_issued == before.tokens_issued


def test_a_revoked_token_is_replaced_once_and_a_rotated_secret_is_read_again(
    airflow: AirflowDeployment, start_waits: StartWaits
) -> None:
    waits = start_waits(4)
    before = waits.sandbox.state()
    waits.sandbox.revoke_tokens()
    waits.await_polls()
    assert waits.sandbox.state().tokens_issued == before.tokens_issued + 1
    waits.sandbox.rotate_secret("another secret, for the same client")
    store_connection(airflow, waits.sandbox)
    waits.sandbox.revoke_tokens()
    finish(waits)
    after = waits.sandbox.state()
    assert after.tokens_issued == before.tokens_issued + 2
    assert after.count_responses(401, "POST auth") >= 1  # the trigger used the old secret first


def test_a_wait_outlives_a_crash_of_the_database(
    airflow: AirflowDeployment, postgres: Postgres, start_waits: StartWaits
) -> None:
    waits = start_waits()
    triggerer = airflow.processes["triggerer"]
    with postgres.down():
        wait_until(lambda: not triggerer.is_running(), what="the triggerer to exit without a database")
    airflow.recover()
    finish(waits)


def test_a_wait_goes_on_once_a_killed_triggerer_is_restarted(
    airflow: AirflowDeployment, start_waits: StartWaits
) -> None:
    waits = start_waits()
    airflow.kill("triggerer")
    at_the_kill = waits.sandbox.state()
    assert waits.run.count("deferred") == 1
    airflow.start("triggerer")
    finish(waits)
    assert waits.sandbox.state().tokens_issued == at_the_kill.tokens_issued + 1  # the token of the new process


def triggerer_jobs(airflow: AirflowDeployment) -> set[int]:
    """Return the ids of the triggerers that Airflow regards as alive."""
    found = airflow.call("GET", "jobs", params={"job_type": "TriggererJob", "is_alive": True})
    return {job["id"] for job in found["jobs"]}


def holders(waits: DeferredWaits) -> set[int | None]:
    """Return the ids of the triggerers that hold the waits."""
    jobs: list[Any] = [task["triggerer_job"] for task in waits.run.task_instances() if task["state"] == "deferred"]
    return {job and job["id"] for job in jobs}


def test_another_triggerer_takes_over_from_a_killed_one(airflow: AirflowDeployment, start_waits: StartWaits) -> None:
    first = triggerer_jobs(airflow)
    airflow.start("triggerer", name="triggerer-2")
    airflow.wait_until(lambda: len(triggerer_jobs(airflow)) == 2, what="two triggerers")
    (second,) = triggerer_jobs(airflow) - first
    waits = start_waits(6, submissions=2)
    victim = second if second in holders(waits) else min(first)
    airflow.kill("triggerer-2" if victim == second else "triggerer")
    survivor = ({second} | first) - {victim}
    airflow.wait_until(lambda: holders(waits) == survivor, what="the survivor to hold every wait")
    finish(waits)


def test_the_retry_of_a_killed_bulk_fetch_fetches_only_the_rest(
    airflow: AirflowDeployment, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    ids = [sandbox.add_submission(pending_for=0, sent_for=0) for _ in range(IDS)]
    output = tmp_path / "details.jsonl"
    sandbox.set_faults(Fault("latency", seconds=0.1))  # 80 a second
    run = airflow.trigger("bulk_fetch", params={"submission_ids": ids, "output_path": str(output)})
    airflow.wait_until(lambda: len(sandbox.state().requests_by_id) > IDS / 2, what="requests for half of the ids")
    os.kill(run.task_instances()[0]["pid"], signal.SIGKILL)
    assert len(sandbox.state().requests_by_id) < IDS, "it was killed too late"
    assert not output.exists()

    assert run.finish() == "success", run.failure_log()
    assert run.task_instances()[0]["try_number"] == 2
    fetched = [json.loads(line)["submission_id"] for line in output.read_text().splitlines()]
    assert sorted(fetched) == sorted(ids)
    requests = sandbox.state().requests_by_id
    assert set(requests) == set(ids)
    # Fetched again: requests in flight at the kill, and responses that were not written yet.
    assert sum(requests.values()) - IDS <= 2 * IN_FLIGHT
