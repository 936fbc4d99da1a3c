"""Triggers that wait on the RTI SMS API without holding a worker."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.transport.fetch import fetch
from airflow_provider_rtisms.triggers.balance import RtiSmsBalanceFallTrigger, RtiSmsBalanceTrigger
from airflow_provider_rtisms.triggers.polling import poll, run_until_deadline, serialize_args
from airflow_provider_rtisms.waiting.delivery_wait import DeliveryWait, Record

__all__ = ["RtiSmsBalanceFallTrigger", "RtiSmsBalanceTrigger", "RtiSmsDeliveryTrigger"]


class RtiSmsDeliveryTrigger(BaseTrigger):
    """
    Wait until submissions are final: many ids, one trigger, one token and one pool of sockets for all of its kind.

    Only submissions that are still open are asked for. Transient failures are ridden out until the deadline. Exactly
    one event ends it: ``{"outcome": "finished", "records": [...]}``, ``{"outcome": "failed", "message": ...}`` or
    ``{"outcome": "timeout", "message": ...}``. Neither arguments nor event hold a secret, a number or a text.

    :param rtisms_conn_id: the Connection; read anew when its credentials are refused.
    :param submission_ids: checked ids.
    :param poke_interval: seconds between two polls.
    :param deadline: wall-clock time (seconds since the epoch) at which to give up.
    :param missing_until: wall-clock time until which an unknown id may still turn up.
    :param fail_on: final states that fail the wait.
    :param finished: records of submissions that are final already.
    :param max_poke_interval: seconds up to which the pauses between polls grow; None if they do not.
    :param deferred_at: wall-clock time at which the task has asked and then deferred; within some seconds of it a
        triggerer ends no wait, see :mod:`~airflow_provider_rtisms.triggers.polling`.
    :param with_records: whether the event brings the records; large waits keep them out of Airflow's database.
    """

    def __init__(
        self,
        *,
        rtisms_conn_id: str,
        submission_ids: Sequence[str],
        poke_interval: float,
        deadline: float,
        missing_until: float,
        fail_on: Iterable[str],
        finished: Sequence[Record] = (),
        max_poke_interval: float | None = None,
        deferred_at: float = 0.0,
        with_records: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rtisms_conn_id = rtisms_conn_id
        self.submission_ids = list(submission_ids)
        self.poke_interval = poke_interval
        self.deadline = deadline
        self.missing_until = missing_until
        self.fail_on = sorted(fail_on)
        self.finished = list(finished)
        self.max_poke_interval = max_poke_interval
        self.deferred_at = deferred_at
        self.with_records = with_records

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments to make the trigger again."""
        return serialize_args(
            self,
            "rtisms_conn_id",
            "submission_ids",
            "poke_interval",
            "deadline",
            "missing_until",
            "fail_on",
            "finished",
            "max_poke_interval",
            "deferred_at",
            "with_records",
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait is over, and say how it ended."""
        wait = DeliveryWait(self.submission_ids, self.fail_on, self.finished)
        yield await run_until_deadline(self, self._wait(wait), wait.timeout_message)

    async def _wait(self, wait: DeliveryWait) -> dict[str, Any]:
        await poll(self, partial(self._ask, wait))
        if self.with_records:
            return {"records": wait.records}
        return {"records": [], "submission_ids": self.submission_ids}

    async def _ask(self, wait: DeliveryWait, client: AsyncRtiSmsClient) -> bool:
        earlier = wait.trouble
        async with aclosing(fetch(client, wait.open_ids)) as outcomes:
            async for submission_id, outcome in outcomes:
                wait.note(submission_id, outcome)
        is_done = wait.settle(missing_ok=time.time() < self.missing_until)
        if not is_done:
            self.log.info("%s", wait.progress())
        if wait.trouble is not earlier:
            self.log.warning("Asking again later: %s", wait.trouble)
        return is_done
