"""Sensors for the RTI SMS API. Importing this module loads no HTTP library; running a task does."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.exceptions import AirflowProviderDeprecationWarning
from airflow.providers.common.compat.sdk import PokeReturnValue

from airflow_provider_rtisms.hooks.templates import in_fixed_order
from airflow_provider_rtisms.sensors.balance import RtiSmsBalanceSensor
from airflow_provider_rtisms.sensors.base import DeferrableSensor, execution_end, task_start
from airflow_provider_rtisms.sensors.delivery_polling import (
    DeliveryPolling,
    pushing_records_on_failure,
)
from airflow_provider_rtisms.waiting.limits import MAX_RECORDS_IN_DATABASE

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
        ``0.95`` of all entries of ``submission_ids``. The wait fails as soon as that can no longer be reached. Then
        ``fail_on`` is not used. An id that stays unknown, and a record without an id, count as not delivered. None:
        every state of ``fail_on`` fails the wait.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id (404) is accepted,
        since the API may not know a new submission at once.
    :param deferrable: wait in the triggerer; default from ``[operators] default_deferrable``.
    :param start_from_trigger: not used any more, since one sensor waits for many ids: a worker polls once, and with
        ``deferrable=True`` hands the wait to the triggerer.
    :return: one record (dict) per distinct submission, in the given order; see
        :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`. A wait that fails pushes the records of final
        submissions to XCom ``records``, unless it is for more than 1,000.
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
        start_from_trigger: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.submission_ids = submission_ids
        self.fail_on = in_fixed_order(fail_on)
        self.min_delivered = min_delivered
        self.missing_ok_for = missing_ok_for
        self._polling: DeliveryPolling | None = None
        if start_from_trigger:
            _warn_of_start_from_trigger()

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Return the sensor with some arguments, to be mapped over others."""
        if kwargs.pop("start_from_trigger", False):  # or Airflow would look for a trigger to start from
            _warn_of_start_from_trigger()
        return super().partial(**kwargs)

    def execute(self, context: Context) -> Any:
        """Wait in this process, or poll once and defer."""
        self._polling = None
        with pushing_records_on_failure(context, lambda: self._polling):
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
        from airflow_provider_rtisms.waiting.events import BEGIN_AGAIN

        if event == BEGIN_AGAIN:
            return cast("list[Record]", self.execute(context))
        with pushing_records_on_failure(context, lambda: self._polling):
            return self._begin(context).complete(event)

    def deferral(self, context: Context) -> dict[str, Any]:
        """Return the arguments of ``defer`` that hand the wait over to the trigger."""
        return self._begin(context).deferral(
            self.poke_interval, self.timeout, self.max_poke_interval, execution_end=execution_end(self, context)
        )

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
                memory=self._memory(context),
            )
        return self._polling

    def _started(self, context: Context) -> float:
        """Return when the wait began (seconds since the epoch). That may have been in another process."""
        if self.deferrable:
            return task_start(context)
        first = None
        if self.reschedule and (ti := context.get("ti")) is not None:
            # Airflow 2 keeps the first start of a rescheduled task in start_date.
            first = ti.get_first_reschedule_date(context) if hasattr(ti, "get_first_reschedule_date") else ti.start_date
        return first.timestamp() if first else time.time()

    def _memory(self, context: Context) -> int | None:
        if not self.reschedule:
            return None
        return 0 if context.get("task_state_store") is None else MAX_RECORDS_IN_DATABASE

    def _recall(self, context: Context) -> list[Record]:
        from airflow_provider_rtisms.waiting.delivery_wait import check_records

        if not self.reschedule:
            return []
        store = context.get("task_state_store")
        if store is None:
            self.log.info(
                "Polling all submissions. mode='reschedule' remembers final ones in task runs of Airflow 3.3 and later"
            )
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


def _warn_of_start_from_trigger() -> None:
    warnings.warn(
        "start_from_trigger is not used any more: remove it. With deferrable=True, a worker polls once and hands the "
        "wait to the triggerer. Give one sensor all ids instead of mapping it over them.",
        AirflowProviderDeprecationWarning,
        stacklevel=3,
    )
