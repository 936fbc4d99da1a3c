"""Personal texts from a table, retried immediately, as often as a test kills the worker."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator

with DAG("people", schedule=None, params={"folder": ".", "least": 0, "also": False}):
    send = SqlToRtiSmsOperator.partial(
        task_id="send",
        sql="SELECT id, phone, name FROM people WHERE id >= %(least)s ORDER BY random()",
        sql_conn_id="people",
        recipient_column="phone",
        text="Confidential: {name}",
        reference_column="id",
        sender="96000",
        rtisms_conn_id="rtisms_stored",
        retries=15,
        retry_delay=timedelta(0),
    )

    @task
    def shares(params=None) -> list[dict]:
        """Return what each worker sends: everybody, or everybody and then the same people from a row on."""
        leasts = [params["least"], params["least"] + 2500] if params["also"] else [params["least"]]
        return [{"parameters": {"least": one}, "output_path": f"{params['folder']}/{one}.csv"} for one in leasts]

    send.expand_kwargs(shares())
