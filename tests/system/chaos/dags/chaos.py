"""DAGs for the chaos tests. Params give what to wait for, to fetch and to send; retries come immediately."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_rtisms.operators.bulk import RtiSmsBulkGetDetailsOperator
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator

CONNECTION = {"rtisms_conn_id": "rtisms_stored"}

with DAG("deferred_waits", schedule=None, params={"waits": [["1"]]}):

    @task
    def waits(params: dict[str, list[list[str]]]) -> list[list[str]]:
        """Return one list of ids for each wait."""
        return params["waits"]

    wait = RtiSmsDeliverySensor.partial(task_id="wait", poke_interval=1, timeout=600, deferrable=True, **CONNECTION)
    wait.expand(submission_ids=waits())

with DAG("bulk_fetch", schedule=None, params={"submission_ids": ["1"], "output_path": "details.jsonl"}):
    RtiSmsBulkGetDetailsOperator(
        task_id="fetch",
        submission_ids="{{ params.submission_ids | tojson }}",
        output_path="{{ params.output_path }}",
        max_concurrency=8,
        retries=1,
        retry_delay=timedelta(0),
        **CONNECTION,
    )

with DAG("people", schedule=None, params={"path": "results.csv"}):
    SqlToRtiSmsOperator(
        task_id="send",
        sql="SELECT id, phone, name FROM people ORDER BY random()",
        sql_conn_id="people",
        recipient_column="phone",
        text="Confidential: {name}",
        reference_column="id",
        output_path="{{ params.path }}",
        sender="96000",
        retries=15,
        retry_delay=timedelta(0),
        **CONNECTION,
    )
