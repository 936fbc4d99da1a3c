"""Send an SMS to some people, wait until it is delivered, and alert the person on duty if it is not.

The DAG runs unchanged against the sandbox, where the SMS to the second number ends as UNDELIVERED. The numbers come
from Variables, because Airflow stores a DAG file, and every number in it, in its database.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator

SENDER = "96000"
RECIPIENTS = """{{ var.value.get("rtisms_recipients", '["+56900000000", "+56900000002"]') }}"""
ON_DUTY = '{{ var.value.get("rtisms_on_duty", "+56900000100") }}'


def alert(text: str) -> RtiSmsNotifier:
    """Return a callback that alerts the person on duty."""
    return RtiSmsNotifier(recipients=ON_DUTY, text=text, sender=SENDER)


@dag(schedule=None, tags=["example", "rtisms"])
def example_rtisms_send_and_wait() -> None:
    send = RtiSmsSendOperator(
        task_id="send",
        recipients=RECIPIENTS,
        text="Run {{ run_id }} is done",
        sender=SENDER,
        max_parts=2,
        wait_for_delivery=True,
        deferrable=True,
        fail_on=(),  # the branch below handles failed deliveries
        poke_interval=2,
        timeout=600,
        retries=2,
        on_failure_callback=alert("{{ ti.task_id }} failed"),
    )

    @task.branch
    def judge(records: list[dict[str, Any]]) -> str:
        """Choose the next task by the delivery status of the messages."""
        return "all_arrived" if all(record["status"] == "DELIVERED" for record in records) else "some_did_not"

    @task
    def all_arrived() -> None:
        """Continue with the work that needs everyone informed."""

    @task(on_success_callback=alert("Not all SMS of {{ run_id }} arrived"))
    def some_did_not() -> None:
        """Do nothing more: the callback alerts the person on duty."""

    judge(send.output) >> [all_arrived(), some_did_not()]


example_rtisms_send_and_wait()
