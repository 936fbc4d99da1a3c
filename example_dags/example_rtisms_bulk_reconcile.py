"""Reconcile a day's SMS with the API: read the ids, fetch what became of each, write one file a day, report totals.

Runs as it stands against the sandbox started with ``--seed 1000``. Put ``s3://conn_id@bucket/prefix`` or any other URL
of ObjectStoragePath into the param ``folder`` for a real bucket.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import ObjectStoragePath, dag, task

from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator


@dag(
    schedule=None,
    params={"folder": "file:///tmp/rtisms", "first_id": 5000000000000000, "count": 1000},
    tags=["example", "rtisms"],
)
def example_rtisms_bulk_reconcile() -> None:
    @task
    def export_sent_ids(params: dict[str, Any], ds: str) -> str:
        """Stand in for the query of yours that exports the ids of the messages sent on that day."""
        folder = ObjectStoragePath(params["folder"]) / f"ds={ds}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "sent.csv"
        ids = range(params["first_id"], params["first_id"] + params["count"])
        file.write_text("\n".join(["submission_id", *map(str, ids)]))
        return str(file)

    details = RtiSmsBulkGetDetailsOperator(
        task_id="fetch_details",
        submission_ids_path=export_sent_ids(),
        submission_ids_column="submission_id",
        output_path="{{ params.folder }}/ds={{ ds }}/details.csv.gz",
        on_missing="skip",
        retries=3,
    )

    @task
    def report(summary: dict[str, Any]) -> str:
        """Stand in for the message to whoever pays for the SMS."""
        states = ", ".join(f"{count} {status}" for status, count in summary["by_status"].items())
        return f"{states or 'no SMS'}, {summary['missing']} unknown; cost {summary['cost']}; see {summary['path']}"

    report(details.output)


example_rtisms_bulk_reconcile()
