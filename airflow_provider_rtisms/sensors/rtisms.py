"""Sensors for the RTI SMS API. Importing this module loads no HTTP library; that happens where the work happens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_rtisms.hooks.failures import permanent_is_final

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from pydantic import JsonValue

    from airflow_provider_rtisms.api.wait import DeliveryWait, Record
    from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

#: Waits over more submissions keep their records out of Airflow's database; they are fetched once more at the end.
MAX_RECORDS_IN_DATABASE = 1000
#: The key of the task state store (Airflow 3.3) under which mode="reschedule" remembers what is final.
FINISHED_KEY = "rtisms_finished"
#: What Airflow 2 says when a deferral has timed out; later versions raise a class of their own.
DEFERRAL_TIMEOUT = "Trigger/execution timeout"


@dataclass(frozen=True)
class _Wait:
    """What the pokes of one process share; ``started`` and ``missing_until`` are seconds since the epoch."""

    hook: RtiSmsHook
    state: DeliveryWait
    started: float
    missing_until: float


class RtiSmsDeliverySensor(BaseSensorOperator):
    """
    Wait until every submission is final, and return their records.

    Submissions that are final are not asked for again. Transient failures do not fail the wait, they are ridden out
    until ``timeout``. With ``deferrable=True`` it asks once, and only if something is open defers to
    :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger`.

    :param submission_ids: (templated) an id, a list of ids, such a list as JSON, or the records that another operator
        of this package returned.
    :param rtisms_conn_id: (templated) the Connection.
    :param fail_on: final states that fail the wait, naming the submissions; see
        :class:`~airflow_provider_rtisms.api.models.SmsStatus`.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id (404) is taken for one
        that was sent just now.
    :param deferrable: wait in the triggerer; default from ``[operators] default_deferrable``.
    :return: one record (dict) per distinct submission, in the given order; see
        :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`.
    :raises AirflowFailException: a submission ended in a state of ``fail_on``, stayed unknown, or the API refused.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    """

    template_fields: Sequence[str] = ("submission_ids", "rtisms_conn_id")
    ui_color = "#d9ead3"

    def __init__(
        self,
        *,
        submission_ids: Any,
        rtisms_conn_id: str = "rtisms_default",
        fail_on: Sequence[str] = ("REJECTED", "UNDELIVERED", "EXPIRED"),
        missing_ok_for: timedelta | float = 60,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.submission_ids = submission_ids
        self.rtisms_conn_id = rtisms_conn_id
        self.fail_on = fail_on
        self.missing_ok_for = missing_ok_for
        self.deferrable = deferrable
        self._polling: _Wait | None = None

    def execute(self, context: Context) -> Any:
        """Wait in this process, or ask once and defer."""
        self._polling = None
        if not self.deferrable:
            return super().execute(context)
        try:
            done = self.poke(context)
        except AirflowFailException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipping, since soft_fail or never_fail is set: {error}") from error
            raise
        if not done:
            self._defer(self._begin(context))
        return done.xcom_value

    def poke(self, context: Context) -> PokeReturnValue:
        """
        Ask once for every submission that is still open.

        :return: done, with the records, once all are final.
        """
        with permanent_is_final():
            wait = self._begin(context)
            state = wait.state
            state.trouble = None
            for submission_id, outcome in wait.hook.fetch_many(state.open_ids):
                state.note(submission_id, outcome)
            is_done = state.settle(missing_ok=time.time() < wait.missing_until)
        self._remember(context, state)
        self.log.info("%s", state.progress())
        if state.trouble is not None:
            self.log.warning("Asking again later: %s", state.trouble)
        return PokeReturnValue(is_done, state.records if is_done else None)

    def execute_complete(self, context: Context, event: Any) -> list[Record]:
        """
        End the wait as the trigger says.

        :param event: of :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger`.
        """
        match event:
            case {"outcome": "finished", "records": list(records)}:
                return self._complete(context, records)
            case {"outcome": "failed", "message": str(message)}:
                raise AirflowFailException(message)
            case {"outcome": "timeout", "message": str(message)}:
                raise AirflowSensorTimeout(message)
        raise AirflowException(
            f"The trigger ended with an event of an unknown form ({type(event).__name__}); do worker and triggerer "
            "have the same version of airflow-provider-rtisms?"
        )

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the deferral; on Airflow 2 a deferral that timed out ends as AirflowSensorTimeout too."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowException as error:
            if (next_kwargs or {}).get("error") == DEFERRAL_TIMEOUT and not isinstance(
                error, AirflowSensorTimeout | AirflowSkipException
            ):
                raise AirflowSensorTimeout(str(error)) from error
            raise

    def _begin(self, context: Context) -> _Wait:
        """Return what the pokes of this process share, made on the first one."""
        if self._polling is None:
            from airflow_provider_rtisms.api.ids import parse_submission_ids
            from airflow_provider_rtisms.api.wait import DeliveryWait, check_fail_on, check_seconds
            from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

            ids = parse_submission_ids(self.submission_ids)
            fail_on = check_fail_on(self.fail_on)
            grace = check_seconds("missing_ok_for", self.missing_ok_for)
            if not ids:
                self.log.warning("submission_ids is empty: there is nothing to wait for")
            started = self._started(context)
            self._polling = _Wait(
                hook=RtiSmsHook(self.rtisms_conn_id),
                state=DeliveryWait(ids, fail_on, self._recall(context)),
                started=started,
                missing_until=started + grace,
            )
        return self._polling

    def _defer(self, wait: _Wait) -> None:
        from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger

        state = wait.state
        is_small = len(state.submission_ids) <= MAX_RECORDS_IN_DATABASE
        self.defer(
            trigger=RtiSmsDeliveryTrigger(
                rtisms_conn_id=self.rtisms_conn_id,
                submission_ids=state.submission_ids if is_small else state.open_ids,
                poke_interval=self.poke_interval,
                # Before Airflow's own end of the deferral, so that the trigger can still say what was open.
                deadline=wait.started + self.timeout - min(5.0, self.timeout / 10),
                missing_until=wait.missing_until,
                fail_on=state.fail_on,
                finished=state.records if is_small else [],
                with_records=is_small,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def _complete(self, context: Context, records: list[Record]) -> list[Record]:
        """Return the records that the trigger brought, fetching those of a wait too large to bring them."""
        state = self._begin(context).state
        state.restore(records)
        if not self.poke(context):
            raise state.trouble or AirflowException(f"Submissions changed after their end: {state.progress()}")
        return state.records

    def _started(self, context: Context) -> float:
        """Return when the wait began (seconds since the epoch): in mode="reschedule" that was in another process."""
        first = None
        if self.reschedule and (ti := context.get("ti")) is not None:
            # Airflow 2 keeps the first start of a rescheduled task in start_date.
            first = ti.get_first_reschedule_date(context) if hasattr(ti, "get_first_reschedule_date") else ti.start_date
        return first.timestamp() if first else time.time()

    def _recall(self, context: Context) -> list[Record]:
        if not self.reschedule:
            return []
        store = context.get("task_state_store")
        if store is None:
            self.log.info("mode='reschedule' remembers what is final from Airflow 3.3 on; asking for all")
            return []
        return cast("list[Record]", store.get(FINISHED_KEY, default=[]))

    def _remember(self, context: Context, wait: DeliveryWait) -> None:
        store = context.get("task_state_store") if self.reschedule else None
        if store is not None and 0 < len(wait.records) <= MAX_RECORDS_IN_DATABASE:
            store.set(FINISHED_KEY, cast("JsonValue", wait.records))
