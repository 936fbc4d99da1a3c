"""The worker's side of a wait for delivery: poll, defer to the trigger, and read its event."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from airflow_provider_rtisms.hooks.failures import fail_without_retry
from airflow_provider_rtisms.sensors.base import limit_deferral, raise_for_outcome, read_wait_event
from airflow_provider_rtisms.waiting.limits import MAX_RECORDS_IN_DATABASE, MAX_RECORDS_IN_TRIGGER

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.waiting.delivery_wait import Record
    from airflow_provider_rtisms.waiting.quota import Quota

log = logging.getLogger(__name__)

#: What ends a wait that has failed; AirflowSkipException where ``soft_fail`` is set.
FAILURES = (AirflowFailException, AirflowSensorTimeout, AirflowSkipException, AirflowTaskTimeout)
#: The XCom that holds the records of a wait that has failed.
RECORDS_KEY = "records"


class DeliveryPolling:
    """
    A wait for delivery in one process of a worker.

    :param rtisms_conn_id: the Connection.
    :param submission_ids: as people and templates give them.
    :param fail_on: final states that fail the wait.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id is accepted.
    :param started: when the wait began, in seconds since the epoch; default now.
    :param finished: records of submissions that are known to be final already.
    :param min_delivered: how many messages have to be delivered: a number, or a share of all entries of
        ``submission_ids``, with and without an id; or a quota that has been checked.
    :param memory: how many records the next process remembers; None if this process makes all polls. The deliveries of
        larger waits are not in the metrics, which would count them again with each poll.
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
        min_delivered: float | Quota | None = None,
        memory: int | None = None,
    ) -> None:
        from airflow_provider_rtisms.api.values.durations import check_seconds
        from airflow_provider_rtisms.api.values.ids import parse_submissions
        from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
        from airflow_provider_rtisms.waiting.delivery_wait import DeliveryWait, check_fail_on
        from airflow_provider_rtisms.waiting.quota import Quota, make_quota

        with fail_without_retry():
            ids, without_id = parse_submissions(submission_ids)
            if not isinstance(min_delivered, Quota):
                min_delivered = make_quota(min_delivered, len(ids) + without_id)
            self.wait = DeliveryWait(ids, check_fail_on(fail_on), finished, min_delivered)
            missing_seconds = check_seconds("missing_ok_for", missing_ok_for)
        if not ids:
            log.warning("submission_ids is empty, so there is nothing to wait for")
        self._hook = RtiSmsHook(rtisms_conn_id)
        self._started = time.time() if started is None else started
        self._missing_until = self._started + missing_seconds
        self._is_first_time = memory is None or len(ids) <= memory

    def poll(self) -> bool:
        """
        Poll every submission that is still open, once.

        :return: whether all are final.
        :raises AirflowFailException: a submission reached a state of ``fail_on``, stayed unknown, or the API refused.
        """
        from airflow_provider_rtisms.waiting.polling import poll_deliveries

        with fail_without_retry():
            if self.wait.is_over(missing_ok=True):
                return True
            return self._hook.run_async(
                lambda client: poll_deliveries(
                    client, self.wait, self._missing_until, is_first_time=self._is_first_time
                )
            )

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

    def deferral(
        self,
        poke_interval: float,
        timeout: float,
        max_poke_interval: float | None = None,
        *,
        execution_end: float | None = None,
        ids_in_event: bool = False,
    ) -> dict[str, Any]:
        """
        Return the arguments of ``defer`` that hand the wait over to the trigger. It resumes at ``execute_complete``.

        :param poke_interval: seconds between two polls.
        :param timeout: seconds from the start of the wait.
        :param max_poke_interval: seconds up to which the pauses between polls grow; None if they do not.
        :param execution_end: when the ``execution_timeout`` of the task is over, in seconds since the epoch; None if it
            has none.
        :param ids_in_event: whether the event of a large wait holds the ids, for a task that has them nowhere else.
        """
        from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger

        limit = limit_deferral(self._started, timeout, execution_end)
        wait = self.wait
        with_records = self._is_small and len(wait.records) <= MAX_RECORDS_IN_TRIGGER
        quota = wait.quota if with_records else wait.quota_of_open
        trigger = RtiSmsDeliveryTrigger(
            rtisms_conn_id=self._hook.rtisms_conn_id,
            submission_ids=wait.submission_ids if with_records else wait.open_ids,
            poke_interval=poke_interval,
            deadline=limit.deadline,
            missing_until=self._missing_until,
            fail_on=wait.fail_on,
            finished=wait.records if with_records else [],
            max_poke_interval=max_poke_interval,
            deferred_at=time.time(),
            with_records=with_records,
            with_ids=ids_in_event,
            quota=None if quota is None else quota.to_json(),
            is_execution_timeout=limit.is_execution_timeout,
        )
        return {"trigger": trigger, "method_name": "execute_complete", "timeout": timedelta(seconds=limit.seconds)}

    def push_records(self, context: Context) -> None:
        """Push the records of final submissions to XCom ``records``, unless the wait is large."""
        ti, task = context.get("ti"), context.get("task")
        if ti is None or not getattr(task, "do_xcom_push", True):
            return
        if self._is_small:
            ti.xcom_push(key=RECORDS_KEY, value=self.wait.records)
        else:
            log.warning(
                "The records are not in XCom, since the wait is for more than %d submissions", MAX_RECORDS_IN_DATABASE
            )

    @property
    def _is_small(self) -> bool:
        return len(self.wait.submission_ids) <= MAX_RECORDS_IN_DATABASE

    def complete(self, event: Any) -> list[Record]:
        """
        Return the records of all submissions. Fetch those that a large wait has kept out of its event.

        :param event: the payload of the trigger.
        """
        parsed = read_wait_event(event, "records")
        self._is_first_time = False  # the trigger has reported these deliveries to the metrics
        self.wait.restore(parsed.found.get("records", ()))
        if parsed.outcome != "finished" and "records" not in parsed.found and self._is_small:
            with suppress(Exception):  # the records are only for XCom, and the wait has failed in any case
                self.poll()
        raise_for_outcome(parsed)
        if self.wait.quota is not None:
            self._missing_until = 0.0  # the trigger has counted unknown ids as not delivered
        if not self.poll():
            raise self.wait.last_error or AirflowException(
                f"A submission that was final is open again: {self.wait.progress()}"
            )
        return self.wait.records


@contextmanager
def pushing_records_on_failure(context: Context, get_polling: Callable[[], DeliveryPolling | None]) -> Iterator[None]:
    """
    Push the records of a wait that fails to XCom, so that a downstream task can act on them.

    :param context: of the task.
    :param get_polling: returns the wait; None if it failed before it began.
    """
    try:
        yield
    except FAILURES:
        polling = get_polling()
        if polling is not None:
            polling.push_records(context)
        raise
