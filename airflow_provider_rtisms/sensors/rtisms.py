"""
The sensors, and the worker's side of a wait: poll, defer to the trigger, and read its event.

Importing this module loads no HTTP library; running a task does.
"""

from __future__ import annotations

import logging
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.exceptions import AirflowProviderDeprecationWarning

from airflow_provider_rtisms.api.values.arguments import check_seconds
from airflow_provider_rtisms.compat import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook, fail_without_retry
from airflow_provider_rtisms.hooks.templates import TemplateFields, in_fixed_order

if TYPE_CHECKING:
    from pydantic import JsonValue

    from airflow_provider_rtisms.compat import Context
    from airflow_provider_rtisms.waiting import DeliveryWait, Quota, Record, WaitEvent, WaitLimit

__all__ = ["RtiSmsBalanceSensor", "RtiSmsDeliverySensor"]

log = logging.getLogger(__name__)

#: What Airflow 2 and Airflow 3 say where they resume a task because its deferral has timed out.
DEFERRAL_TIMEOUTS = ("Trigger/execution timeout", "Trigger timeout")
#: What a sensor with ``soft_fail`` skips: the wait has failed or timed out. A crash is neither.
SKIPPED_SOFTLY = (AirflowFailException, AirflowSensorTimeout)
#: The key of the task state store (Airflow 3.3) under which mode="reschedule" remembers what is final.
FINISHED_KEY = "rtisms_finished"
#: The XCom that holds the records of a wait that has failed.
RECORDS_KEY = "records"
#: What ends a wait that has failed; AirflowSkipException where ``soft_fail`` is set.
FAILURES = (AirflowFailException, AirflowSensorTimeout, AirflowSkipException, AirflowTaskTimeout)


class DeferrableSensor(TemplateFields, BaseSensorOperator):
    """A sensor that pokes in this process, or pokes once and defers."""

    def __init__(
        self,
        *,
        rtisms_conn_id: str = "rtisms_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rtisms_conn_id = rtisms_conn_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Wait in this process, or poll once and defer."""
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSkipException as skip:
                if isinstance(skip.__cause__, AirflowTaskTimeout):  # Airflow skips it or not, as the second falls
                    raise skip.__cause__ from None
                raise
            except AirflowFailException as error:
                raise error.with_traceback(None) from None  # the frames of Airflow's own sensor tell nothing
        try:
            done = self.poke(context)
        except AirflowFailException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipping, since soft_fail or never_fail is set: {error}") from None
            raise
        if not done:
            with fail_without_retry():  # an argument that only the trigger uses may be malformed
                self.defer(**self.deferral(context))
        return done.xcom_value

    @abstractmethod
    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once."""

    @abstractmethod
    def deferral(self, context: Context) -> dict[str, Any]:
        """Return the arguments of ``defer``, after a poke has found that the wait is not over."""

    @property
    def max_poke_interval(self) -> float | None:
        """Seconds of the longest pause of a deferred wait (``exponential_backoff``, ``max_wait``), or None."""
        if not self.exponential_backoff:
            return None
        return self.max_wait.total_seconds() if self.max_wait else self.timeout

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Resume after the deferral. The same happens on every Airflow, whose sensors skip what ``soft_fail`` does not
        mean, such as a trigger that has crashed.
        """
        try:
            with ending_deferral(self, self.timeout, next_method, next_kwargs):
                return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except Exception as error:
            if self.never_fail or (self.soft_fail and isinstance(error, SKIPPED_SOFTLY)):
                raise AirflowSkipException(f"Skipping, since soft_fail or never_fail is set: {error}") from None
            raise


@contextmanager
def ending_deferral(
    task: Any, timeout: timedelta | float, next_method: str, next_kwargs: Mapping[str, Any] | None
) -> Iterator[None]:
    """Raise what the task raises when its time is up, where Airflow itself has ended the deferral."""
    try:
        yield
    except AirflowException as error:
        if next_method != "__fail__" or (next_kwargs or {}).get("error") not in DEFERRAL_TIMEOUTS:
            raise
        limit = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
        if task.execution_timeout is not None and task.execution_timeout <= limit:
            raise AirflowTaskTimeout(f"The execution_timeout of the task has passed. {error}") from None
        raise AirflowSensorTimeout(str(error)) from None


def task_start(context: Context) -> float:
    """
    Return when this attempt of the task started, in seconds since the epoch; now outside of a task.

    Airflow keeps that time when a task resumes after a deferral.
    """
    start = getattr(context.get("ti"), "start_date", None)
    return start.timestamp() if isinstance(start, datetime) else time.time()


def execution_end(task: Any, context: Context) -> float | None:
    """
    Return when the ``execution_timeout`` of a task is over, in seconds since the epoch; None if it has none.

    It limits the attempt as a whole. Airflow 3 measures it in each process of a worker, and not during a deferral.
    """
    if task.execution_timeout is None:
        return None
    return task_start(context) + float(task.execution_timeout.total_seconds())


def limit_deferral(started: float, timeout: float, execution_end: float | None) -> WaitLimit:
    """Return how long a wait may last that is deferred now, see ``waiting.limit_wait``."""
    from airflow_provider_rtisms import waiting

    limit = waiting.limit_wait(time.time(), started, timeout, execution_end)
    if limit.is_execution_timeout and limit.seconds <= 0:
        raise AirflowTaskTimeout("The execution_timeout of the task has passed before it could defer.")
    return limit


def defer_until(limit: WaitLimit, kind: type[Any], rtisms_conn_id: str, **arguments: Any) -> dict[str, Any]:
    """Return the arguments of ``defer`` that hand a wait over to a trigger of a kind."""
    trigger = kind(
        rtisms_conn_id=rtisms_conn_id,
        deadline=limit.deadline,
        deferred_at=time.time(),
        is_execution_timeout=limit.is_execution_timeout,
        **arguments,
    )
    return {"trigger": trigger, "method_name": "execute_complete", "timeout": timedelta(seconds=limit.seconds)}


def read_wait_event(event: Any, expects: str) -> WaitEvent:
    """Return how a deferred wait ended."""
    from airflow_provider_rtisms import waiting

    try:
        return waiting.parse_trigger_event(event, expects)
    except waiting.UnknownEventError as error:
        raise AirflowException(str(error)) from None


def raise_for_outcome(event: WaitEvent) -> None:
    """Raise if a deferred wait did not finish."""
    match event.outcome, event.cause:
        case "failed", "crash":
            raise AirflowException(event.message)
        case "failed", _:
            raise AirflowFailException(event.message)
        case "timeout", "execution_timeout":
            raise AirflowTaskTimeout(f"The execution_timeout of the task has passed. {event.message}")
        case "timeout", _:
            raise AirflowSensorTimeout(event.message)


class RtiSmsBalanceSensor(DeferrableSensor):
    """
    Wait until the account's balance is at least some amount.

    Transient errors do not fail the wait before its ``timeout``.

    :param minimum: (templated) the amount, a decimal string or a number.
    :param rtisms_conn_id: (templated) the Connection.
    :param deferrable: wait in the triggerer; default from ``[operators] default_deferrable``.
    :return: the balance, a decimal string.
    :raises AirflowFailException: ``minimum`` is malformed, or the API refused.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    """

    template_fields: Sequence[str] = ("minimum", "rtisms_conn_id")
    ui_color = "#d9ead3"

    def __init__(self, *, minimum: str | float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minimum = minimum
        self._hook: RtiSmsHook | None = None

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once."""
        from airflow_provider_rtisms import waiting
        from airflow_provider_rtisms.api.values.arguments import check_amount

        self._hook = self._hook or RtiSmsHook(self.rtisms_conn_id)  # one token for all pokes
        with fail_without_retry():
            minimum = check_amount("minimum", self.minimum)
            is_done, balance = self._hook.run_async(lambda client: waiting.poll_balance(client, minimum))
        return PokeReturnValue(is_done, str(balance) if is_done else None)

    def deferral(self, context: Context) -> dict[str, Any]:
        """Return the arguments of ``defer`` that hand the wait over to the trigger."""
        from airflow_provider_rtisms.triggers.balance import RtiSmsBalanceTrigger

        limit = limit_deferral(task_start(context), self.timeout, execution_end(self, context))
        pauses = {"poke_interval": self.poke_interval, "max_poke_interval": self.max_poke_interval}
        return defer_until(limit, RtiSmsBalanceTrigger, self.rtisms_conn_id, minimum=str(self.minimum), **pauses)

    def execute_complete(self, context: Context, event: Any) -> str:
        """End the wait as the event of the trigger says."""
        parsed = read_wait_event(event, "balance")
        raise_for_outcome(parsed)
        return str(parsed.found["balance"])


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
        """Poll every submission that is still open, once."""
        polling = self._begin(context)
        is_done = polling.poll()
        self._remember(context, polling.wait)
        return PokeReturnValue(is_done, polling.wait.records if is_done else None)

    def execute_complete(self, context: Context, event: Any) -> list[Record]:
        """End the wait as the event of the trigger says."""
        from airflow_provider_rtisms import waiting

        if event == waiting.BEGIN_AGAIN:
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
        from airflow_provider_rtisms import waiting

        if not self.reschedule:
            return None
        return 0 if context.get("task_state_store") is None else waiting.MAX_RECORDS_IN_DATABASE

    def _recall(self, context: Context) -> list[Record]:
        from airflow_provider_rtisms import waiting

        if not self.reschedule:
            return []
        store = context.get("task_state_store")
        if store is None:
            self.log.info(
                "Polling all submissions. mode='reschedule' remembers final ones in task runs of Airflow 3.3 and later"
            )
            return []
        try:
            return waiting.check_records(store.get(FINISHED_KEY, []))
        except ValueError as error:
            self.log.warning("Polling all submissions, since the stored records cannot be read: %s", error)
            return []

    def _remember(self, context: Context, wait: DeliveryWait) -> None:
        from airflow_provider_rtisms import waiting

        store = context.get("task_state_store") if self.reschedule else None
        if store is not None and 0 < len(wait.records) <= waiting.MAX_RECORDS_IN_DATABASE:
            store.set(FINISHED_KEY, cast("JsonValue", wait.records))


def _warn_of_start_from_trigger() -> None:
    warnings.warn(
        "start_from_trigger is not used any more: remove it. With deferrable=True, a worker polls once and hands the "
        "wait to the triggerer. Give one sensor all ids instead of mapping it over them.",
        AirflowProviderDeprecationWarning,
        stacklevel=3,
    )


class DeliveryPolling:
    """
    A wait for delivery in one process of a worker.

    :param started: when the wait began, in seconds since the epoch; default now.
    :param finished: records of submissions that are known to be final already.
    :param min_delivered: a number, a share of all entries of ``submission_ids``, or a quota that has been checked.
    :param memory: how many records the next process remembers; None if this process makes all polls. The deliveries of
        larger waits are not in the metrics, which would count them again with each poll.
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
        from airflow_provider_rtisms import waiting
        from airflow_provider_rtisms.api.values.arguments import parse_submissions

        with fail_without_retry():
            ids, without_id = parse_submissions(submission_ids)
            if not isinstance(min_delivered, waiting.Quota):
                min_delivered = waiting.make_quota(min_delivered, len(ids) + without_id)
            self.wait = waiting.DeliveryWait(ids, waiting.check_fail_on(fail_on), finished, min_delivered)
            missing_seconds = check_seconds("missing_ok_for", missing_ok_for)
        if not ids:
            log.warning("submission_ids is empty, so there is nothing to wait for")
        self._hook = RtiSmsHook(rtisms_conn_id)
        self._started = time.time() if started is None else started
        self._missing_until = self._started + missing_seconds
        self._is_first_time = memory is None or len(ids) <= memory

    def poll(self) -> bool:
        """Poll every submission that is still open, once."""
        from airflow_provider_rtisms import waiting

        with fail_without_retry():
            if self.wait.is_over(missing_ok=True):
                return True
            return self._hook.run_async(
                lambda client: waiting.poll_deliveries(
                    client, self.wait, self._missing_until, is_first_time=self._is_first_time
                )
            )

    def poll_until_final(self, poke_interval: float, timeout: float) -> list[Record]:
        """Poll in this process until all are final."""
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
        Return the arguments of ``defer`` that hand the wait over to the trigger.

        :param ids_in_event: whether the event of a large wait holds the ids, for a task that has them nowhere else.
        """
        from airflow_provider_rtisms import waiting
        from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger

        limit = limit_deferral(self._started, timeout, execution_end)
        wait = self.wait
        with_records = self.wait.is_small and len(wait.records) <= waiting.MAX_RECORDS_IN_TRIGGER
        quota = wait.quota if with_records else wait.quota_of_open
        return defer_until(
            limit,
            RtiSmsDeliveryTrigger,
            self._hook.rtisms_conn_id,
            submission_ids=wait.submission_ids if with_records else wait.open_ids,
            poke_interval=poke_interval,
            missing_until=self._missing_until,
            fail_on=wait.fail_on,
            finished=wait.records if with_records else [],
            max_poke_interval=max_poke_interval,
            with_records=with_records,
            with_ids=ids_in_event,
            quota=None if quota is None else quota.to_json(),
        )

    def push_records(self, context: Context) -> None:
        """Push the records of final submissions to XCom ``records``, unless the wait is large."""
        from airflow_provider_rtisms import waiting

        ti, task = context.get("ti"), context.get("task")
        if ti is None or not getattr(task, "do_xcom_push", True):
            return
        if self.wait.is_small:
            ti.xcom_push(key=RECORDS_KEY, value=self.wait.records)
        else:
            log.warning(
                "The records are not in XCom, since the wait is for more than %d submissions",
                waiting.MAX_RECORDS_IN_DATABASE,
            )

    def complete(self, event: Any) -> list[Record]:
        """Return the records of all submissions. Fetch those that a large wait has kept out of its event."""
        parsed = read_wait_event(event, "records")
        self._is_first_time = False  # the trigger has reported these deliveries to the metrics
        self.wait.restore(parsed.found.get("records", ()))
        if parsed.outcome != "finished" and "records" not in parsed.found and self.wait.is_small:
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
    """Push the records of a wait that fails to XCom, so that a downstream task can act on them."""
    try:
        yield
    except FAILURES:
        polling = get_polling()
        if polling is not None:
            polling.push_records(context)
        raise
