"""The wait for delivery after a send, in this process or in the triggerer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.sensors.base import raise_for_outcome, read_wait_event
from airflow_provider_rtisms.sensors.delivery_polling import DeliveryPolling, pushing_records_on_failure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.sending.outbox import Outbox
    from airflow_provider_rtisms.waiting.delivery_wait import Record
    from airflow_provider_rtisms.waiting.quota import Quota

log = logging.getLogger(__name__)


class SendWait:
    """
    The wait for delivery of messages that a task sends.

    :param rtisms_conn_id: the Connection.
    :param fail_on: final states that fail the wait.
    :param min_delivered: how many messages have to be delivered: a number, or a share of all messages; None if
        ``fail_on`` decides.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id is accepted.
    :param poke_interval: seconds or timedelta between two polls.
    :param timeout: seconds or timedelta that the wait may last.
    :raises RtiSmsInputError: an argument is malformed.
    """

    def __init__(
        self,
        rtisms_conn_id: str,
        *,
        fail_on: Sequence[str],
        min_delivered: float | None,
        missing_ok_for: timedelta | float,
        poke_interval: timedelta | float,
        timeout: timedelta | float,
    ) -> None:
        from airflow_provider_rtisms.api.values.durations import check_seconds
        from airflow_provider_rtisms.waiting.delivery_wait import check_fail_on
        from airflow_provider_rtisms.waiting.quota import check_min_delivered

        self._rtisms_conn_id = rtisms_conn_id
        self._fail_on = check_fail_on(fail_on)
        self._min_delivered = check_min_delivered(min_delivered)
        self._missing_ok_for = check_seconds("missing_ok_for", missing_ok_for)
        self._poke_interval = check_seconds("poke_interval", poke_interval)
        self._timeout = check_seconds("timeout", timeout)

    def check_messages(self, count: int) -> None:
        """
        Check before a send that there are enough messages.

        :param count: how many messages there are.
        :raises RtiSmsInputError: ``min_delivered`` asks for more.
        """
        from airflow_provider_rtisms.waiting.quota import make_quota

        make_quota(self._min_delivered, count)

    def start(
        self, context: Context, outbox: Outbox, *, deferrable: bool, execution_end: float | None
    ) -> list[Record] | dict[str, Any]:
        """
        Wait in this process, or return the arguments of ``defer``.

        A message without a submission id counts as not delivered: its outcome is uncertain.

        :param context: of the task.
        :param outbox: has sent the messages.
        :param deferrable: whether the triggerer waits.
        :param execution_end: when the ``execution_timeout`` of the task is over, in seconds since the epoch; None if it
            has none.
        :return: the records of all submissions (a list), or the arguments of ``defer`` (a dict).
        """
        from airflow_provider_rtisms.hooks.failures import fail_without_retry
        from airflow_provider_rtisms.waiting.quota import make_quota

        ids = [submission.submission_id for submission in outbox.submissions if submission.submission_id]
        if left_out := len(outbox.messages) - len(ids):
            log.info("The wait leaves out %d messages that have no submission id", left_out)
        polling = self._polling(ids, make_quota(self._min_delivered, len(outbox.messages)))
        with pushing_records_on_failure(context, lambda: polling), fail_without_retry():
            if not deferrable or polling.wait.is_over(missing_ok=True):
                return polling.poll_until_final(self._poke_interval, self._timeout)
        return polling.deferral(self._poke_interval, self._timeout, execution_end=execution_end, ids_in_event=True)

    def complete(self, context: Context, event: Any) -> list[Record]:
        """
        Return the records of all submissions after the deferral.

        :param context: of the task.
        :param event: the payload of the trigger.
        """
        from airflow_provider_rtisms.waiting.quota import Quota

        parsed = read_wait_event(event, "records")
        found = parsed.found
        ids = found.get("submission_ids") or [record["submission_id"] for record in found.get("records", ())]
        if "records" not in found:  # a large wait that has failed, so there are no records to push
            raise_for_outcome(parsed)
        # The trigger has counted already, and the total is not known here.
        polling = self._polling(ids, None if self._min_delivered is None else Quota(needed=0, total=len(ids)))
        with pushing_records_on_failure(context, lambda: polling):
            return polling.complete(event)

    def _polling(self, submission_ids: Sequence[str], quota: Quota | None) -> DeliveryPolling:
        return DeliveryPolling(
            self._rtisms_conn_id, submission_ids, self._fail_on, self._missing_ok_for, min_delivered=quota
        )
