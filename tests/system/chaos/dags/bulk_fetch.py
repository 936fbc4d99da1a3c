"""A bulk fetch that is retried immediately."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_rtisms.operators.bulk import RtiSmsBulkGetDetailsOperator

with DAG("bulk_fetch", schedule=None, params={"submission_ids": ["1"], "output_path": "details.jsonl"}):
    RtiSmsBulkGetDetailsOperator(
        task_id="fetch",
        submission_ids="{{ params.submission_ids | tojson }}",
        output_path="{{ params.output_path }}",
        rtisms_conn_id="rtisms_stored",
        max_concurrency=8,
        retries=1,
        retry_delay=timedelta(0),
    )
