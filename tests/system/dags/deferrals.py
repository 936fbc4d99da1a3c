"""DAGs for test_deferrals_for_real.py: an execution_timeout ends deferrals, and triggers crash."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG
from airflow.triggers.base import TriggerEvent

from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor, RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger

#: Each would wait for an hour.
WAIT: dict[str, Any] = {"poke_interval": 1, "timeout": 3600, "deferrable": True}


class CrashingTrigger(RtiSmsDeliveryTrigger):
    """It ends as a bug would end it."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return a path that the triggerer can import; DAG files have another name there."""
        return f"tests.system.dags.deferrals.{type(self).__name__}", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Crash."""
        raise KeyError("a bug")
        yield


class RefusedTrigger(RtiSmsDeliveryTrigger):
    """It has been stored with an argument that its constructor refuses."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return a wrong id."""
        path, kwargs = super().serialize()
        return path.replace(__name__, "tests.system.dags.deferrals"), {**kwargs, "submission_ids": ["abc"]}


class BrokenSensor(RtiSmsDeliverySensor):
    """
    A wait whose trigger ends without an event.

    :param trigger_class: the class of the trigger.
    """

    def __init__(self, *, trigger_class: type[RtiSmsDeliveryTrigger] = CrashingTrigger, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trigger_class = trigger_class

    def deferral(self, context: Any) -> dict[str, Any]:
        """Return the usual deferral with the other trigger."""
        usual = super().deferral(context)
        return {**usual, "trigger": self.trigger_class(**usual["trigger"].serialize()[1])}


for seconds in (20, 240):
    limit: dict[str, Any] = {**WAIT, "execution_timeout": timedelta(seconds=seconds)}
    with DAG(f"execution_timeouts_{seconds}", schedule=None, params={"id": ""}):
        RtiSmsDeliverySensor(task_id="delivery", submission_ids="{{ params.id }}", soft_fail=True, **limit)
        RtiSmsBalanceSensor(task_id="balance", minimum="1000000", soft_fail=True, **limit)
        sms = {"recipients": "+56900000004", "text": "hola", "sender": "96000"}
        RtiSmsSendOperator(task_id="send", wait_for_delivery=True, **sms, **limit)

with DAG("soft_fails", schedule=None, params={"id": ""}):
    BrokenSensor(task_id="crash", submission_ids="{{ params.id }}", soft_fail=True, **WAIT)
    BrokenSensor(
        task_id="refused", submission_ids="{{ params.id }}", soft_fail=True, trigger_class=RefusedTrigger, **WAIT
    )
