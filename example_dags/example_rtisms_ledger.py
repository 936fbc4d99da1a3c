"""Text the people of a table, keep a ledger of it that completes itself, and report what arrived and what it cost.

The DAG runs unchanged against the sandbox, where the SMS to the second person ends as UNDELIVERED. It makes a small
table in SQLite. To use your own database, remove the first task, and name your Connection in SHOP: PostgreSQL, MySQL,
MariaDB or SQLite.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, Asset, BaseHook, dag, task

from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator

SHOP = "rtisms_example_ledger"
# The Connection, unless there is one of this name in the environment. Yours can be anywhere, as every Connection can.
os.environ.setdefault(
    f"AIRFLOW_CONN_{SHOP.upper()}",
    json.dumps({"conn_type": "sqlite", "host": str(Path(tempfile.gettempdir(), "rtisms_example_ledger.db"))}),
)
LEDGER = Asset("x-rtisms://sms_ledger")
LEAST_SHARE = 0.5
START = datetime(2026, 1, 1, tzinfo=UTC)


@dag(schedule="@hourly", start_date=START, catchup=False, max_active_runs=1, tags=["example", "rtisms"])
def example_rtisms_ledger_refresh() -> None:
    """Ask for the submissions of the last 7 days that are not final; nothing else is asked for again."""
    RtiSmsDetailsToSqlOperator(
        task_id="refresh",
        sql_conn_id=SHOP,
        table="sms_ledger",
        refresh=True,
        lookback=timedelta(days=7),
        retries=2,
    )


@dag(schedule=None, start_date=START, tags=["example", "rtisms"])
def example_rtisms_ledger() -> None:
    @task
    def make_table() -> None:
        """Make a table of people. Your own table is there already."""
        with closing(BaseHook.get_hook(SHOP).get_conn()) as database:
            database.execute("DROP TABLE IF EXISTS people")
            database.execute("CREATE TABLE people (id, name, phone)")
            database.executemany(
                "INSERT INTO people VALUES (?, ?, ?)",
                [
                    ("july-1", "Ana", "+56900000000"),
                    ("july-2", "José", "+56900000002"),
                    ("july-3", "Eva", "+56900000100"),
                ],
            )
            database.commit()

    send = SqlToRtiSmsOperator(
        task_id="send",
        sql_conn_id=SHOP,
        sql="SELECT id, name, phone FROM people",
        recipient_column="phone",
        reference_column="id",
        text="Hello {name}, our shop has a sale in July.",
        sender="96000",
        max_messages=1000,
        results_table="sms_ledger",
        create_table=True,
        wait_for_delivery=True,  # leave this out where the hourly refresh is early enough
        deferrable=True,
        fail_on=(),
        poke_interval=2,
        timeout=600,
        retries=2,
    )

    refresh = RtiSmsDetailsToSqlOperator(
        task_id="refresh", sql_conn_id=SHOP, table="sms_ledger", refresh=True, retries=2
    )

    @task(outlets=[LEDGER])
    def report(outlet_events: Any = None) -> dict[str, Any]:
        """Print the counts by day, network and campaign; the totals go into the asset event."""
        from airflow_provider_rtisms.report import read_report

        *lines, total = read_report(SHOP, "sms_ledger")
        for line in lines:
            print(*(f"{name}={value}" for name, value in line.items()))
        counts = {name: total[name] for name in ("sent", "delivered", "share", "open", "cost")}
        outlet_events[LEDGER].extra = counts
        return counts

    @task(
        on_failure_callback=RtiSmsNotifier(
            recipients="+56900000100", text="Few SMS arrive: see the DAG {{ dag.dag_id }}.", sender="96000"
        )
    )
    def check_share(counts: dict[str, Any]) -> None:
        """Fail, and so alert, if too few messages arrived."""
        if counts["share"] is not None and counts["share"] < LEAST_SHARE:
            raise AirflowFailException(f"{counts['delivered']} of {counts['sent']} messages were delivered")

    counts = report()
    make_table() >> send >> refresh >> counts
    check_share(counts)


example_rtisms_ledger_refresh()
example_rtisms_ledger()
