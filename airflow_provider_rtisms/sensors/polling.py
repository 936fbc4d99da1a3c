"""The worker's side of a wait for delivery: polls, hands the wait over to the trigger, takes its event back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowSensorTimeout

from airflow_provider_rtisms.api.errors import RtiSmsAuthenticationError
from airflow_provider_rtisms.hooks.failures import fail_without_retry
from airflow_provider_rtisms.sensors.base import trigger_deadline

if TYPE_CHECKING:
    from airflow_provider_rtisms.waiting.delivery_wait import Record

log = logging.getLogger(__name__)

#: Waits over more submissions keep their records out of Airflow's database; they are fetched once more at the end.
MAX_RECORDS_IN_DATABASE = 1000


class DeliveryPolling:
    """
    A wait for delivery in one process of a worker.

    :param rtisms_conn_id: the Connection.
    :param submission_ids: as people and templates give them.
    :param fail_on: final states that fail the wait.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id may still turn up.
    :param started: when the wait began, in seconds since the epoch; default now.
    :param finished: records of submissions that are known to be final already.
    :raises AirflowFailException: an argument is malformed.
    """

    def __init__(
        self,
        rtisms_conn_id: str,
        submission_ids: Any,
        fail_on: Sequence[str],
        missing_ok_for: timedelta | float,
        *,
        started: float | None = None,
        finished: Iterable[Record] = (),
    ) -> None:
        from airflow_provider_rtisms.api.values.ids import parse_submission_ids
        from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
        from airflow_provider_rtisms.waiting.delivery_wait import DeliveryWait, check_fail_on, check_seconds

        with fail_without_retry():
            ids = parse_submission_ids(submission_ids)
            self.wait = DeliveryWait(ids, check_fail_on(fail_on), finished)
            grace = check_seconds("missing_ok_for", missing_ok_for)
        if not ids:
            log.warning("submission_ids is empty: there is nothing to wait for")
        self._hook = RtiSmsHook(rtisms_conn_id)
        self._started = time.time() if started is None else started
        self._missing_until = self._started + grace

    def poll(self) -> bool:
        """
        Ask once for every submission that is still open.

        :return: whether all are final.
        :raises AirflowFailException: a submission ended in a state of ``fail_on``, stayed unknown, or the API refused.
        """
        wait = self.wait
        earlier = wait.trouble
        with fail_without_retry():
            try:
                for submission_id, outcome in self._hook.fetch_many(wait.open_ids):
                    wait.note(submission_id, outcome)
            except RtiSmsAuthenticationError as error:
                if not self._hook.reconnect():
                    raise
                wait.trouble = error  # the secret was rotated: the next poll uses the new one
            is_done = wait.settle(missing_ok=time.time() < self._missing_until)
        log.info("%s", wait.progress())
        if wait.trouble is not earlier:
            log.warning("Asking again later: %s", wait.trouble)
        return is_done

    def poll_until_final(self, poke_interval: float, timeout: float) -> list[Record]:
        """
        Poll in this process until all are final.

        :param poke_interval: seconds between two polls.
        :param timeout: seconds from the start of the wait.
        :return: their records, in their order.
        :raises AirflowSensorTimeout: ``timeout`` passed.
        """
        while not self.poll():
            if time.time() + poke_interval > self._started + timeout:
                raise AirflowSensorTimeout(self.wait.timeout_message())
            time.sleep(poke_interval)
        return self.wait.records

    def deferral(self, poke_interval: float, timeout: float, max_poke_interval: float | None = None) -> dict[str, Any]:
        """
        Return the arguments of ``defer`` that hand the wait over to the trigger; it resumes at ``execute_complete``.

        :param poke_interval: seconds between two polls.
        :param timeout: seconds from the start of the wait.
        :param max_poke_interval: seconds up to which the pauses between polls grow; None if they do not.
        """
        from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger

        wait = self.wait
        is_small = len(wait.submission_ids) <= MAX_RECORDS_IN_DATABASE
        trigger = RtiSmsDeliveryTrigger(
            rtisms_conn_id=self._hook.rtisms_conn_id,
            submission_ids=wait.submission_ids if is_small else wait.open_ids,
            poke_interval=poke_interval,
            deadline=trigger_deadline(self._started, timeout),
            missing_until=self._missing_until,
            fail_on=wait.fail_on,
            finished=wait.records if is_small else [],
            max_poke_interval=max_poke_interval,
            deferred_at=time.time(),
            with_records=is_small,
        )
        return {"trigger": trigger, "method_name": "execute_complete", "timeout": timedelta(seconds=timeout)}

    def complete(self, records: Iterable[Record]) -> list[Record]:
        """
        Return the records of all submissions, fetching those of a wait too large for its trigger to bring them.

        :param records: what the trigger brought.
        """
        self.wait.restore(records)
        if not self.poll():
            raise self.wait.trouble or AirflowException(f"Submissions changed after their end: {self.wait.progress()}")
        return self.wait.records
