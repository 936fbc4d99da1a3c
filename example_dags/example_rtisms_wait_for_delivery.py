"""Wait until some SMS are delivered, then fetch the details of each.

The DAG runs unchanged against the sandbox, which has these submissions from its start. ``make demo`` runs it.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_rtisms.operators.rtisms import RtiSmsGetDetailsOperator
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor


@dag(schedule=None, params={"submission_ids": ["4193366853543000", "4193366853543393"]}, tags=["example", "rtisms"])
def example_rtisms_wait_for_delivery() -> None:
    @task
    def sent_submissions(params: dict[str, list[str]]) -> list[str]:
        """Return submission ids. Replace this with a task that sends, or that reads from a table what was sent."""
        return params["submission_ids"]

    submission_ids = sent_submissions()
    delivered = RtiSmsDeliverySensor(
        task_id="wait_for_delivery",
        submission_ids=submission_ids,
        poke_interval=2,
        timeout=timedelta(minutes=10).total_seconds(),
        deferrable=True,
    )
    details = RtiSmsGetDetailsOperator.partial(
        task_id="get_details", map_index_template="{{ task.submission_id }}"
    ).expand(submission_id=submission_ids)
    delivered >> details


example_rtisms_wait_for_delivery()
