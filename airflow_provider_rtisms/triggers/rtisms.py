"""Triggers that wait on the RTI SMS API without holding a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import parse_submission_ids
from airflow_provider_rtisms.triggers.balance import RtiSmsBalanceFallTrigger, RtiSmsBalanceTrigger
from airflow_provider_rtisms.triggers.polling import (
    check_conn_id,
    check_duration,
    check_flag,
    check_longest_pause,
    checking_arguments,
    poll_until_done,
    refuse_arguments,
    run_until_deadline,
    serialize_args,
)
from airflow_provider_rtisms.waiting import DeliveryWait, Quota, Record, check_fail_on, poll_deliveries

__all__ = ["RtiSmsBalanceFallTrigger", "RtiSmsBalanceTrigger", "RtiSmsDeliveryTrigger"]


class RtiSmsDeliveryTrigger(BaseTrigger):
    """
    Wait until submissions are final. One trigger waits for many ids, and all triggers of a Connection share one token
    and one pool of sockets.

    The trigger polls the submissions that are still open. Transient errors do not end the wait before its deadline. It
    yields exactly one event, ``{"version": 1, "outcome": "finished", "records": [...]}``, or an outcome ``failed`` or
    ``timeout`` with a ``message``. Neither the arguments nor the event hold a secret, a number or a text.

    :param rtisms_conn_id: the Connection; read again when its credentials are refused.
    :param submission_ids: ids, as the sensor takes them.
    :param poke_interval: seconds or timedelta between two polls.
    :param deadline: wall-clock time (seconds since the epoch) at which to give up.
    :param missing_until: wall-clock time until which an unknown id is accepted.
    :param fail_on: final states that fail the wait.
    :param finished: records of submissions that are final already.
    :param max_poke_interval: seconds or timedelta up to which the pauses between polls grow; None if they do not.
    :param deferred_at: wall-clock time at which the task polled and then deferred. The trigger yields no event within
        10 seconds of it, see :data:`~airflow_provider_rtisms.triggers.polling.DEFERRAL_GRACE`.
    :param with_records: whether the event holds the records; large waits keep them out of Airflow's database.
    :param with_ids: whether the event of a finished wait holds the ids if it holds no records.
    :param quota: how many messages have to be delivered, see :class:`~airflow_provider_rtisms.waiting.Quota`;
        None if ``fail_on`` decides.
    :param is_execution_timeout: whether the ``execution_timeout`` of the task ends at the deadline, and not the
        ``timeout`` of the wait.
    :param unknown: arguments of another version of this package; the trigger fails and names them.
    :raises TriggerArgumentError: an argument is malformed.
    """

    def __init__(
        self,
        *,
        rtisms_conn_id: str,
        submission_ids: Any,
        poke_interval: timedelta | float,
        deadline: float,
        missing_until: float,
        fail_on: Iterable[str],
        finished: Sequence[Record] = (),
        max_poke_interval: timedelta | float | None = None,
        deferred_at: float = 0.0,
        with_records: bool = True,
        with_ids: bool = True,
        quota: Mapping[str, int] | None = None,
        is_execution_timeout: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        with checking_arguments():
            self.rtisms_conn_id = check_conn_id(rtisms_conn_id)
            self.submission_ids = parse_submission_ids(submission_ids)
            self.poke_interval = check_duration("poke_interval", poke_interval)
            self.deadline = check_duration("deadline", deadline)
            self.missing_until = check_duration("missing_until", missing_until)
            self.fail_on = sorted(check_fail_on(fail_on))
            self.finished = _check_finished(finished)
            self.max_poke_interval = check_longest_pause(max_poke_interval)
            self.deferred_at = check_duration("deferred_at", deferred_at)
            self.with_records = check_flag("with_records", with_records)
            self.with_ids = check_flag("with_ids", with_ids)
            self.quota = _check_quota(quota)
            self.is_execution_timeout = check_flag("is_execution_timeout", is_execution_timeout)
        self._unknown = unknown

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that recreate the trigger."""
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
            "with_ids",
            "quota",
            *(["is_execution_timeout"] if self.is_execution_timeout else []),  # a triggerer of 0.1 does not know it
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait is over, and yield how it ended."""
        if self._unknown:
            yield await refuse_arguments(self, self._unknown)
            return
        quota = None if self.quota is None else Quota(**self.quota)
        wait = DeliveryWait(self.submission_ids, self.fail_on, self.finished, quota)
        yield await run_until_deadline(self, self._wait(wait), wait.timeout_message, lambda: self._records(wait))

    async def _wait(self, wait: DeliveryWait) -> dict[str, Any]:
        await poll_until_done(self, lambda client: poll_deliveries(client, wait, self.missing_until))
        ids = {"submission_ids": self.submission_ids} if self.with_ids and not self.with_records else {}
        return {"records": [], **self._records(wait), **ids}

    def _records(self, wait: DeliveryWait) -> dict[str, Any]:
        return {"records": wait.records} if self.with_records else {}


def _check_finished(value: Any) -> list[Record]:
    if isinstance(value, list | tuple) and all(
        isinstance(record, dict) and isinstance(record.get("submission_id"), str) for record in value
    ):
        return list(value)
    raise RtiSmsInputError(f"finished is {shape(value)}: use a list of records of submissions.")


def _check_quota(value: Any) -> Mapping[str, int] | None:
    if value is None:
        return None
    try:
        numbers = Quota(**value).to_json()
        if all(isinstance(one, int) and not isinstance(one, bool) for one in numbers.values()):
            return numbers
    except TypeError:
        pass
    raise RtiSmsInputError(f"quota is {shape(value)}: use the numbers of a Quota: needed, total and delivered.")
