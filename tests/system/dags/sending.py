"""DAGs for test_sending_for_real.py. Numbers and texts come from Variables in the environment."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.retry_policy import RtiSmsRetryPolicy
from airflow_provider_rtisms.triggers.rtisms import RtiSmsBalanceFallTrigger

WATCHED = {"rtisms_conn_id": "rtisms_watched"}
MESSAGE = {"text": "{{ var.value.sms_text }}", "sender": "96000"}

with DAG("send_to_many", schedule=None):
    RtiSmsSendOperator(
        task_id="send",
        recipients="{{ var.value.sms_recipients }}",
        chunk_size=10,
        retries=3,
        retry_delay=timedelta(seconds=0),
        on_failure_callback=RtiSmsNotifier(
            recipients="{{ var.value.sms_on_duty }}", text="{{ ti.task_id }} failed", sender="96000"
        ),
        **MESSAGE,
    )

with DAG("send_with_ledger", schedule=None):
    RtiSmsSendOperator(
        task_id="send",
        recipients="{{ var.value.sms_recipients }}",
        results_table="ledger",
        results_conn_id="ledger",
        create_table=True,
        **MESSAGE,
    )

with DAG("send_and_wait", schedule=None):
    RtiSmsSendOperator(
        task_id="send",
        recipients="{{ var.value.sms_recipients }}",
        wait_for_delivery=True,
        deferrable=True,
        poke_interval=0.5,
        timeout=3600,
        retries=3,
        **MESSAGE,
    )

with DAG(
    "failing",
    schedule=None,
    on_failure_callback=RtiSmsNotifier(
        recipients="{{ var.value.sms_on_duty }}", text="{{ dag.dag_id }} failed", sender="96000"
    ),
):

    @task
    def fail() -> None:
        """Fail."""
        raise ValueError("this task fails")

    fail()

with DAG("polite", schedule=None):

    @task(retries=3, retry_delay=timedelta(seconds=0), retry_policy=RtiSmsRetryPolicy())
    def ask(params=None) -> str | None:
        """Use the hook, as a task of a user does."""
        return RtiSmsHook(params["conn_id"]).get_sms("4193366853543393").status

    ask()

with DAG("async_task", schedule=None):

    @task
    async def fetch() -> dict[str, list[str | None]]:
        """Use the asyncio client, and then the methods that block the loop until they are done."""
        import asyncio

        async with RtiSmsHook("rtisms_stored").get_async_conn() as client:
            gathered = await asyncio.gather(*(client.get_sms("4193366853543393") for _ in range(2)))
        with RtiSmsHook("rtisms_stored") as hook:
            blocking = [
                hook.get_sms("4193366853543393").status,
                str(hook.get_balance()),
                str(await asyncio.to_thread(hook.get_balance)),
                hook.bulk_get_sms(["4193366853543393"])[0]["status"],
                hook.send_sms(recipients="+56900000000", text="Hello", sender="96000")[0].status,
            ]
        return {"gathered": [one.status for one in gathered], "blocking": blocking}

    fetch()

low_balance = Asset(
    "rtisms_low_balance",
    watchers=[AssetWatcher("balance", trigger=RtiSmsBalanceFallTrigger(threshold="100", poke_interval=0.5, **WATCHED))],
)

with DAG("top_up", schedule=[low_balance]):

    @task
    def top_up(triggering_asset_events=None) -> list[str]:
        """Return the balances in the events."""
        events = [event for some in triggering_asset_events.values() for event in some]
        return [event.extra["payload"]["balance"] for event in events]

    top_up()
