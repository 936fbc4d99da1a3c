"""Triggers that wait on the RTI SMS API without holding a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import parse_submission_ids
from airflow_provider_rtisms.triggers.balance import RtiSmsBalanceFallTrigger, RtiSmsBalanceTrigger
from airflow_provider_rtisms.triggers.polling import WaitTrigger, check_duration, check_flag, checking_arguments
from airflow_provider_rtisms.waiting import DeliveryWait, Quota, Record, check_fail_on, poll_deliveries

__all__ = ["RtiSmsBalanceFallTrigger", "RtiSmsBalanceTrigger", "RtiSmsDeliveryTrigger"]


class RtiSmsDeliveryTrigger(WaitTrigger):
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
    :param common: those of ``rtisms_conn_id``, ``poke_interval`` and the like. If there are others, another version of
        this package has given them: the trigger fails and names them.
    :raises TriggerArgumentError: an argument is malformed.
    """

    stored = (
        *("rtisms_conn_id", "submission_ids", "poke_interval", "deadline", "missing_until", "fail_on", "finished"),
        *("max_poke_interval", "deferred_at", "with_records", "with_ids", "quota"),
    )

    def __init__(
        self,
        *,
        submission_ids: Any,
        missing_until: float,
        fail_on: Iterable[str],
        finished: Sequence[Record] = (),
        with_records: bool = True,
        with_ids: bool = True,
        quota: Mapping[str, int] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        with checking_arguments():
            self.submission_ids = parse_submission_ids(submission_ids)
            self.missing_until = check_duration("missing_until", missing_until)
            self.fail_on = sorted(check_fail_on(fail_on))
            self.finished = _check_finished(finished)
            self.with_records = check_flag("with_records", with_records)
            self.with_ids = check_flag("with_ids", with_ids)
            checked = _check_quota(quota)
        self.quota = None if checked is None else checked.to_json()
        self._wait = DeliveryWait(self.submission_ids, self.fail_on, self.finished, checked)

    async def poll(self, client: AsyncRtiSmsClient) -> bool:
        """Poll every submission that is still open, once."""
        return await poll_deliveries(client, self._wait, self.missing_until)

    def found(self, *, is_done: bool) -> dict[str, Any]:
        """Return the records, or the ids of a large wait that has finished."""
        if self.with_records:
            return {"records": self._wait.records}
        return {"records": [], **({"submission_ids": self.submission_ids} if self.with_ids else {})} if is_done else {}

    def timeout_message(self) -> str:
        """Return what is open, and the last error."""
        return self._wait.timeout_message()


def _check_finished(value: Any) -> list[Record]:
    if isinstance(value, list | tuple) and all(
        isinstance(record, dict) and isinstance(record.get("submission_id"), str) for record in value
    ):
        return list(value)
    raise RtiSmsInputError(f"finished is {shape(value)}: use a list of records of submissions.")


def _check_quota(value: Any) -> Quota | None:
    if value is None:
        return None
    try:
        quota = Quota(**value)
        if all(isinstance(one, int) and not isinstance(one, bool) for one in quota.to_json().values()):
            return quota
    except TypeError:
        pass
    raise RtiSmsInputError(f"quota is {shape(value)}: use the numbers of a Quota: needed, total and delivered.")
