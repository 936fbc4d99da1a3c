"""
Use every operator, sensor and trigger of the package, in ways that succeed and in ways that fail (``failing_...``).

Add a line here for every new one. Phone numbers and texts come from Variables in the environment, so that they are
neither in this file nor in the database, unless something writes them there.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.operators.bulk import RtiSmsBulkGetDetailsOperator
from airflow_provider_rtisms.operators.rtisms import RtiSmsGetBalanceOperator, RtiSmsGetDetailsOperator
from airflow_provider_rtisms.operators.send import RtiSmsSendOperator
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor, RtiSmsDeliverySensor

DELIVERED, REJECTED, UNKNOWN_ID = "4193366853543393", "4193366853543001", "1234567890123"
OPEN = "{{ dag_run.conf['open_ids'][ti.task_id] }}"
RECIPIENT, TEXT = "{{ var.value.rtisms_recipient }}", "{{ var.value.rtisms_text }}"
WAIT = {"poke_interval": 0.5, "timeout": 3600}
SMS = {"recipients": [RECIPIENT], "text": TEXT, "sender": "96000"}
ALERT = RtiSmsNotifier(**SMS)

with DAG("rtisms_every_use", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
    RtiSmsGetDetailsOperator(task_id="details", submission_id=DELIVERED)
    RtiSmsBulkGetDetailsOperator(task_id="bulk", submission_ids=[DELIVERED, REJECTED])
    RtiSmsBulkGetDetailsOperator(task_id="failing_bulk", submission_ids=[DELIVERED, UNKNOWN_ID])
    RtiSmsGetDetailsOperator(task_id="failing_details", submission_id=UNKNOWN_ID)
    RtiSmsGetDetailsOperator(task_id="failing_login", submission_id=DELIVERED, rtisms_conn_id="rtisms_wrong")
    RtiSmsGetBalanceOperator(task_id="balance")
    RtiSmsBalanceSensor(task_id="wait_for_balance", minimum=1, **WAIT)
    RtiSmsBalanceSensor(task_id="failing_balance", minimum=1_000_000, deferrable=True, poke_interval=0.5, timeout=5)
    RtiSmsSendOperator(task_id="send", **SMS)
    RtiSmsSendOperator(task_id="send_and_wait", wait_for_delivery=True, deferrable=True, **SMS, **WAIT)
    RtiSmsSendOperator(task_id="failing_send", **{**SMS, "sender": "blocked"}, on_failure_callback=ALERT)
    RtiSmsSendOperator(task_id="failing_number", **{**SMS, "recipients": [f"{RECIPIENT}x"]})
    RtiSmsDeliverySensor(task_id="wait", submission_ids=[DELIVERED, OPEN], **WAIT)
    RtiSmsDeliverySensor(task_id="wait_deferred", submission_ids=[DELIVERED, OPEN], deferrable=True, **WAIT)
    RtiSmsDeliverySensor(task_id="failing_wait", submission_ids=[OPEN, REJECTED], deferrable=True, **WAIT)
    RtiSmsDeliverySensor(
        task_id="failing_login_wait", submission_ids=[OPEN], rtisms_conn_id="rtisms_wrong", deferrable=True, **WAIT
    )
