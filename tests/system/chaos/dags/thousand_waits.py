"""A thousand tasks that the scheduler itself defers, all at the same time."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import BaseOperator, dag
from airflow.triggers.base import StartTriggerArgs

WAITS = 1000


class WaitFromTheStart(BaseOperator):
    """
    Wait for one submission without running in a worker.

    :param offset: added to the run's param ``first_id``, it gives the id of the submission.
    """

    template_fields = ("submission_ids",)
    start_from_trigger = True
    start_trigger_args = StartTriggerArgs(
        trigger_cls="tests.system.chaos.load_trigger.TaskFinishingDeliveryTrigger",
        next_method="execute",
        trigger_kwargs={
            "rtisms_conn_id": "rtisms_stored",
            "submission_ids": ["{{ params.first_id + ti.map_index }}"],
            "poke_interval": 10,
            "deadline": 4102444800,  # the year 2100
            "missing_until": 0,
            "fail_on": ["REJECTED"],
        },
    )

    def __init__(self, *, offset: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.submission_ids = [offset]


@dag(schedule=None, params={"first_id": 0})
def thousand_waits() -> None:
    WaitFromTheStart.partial(task_id="wait").expand(offset=list(range(WAITS)))


thousand_waits()
