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

with DAG("people", schedule=None, params={"folder": ".", "least": 0, "also": False}):
    send = SqlToRtiSmsOperator.partial(
        task_id="send",
        sql="SELECT id, phone, name FROM people WHERE id >= %(least)s ORDER BY random()",
        sql_conn_id="people",
        recipient_column="phone",
        text="Confidential: {name}",
        reference_column="id",
        sender="96000",
        retries=15,
        retry_delay=timedelta(0),
        **CONNECTION,
    )

    @task
    def shares(params=None) -> list[dict]:
        """Return what each worker sends: everybody, or everybody and then the same people from a row on."""
        leasts = [params["least"], params["least"] + 2500] if params["also"] else [params["least"]]
        return [{"parameters": {"least": one}, "output_path": f"{params['folder']}/{one}.csv"} for one in leasts]

    send.expand_kwargs(shares())
