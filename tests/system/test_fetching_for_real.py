"""Bulk fetches in a whole Airflow: what OpenLineage and asset events say, and mapped tasks that share a threshold."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.dag_run import DagRun
from tests.unit.bulk.conftest import seeded

pytest.importorskip("airflow.providers.openlineage", reason="the OpenLineage provider is not installed")
pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only"),
]

UNKNOWN_ID = "1234567890123"


@pytest.fixture
def sandbox(sandbox_process: SandboxProcess) -> SandboxProcess:
    sandbox_process.reset(seed=2000)
    return sandbox_process


def finish(run: DagRun) -> None:
    assert run.finish() == "success", run.failure_log()


def datasets(event: dict[str, Any], kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["namespace"], one["name"]): one for one in event[kind]}


def test_a_fetch_reaches_openlineage_and_the_dags_that_its_asset_starts(
    airflow: AirflowDeployment, openlineage_events: Path, tmp_path: Path
) -> None:
    ids = seeded(50)
    (tmp_path / "ids.csv").write_text("\n".join(["id", UNKNOWN_ID, *ids]))
    finish(airflow.trigger("fetch", params={"folder": str(tmp_path)}))

    def completed() -> list[dict[str, Any]]:
        lines = openlineage_events.read_text().splitlines() if openlineage_events.exists() else []
        events = [json.loads(line) for line in lines]
        return [one for one in events if (one["eventType"], one["job"]["name"]) == ("COMPLETE", "fetch.fetch")]

    (event,) = airflow.wait_until(completed, what="the event of OpenLineage")
    details, missing = ("file", f"{tmp_path}/details.parquet"), ("file", f"{tmp_path}/missing.csv")
    assert set(datasets(event, "inputs")) == {("file", f"{tmp_path}/ids.csv"), ("s3://warehouse", "raw")}
    outputs = datasets(event, "outputs")
    assert set(outputs) == {details, missing, ("s3://warehouse", "details")}
    fields = {one["name"]: one["type"] for one in outputs[details]["facets"]["schema"]["fields"]}
    assert (fields["submission_id"], fields["done_at"]) == ("string", "timestamp")
    statistics = outputs[details]["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["size"]) == (50, Path(details[1]).stat().st_size)
    assert outputs[missing]["outputFacets"]["outputStatistics"]["rowCount"] == 1

    def started() -> list[dict[str, Any]]:
        return list(airflow.call("GET", "dags/after_fetch/dagRuns")["dag_runs"])

    (run_after,) = airflow.wait_until(started, what="a run of after_fetch")
    run = DagRun(airflow, "after_fetch", run_after["dag_run_id"])
    finish(run)
    (counts,) = run.xcom("read_counts")
    assert (counts["requested"], counts["fetched"], counts["missing"]) == (51, 50, 1)
    assert (counts["cost"], counts["by_status"]) == (50, {"DELIVERED": 50})
    assert not [one for one in (UNKNOWN_ID, *ids, str(tmp_path)) if one in json.dumps(counts)]
    events = airflow.call("GET", "assets/events", params={"source_dag_id": "fetch"})["asset_events"]
    assert {one["uri"]: one["extra"] for one in events} == {
        "s3://warehouse/details": counts,
        f"file://{tmp_path}/details.parquet": counts,  # through the alias
    }


def details_in(folder: Path) -> dict[str, list[str]]:
    """Return the submission ids in each file of records, by the name of the file."""
    files = {file.name: gzip.decompress(file.read_bytes()).decode() for file in folder.glob("*/details-*.csv.gz")}
    return {name: [row["submission_id"] for row in csv.DictReader(text.splitlines())] for name, text in files.items()}


@pytest.mark.slow
def test_mapped_tasks_keep_to_the_threshold_that_they_divide(
    airflow: AirflowDeployment, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    sandbox.set_faults(Fault("rate_limit", per_second=100, path="sms"))
    run = airflow.trigger("example_rtisms_split_fetch", params={"folder": f"file://{tmp_path}", "count": 600})
    finish(run)
    assert sandbox.state().count_responses(429) == 0
    totals = run.xcom("add_up")
    assert (totals["requested"], totals["fetched"], totals["by_status"]) == (600, 600, {"DELIVERED": 600})
    details = details_in(tmp_path)
    assert {name: len(ids) for name, ids in details.items()} == {f"details-{n}.csv.gz": 75 for n in range(8)}
    assert sorted(one for ids in details.values() for one in ids) == seeded(600)
    mapped = [one for one in run.task_instances() if one["task_id"] == "fetch_details"]
    assert sorted(one["rendered_map_index"] for one in mapped) == [f"ids-{number}.txt" for number in range(8)]
