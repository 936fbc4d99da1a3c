"""Write the delivery status of the SMS that were sent the day before into a table, and check that none is missing.

The DAG runs unchanged against the sandbox if you start the sandbox with ``--seed 1000``. It makes a small table of sent
SMS in SQLite. To use your own database, remove the first task, and name your Connection in WAREHOUSE. The statements
are the same on PostgreSQL.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseHook, dag, task

from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator

WAREHOUSE = "rtisms_example_warehouse"
# The Connection, unless there is one of this name in the environment. Yours can be anywhere, as every Connection can.
os.environ.setdefault(
    f"AIRFLOW_CONN_{WAREHOUSE.upper()}",
    json.dumps({"conn_type": "sqlite", "host": str(Path(tempfile.gettempdir(), "rtisms_example_warehouse.db"))}),
)
#: The day before the run; in Airflow 3 a run that a person starts may have no logical date, and so no ``ds``.
DAY = "{{ macros.ds_add((dag_run.logical_date or dag_run.run_after) | ds, -1) }}"
SENT = f"SELECT submission_id FROM sent_sms WHERE sent_on = '{DAY}'"  # noqa: S608  # Airflow renders a date


@dag(schedule=None, params={"first_id": 5000000000000000, "count": 100}, tags=["example", "rtisms"])
def example_rtisms_details_to_table() -> None:
    @task
    def make_table(day: str, params: dict[str, Any]) -> None:
        """Make a table of sent SMS. Your own table is there already."""
        first, count = int(params["first_id"]), int(params["count"])
        before = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
        rows = [(first + number, day if number < count else before) for number in range(count + 10)]
        with closing(BaseHook.get_hook(WAREHOUSE).get_conn()) as database, closing(database.cursor()) as cursor:
            cursor.execute("DROP TABLE IF EXISTS sent_sms")
            cursor.execute("CREATE TABLE sent_sms (submission_id text PRIMARY KEY, sent_on text)")
            for submission_id, sent_on in rows:
                cursor.execute(f"INSERT INTO sent_sms VALUES ('{submission_id}', '{sent_on}')")  # noqa: S608
            database.commit()

    load = RtiSmsDetailsToSqlOperator(
        task_id="load",
        sql=SENT,
        table="sms_details",
        sql_conn_id=WAREHOUSE,
        create_table=True,
        on_missing="skip",  # the task after this one names them
        retries=3,
    )

    @task
    def check(day: str, summary: dict[str, Any]) -> str:
        """Count the sent SMS without details, and compare with what the load says."""
        missing = (
            f"SELECT count(*) FROM sent_sms WHERE sent_on = '{day}' "  # noqa: S608
            "AND submission_id NOT IN (SELECT submission_id FROM sms_details)"
        )
        (without_details,) = BaseHook.get_hook(WAREHOUSE).get_first(missing)
        if without_details != summary["missing"] or summary["requested"] != summary["fetched"] + summary["missing"]:
            raise AirflowFailException(f"{without_details} SMS have no details, but {summary['missing']} were unknown")
        return f"{day}: {summary['fetched']} of {summary['requested']} SMS have details, cost {summary['cost']}"

    make_table(DAY) >> load
    check(DAY, load.output)


example_rtisms_details_to_table()
