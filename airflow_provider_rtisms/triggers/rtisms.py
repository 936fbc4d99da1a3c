"""Triggers that wait on the RTI SMS API without holding a worker."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.errors import RtiSmsCredentialsError, RtiSmsPermanentError
from airflow_provider_rtisms.api.fetch import fetch
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.wait import DeliveryWait, Record
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

#: Seconds: no poll follows another sooner, whatever poke_interval says.
SHORTEST_INTERVAL = 0.1
#: Polls are spread by this part of the interval, so that waits that began together do not stay together.
SPREAD = 0.1


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
        self.with_records = with_records

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments to make the trigger again."""
        names = (
            "rtisms_conn_id",
            "submission_ids",
            "poke_interval",
            "deadline",
            "missing_until",
            "fail_on",
            "finished",
            "with_records",
        )
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait is over, and say how it ended."""
        wait = DeliveryWait(self.submission_ids, self.fail_on, self.finished)
        try:
            async with asyncio.timeout(self.deadline - time.time()) as limit:
                await self._wait(wait)
            payload: dict[str, Any] = {"outcome": "finished", "records": wait.records}
            if not self.with_records:
                payload.update(records=[], submission_ids=self.submission_ids)
        except RtiSmsPermanentError as error:
            payload = {"outcome": "failed", "message": str(error)}
        except TimeoutError:
            if not limit.expired():
                raise
            payload = {"outcome": "timeout", "message": wait.timeout_message()}
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def _wait(self, wait: DeliveryWait) -> None:
        hook = RtiSmsHook(self.rtisms_conn_id)
        refused: tuple[ApiSettings, RtiSmsCredentialsError] | None = None
        while True:
            async with hook.get_async_conn() as client:
                if refused is not None and refused[0] == client.settings:
                    raise refused[1]
                try:
                    return await self._poll_until_final(client, wait)
                except RtiSmsCredentialsError as error:
                    refused = client.settings, error
                    self.log.warning("%s Reading Connection %s again", error, self.rtisms_conn_id)

    async def _poll_until_final(self, client: AsyncRtiSmsClient, wait: DeliveryWait) -> None:
        while True:
            wait.trouble = None
            async with aclosing(fetch(client, wait.open_ids)) as outcomes:
                async for submission_id, outcome in outcomes:
                    wait.note(submission_id, outcome)
            if wait.settle(missing_ok=time.time() < self.missing_until):
                return
            self.log.info("%s", wait.progress())
            if wait.trouble is not None:
                self.log.warning("Asking again later: %s", wait.trouble)
            spread = random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311
            await asyncio.sleep(max(SHORTEST_INTERVAL, self.poke_interval * spread))
