"""The delivery trigger for tasks that never run in a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent

from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger


class TaskFinishingDeliveryTrigger(RtiSmsDeliveryTrigger):
    """Finishes its task by itself. A thousand tasks would keep two workers busy for longer than the waits take."""

    async def run(self) -> AsyncIterator[TaskSuccessEvent | TaskFailedEvent]:
        """Wait as the trigger of the provider does."""
        async for event in super().run():
            finished = event.payload["outcome"] == "finished"
            yield TaskSuccessEvent() if finished else TaskFailedEvent()
