"""Send a text of its own to each person of a table, wait until it is delivered, and write the outcome into the table.

The DAG runs unchanged against the sandbox, where the SMS to the second person ends as UNDELIVERED. It makes a small
table in SQLite. To use your own database, remove the first task, and name your Connection in PEOPLE.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseHook, dag, task

from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator

PEOPLE = "rtisms_example_people"
# The Connection, unless there is one of this name in the environment. Yours can be anywhere, as every Connection can.
os.environ.setdefault(
    f"AIRFLOW_CONN_{PEOPLE.upper()}",
    json.dumps({"conn_type": "sqlite", "host": str(Path(tempfile.gettempdir(), "rtisms_example_people.db"))}),
)


@dag(schedule=None, tags=["example", "rtisms"])
def example_rtisms_table_to_people() -> None:
    @task
    def make_table() -> None:
        """Make a table of invoices. Your own table is there already."""
        with closing(BaseHook.get_hook(PEOPLE).get_conn()) as database:
            database.execute("DROP TABLE IF EXISTS invoices")
            database.execute("CREATE TABLE invoices (id INTEGER PRIMARY KEY, name, phone, amount, outcome, submission)")
            database.executemany(
                "INSERT INTO invoices (id, name, phone, amount) VALUES (?, ?, ?, ?)",
                [(1, "Ana", "+56900000000", 12500), (2, "José", "+56900000002", 9900), (3, "Eva", "+56900000100", 70)],
            )
            database.commit()

    send = SqlToRtiSmsOperator(
        task_id="send",
        sql_conn_id=PEOPLE,
        sql="SELECT id, name, phone, amount FROM invoices WHERE outcome IS NULL",
        recipient_column="phone",
        reference_column="id",
        text="Hello {name}, your invoice {id} over {amount} is due.",
        sender="96000",
        max_parts=1,
        max_messages=1000,
        wait_for_delivery=True,
        deferrable=True,
        fail_on=(),  # the table shows which deliveries failed
        poke_interval=2,
        timeout=600,
        retries=2,
    )

    @task(trigger_rule="all_done")
    def write_outcomes(ti: Any) -> None:
        """Write what is known of each message, also if the task before this one has failed."""
        submissions = ti.xcom_pull(task_ids="send", key="submissions") or []
        records = ti.xcom_pull(task_ids="send")  # None if the task has failed
        delivery = {record["submission_id"]: record["status"] for record in records or ()}
        rows = [
            (delivery.get(one["submission_id"], one["outcome"]), one["submission_id"], one["reference"])
            for one in submissions
            if one["outcome"] != "not_sent"
        ]
        with closing(BaseHook.get_hook(PEOPLE).get_conn()) as database:
            database.executemany("UPDATE invoices SET outcome = ?, submission = ? WHERE id = ?", rows)
            database.commit()
        if records is None:
            raise AirflowFailException(f"The task send failed; the table has the outcomes of {len(rows)} messages")

    make_table() >> send >> write_outcomes()


example_rtisms_table_to_people()
