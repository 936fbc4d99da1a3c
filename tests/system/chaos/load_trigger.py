"""The delivery trigger without the worker that usually stands before and behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent

from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger


class EndingDeliveryTrigger(RtiSmsDeliveryTrigger):
    """Ends its task by itself: a thousand tasks would keep two workers busy for longer than the waits take."""

    async def run(self) -> AsyncIterator[TaskSuccessEvent | TaskFailedEvent]:
        """Wait as the provider's trigger does."""
        async for event in super().run():
            finished = event.payload["outcome"] == "finished"
            yield TaskSuccessEvent() if finished else TaskFailedEvent()
