"""Reconcile the SMS of one day: read their ids, fetch their records, write one file per day, and report the totals.

The DAG runs unchanged against the sandbox if you start the sandbox with ``--seed 1000``. To use a real bucket, set the
param ``folder`` to ``s3://conn_id@bucket/prefix`` or to another URL for ObjectStoragePath.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import ObjectStoragePath, dag, task

from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator

#: The day of the run; in Airflow 3 a run that a person starts may have no logical date, and so no ``ds``.
DAY = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"


@dag(
    schedule=None,
    params={"folder": "file:///tmp/rtisms", "first_id": 5000000000000000, "count": 1000},
    tags=["example", "rtisms"],
)
def example_rtisms_bulk_reconcile() -> None:
    @task
    def export_sent_ids(day: str, params: dict[str, Any]) -> str:
        """Write the ids of the SMS sent on that day to a file. Replace this with your own query."""
        folder = ObjectStoragePath(params["folder"]) / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "sent.csv"
        ids = range(params["first_id"], params["first_id"] + params["count"])
        file.write_text("\n".join(["submission_id", *map(str, ids)]))
        return str(file)

    details = RtiSmsBulkGetDetailsOperator(
        task_id="fetch_details",
        submission_ids_path=export_sent_ids(DAY),
        submission_ids_column="submission_id",
        output_path=f"{{{{ params.folder }}}}/day={DAY}/details.csv.gz",
        on_missing="skip",
        retries=3,
    )

    @task
    def report(summary: dict[str, Any]) -> str:
        """Return the totals. Replace this with a message to the owner of the account."""
        states = ", ".join(f"{count} {status}" for status, count in summary["by_status"].items())
        return f"{states or 'no SMS'}, {summary['missing']} unknown; cost {summary['cost']}; see {summary['path']}"

    report(details.output)


example_rtisms_bulk_reconcile()
