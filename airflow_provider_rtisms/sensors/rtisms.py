"""Sensors for the RTI SMS API. Importing this module loads no HTTP library; running a task does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import PokeReturnValue

from airflow_provider_rtisms.sensors.balance import RtiSmsBalanceSensor
from airflow_provider_rtisms.sensors.base import DeferrableSensor
from airflow_provider_rtisms.sensors.delivery_polling import FAILURES, MAX_RECORDS_IN_DATABASE, DeliveryPolling

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from pydantic import JsonValue

    from airflow_provider_rtisms.waiting.delivery_wait import DeliveryWait, Record

#: The key of the task state store (Airflow 3.3) under which mode="reschedule" remembers what is final.
FINISHED_KEY = "rtisms_finished"
__all__ = ["RtiSmsBalanceSensor", "RtiSmsDeliverySensor"]


class RtiSmsDeliverySensor(DeferrableSensor):
    """
    Wait until every submission is final, and return their records.

    Submissions that are final are not polled again. Transient errors do not fail the wait before its ``timeout``. With
    ``deferrable=True`` the sensor polls once. If a submission is still open, it defers to
    :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger`.

    :param submission_ids: (templated) an id, a list of ids, a JSON list of ids, or the records that another operator of
        this package returned.
    :param rtisms_conn_id: (templated) the Connection.
    :param fail_on: final states that fail the wait; the error names the submissions. See
        :class:`~airflow_provider_rtisms.api.models.SmsStatus`.
    :param min_delivered: succeed when all are final and this many are delivered: a whole number, or a share such as
        ``0.95``. The wait fails as soon as that can no longer be reached. Then ``fail_on`` is not used, and an id that
        stays unknown counts as not delivered. None: every state of ``fail_on`` fails the wait.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id (404) is accepted,
        since the API may not know a new submission at once.
    :param deferrable: wait in the triggerer; default from ``[operators] default_deferrable``.
    :return: one record (dict) per distinct submission, in the given order; see
        :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`. A wait that fails pushes the records of final
        submissions to XCom ``records``, unless there are more than 1,000.
    :raises AirflowFailException: a submission reached a state of ``fail_on``, stayed unknown, or the API refused.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    """

    template_fields: Sequence[str] = ("submission_ids", "rtisms_conn_id")
    ui_color = "#d9ead3"

    def __init__(
        self,
        *,
        submission_ids: Any,
        fail_on: Sequence[str] = ("REJECTED", "UNDELIVERED", "EXPIRED"),
        min_delivered: float | None = None,
        missing_ok_for: timedelta | float = 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.submission_ids = submission_ids
        self.fail_on = fail_on
        self.min_delivered = min_delivered
        self.missing_ok_for = missing_ok_for
        self._polling: DeliveryPolling | None = None

    def execute(self, context: Context) -> Any:
        """Wait in this process, or poll once and defer."""
        self._polling = None
        with self._pushing_records_on_failure(context):
            return super().execute(context)

    def poke(self, context: Context) -> PokeReturnValue:
        """
        Poll every submission that is still open, once.

        :return: whether all are final, with the records if they are.
        """
        polling = self._begin(context)
        is_done = polling.poll()
        self._remember(context, polling.wait)
        return PokeReturnValue(is_done, polling.wait.records if is_done else None)

    def execute_complete(self, context: Context, event: Any) -> list[Record]:
        """
        End the wait as the event of the trigger says.

        :param event: of :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger`.
        """
        with self._pushing_records_on_failure(context):
            return self._begin(context).complete(event)

    def deferral(self, context: Context) -> dict[str, Any]:
        """Return the arguments of ``defer`` that hand the wait over to the trigger."""
        return self._begin(context).deferral(self.poke_interval, self.timeout, self.max_poke_interval)

    @contextmanager
    def _pushing_records_on_failure(self, context: Context) -> Iterator[None]:
        try:
            yield
        except FAILURES:
            if self._polling is not None:
                self._polling.push_records(context)
            raise

    def _begin(self, context: Context) -> DeliveryPolling:
        """Return what the pokes of this process share; the first one makes it."""
        if self._polling is None:
            self._polling = DeliveryPolling(
                self.rtisms_conn_id,
                self.submission_ids,
                self.fail_on,
                self.missing_ok_for,
                started=self._started(context),
                finished=self._recall(context),
                min_delivered=self.min_delivered,
            )
        return self._polling

    def _started(self, context: Context) -> float:
        """Return when the wait began (seconds since the epoch). In mode="reschedule" that was in another process."""
        first = None
        if self.reschedule and (ti := context.get("ti")) is not None:
            # Airflow 2 keeps the first start of a rescheduled task in start_date.
            first = ti.get_first_reschedule_date(context) if hasattr(ti, "get_first_reschedule_date") else ti.start_date
        return first.timestamp() if first else time.time()

    def _recall(self, context: Context) -> list[Record]:
        from airflow_provider_rtisms.waiting.delivery_wait import check_records

        if not self.reschedule:
            return []
        store = context.get("task_state_store")
        if store is None:
            self.log.info("Polling all submissions. mode='reschedule' remembers final ones on Airflow 3.3 and later")
            return []
        try:
            return check_records(store.get(FINISHED_KEY, []))
        except ValueError as error:
            self.log.warning("Polling all submissions, since the stored records cannot be read: %s", error)
            return []

    def _remember(self, context: Context, wait: DeliveryWait) -> None:
        store = context.get("task_state_store") if self.reschedule else None
        if store is not None and 0 < len(wait.records) <= MAX_RECORDS_IN_DATABASE:
            store.set(FINISHED_KEY, cast("JsonValue", wait.records))
