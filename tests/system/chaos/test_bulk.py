"""A worker killed with SIGKILL in the middle of a bulk fetch."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from scripts.airflow_deployment import AirflowDeployment

IDS = 800
IN_FLIGHT = 8
"""The DAG's max_concurrency."""


def test_the_retry_of_a_killed_bulk_fetch_fetches_only_the_rest(
    airflow: AirflowDeployment, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    ids = [sandbox.add_submission(pending_for=0, sent_for=0) for _ in range(IDS)]
    output = tmp_path / "details.jsonl"
    sandbox.set_faults(Fault("latency", seconds=0.1))  # 80 a second
    run = airflow.trigger("bulk_fetch", params={"submission_ids": ids, "output_path": str(output)})
    airflow.wait_until(
        lambda: len(sandbox.state().requests_by_id) > IDS / 2, what="requests for half of the ids", timeout=120
    )
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
