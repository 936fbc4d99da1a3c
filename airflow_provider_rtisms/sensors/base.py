"""What the sensors have in common: poll once before they defer, and end in the same way on every Airflow."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_rtisms.hooks.failures import fail_without_retry
from airflow_provider_rtisms.hooks.templates import TemplateFields

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.waiting import WaitEvent, WaitLimit

#: What Airflow 2 and Airflow 3 say where they resume a task because its deferral has timed out.
DEFERRAL_TIMEOUTS = ("Trigger/execution timeout", "Trigger timeout")
#: What a sensor with ``soft_fail`` skips: the wait has failed or timed out. A crash is neither.
SKIPPED_SOFTLY = (AirflowFailException, AirflowSensorTimeout)


class DeferrableSensor(TemplateFields, BaseSensorOperator):
    """
    A sensor that pokes in this process, or pokes once and defers.

    :param rtisms_conn_id: (templated) the Connection.
    :param deferrable: wait in the triggerer; default from ``[operators] default_deferrable``.
    """

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
        try:
            done = self.poke(context)
        except AirflowFailException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipping, since soft_fail or never_fail is set: {error}") from error
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

        :raises AirflowSkipException: ``soft_fail`` is set and the wait failed or timed out; ``never_fail`` is set and
            anything failed. The ``execution_timeout`` is never skipped.
        """
        try:
            with ending_deferral(self, self.timeout, next_method, next_kwargs):
                return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except Exception as error:
            if self.never_fail or (self.soft_fail and isinstance(error, SKIPPED_SOFTLY)):
                raise AirflowSkipException(f"Skipping, since soft_fail or never_fail is set: {error}") from error
            raise


@contextmanager
def ending_deferral(
    task: Any, timeout: timedelta | float, next_method: str, next_kwargs: Mapping[str, Any] | None
) -> Iterator[None]:
    """
    Raise what the task raises when its time is up, where Airflow itself has ended the deferral.

    :param task: has the ``execution_timeout``.
    :param timeout: seconds or timedelta that the wait may last.
    :param next_method: as Airflow resumes the task.
    :param next_kwargs: as Airflow resumes the task.
    :raises AirflowTaskTimeout: the ``execution_timeout`` ended it.
    :raises AirflowSensorTimeout: the ``timeout`` ended it.
    """
    try:
        yield
    except AirflowException as error:
        if next_method != "__fail__" or (next_kwargs or {}).get("error") not in DEFERRAL_TIMEOUTS:
            raise
        limit = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
        if task.execution_timeout is not None and task.execution_timeout <= limit:
            raise AirflowTaskTimeout(f"The execution_timeout of the task has passed. {error}") from error
        raise AirflowSensorTimeout(str(error)) from error


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
    """
    Return how long a wait may last that is deferred now, see
    :func:`~airflow_provider_rtisms.waiting.limit_wait`.

    :raises AirflowTaskTimeout: the ``execution_timeout`` is over already.
    """
    from airflow_provider_rtisms.waiting import limit_wait

    limit = limit_wait(time.time(), started, timeout, execution_end)
    if limit.is_execution_timeout and limit.seconds <= 0:
        raise AirflowTaskTimeout("The execution_timeout of the task has passed before it could defer.")
    return limit


def finish_wait(event: Any, expects: str) -> Mapping[str, Any]:
    """
    Return what a deferred wait has found.

    :param event: the payload of a trigger of this package.
    :param expects: the key that its payload has to contain, ``records`` or ``balance``.
    :raises AirflowFailException: the wait failed.
    :raises AirflowSensorTimeout: the ``timeout`` of the wait has passed.
    :raises AirflowTaskTimeout: the ``execution_timeout`` of the task has passed.
    :raises AirflowException: the trigger has crashed, or the event is of an unknown form.
    """
    parsed = read_wait_event(event, expects)
    raise_for_outcome(parsed)
    return parsed.found


def read_wait_event(event: Any, expects: str) -> WaitEvent:
    """
    Return how a deferred wait ended.

    :param event: the payload of a trigger of this package.
    :param expects: the key that a finished wait has to bring.
    :raises AirflowException: the event is of an unknown form.
    """
    from airflow_provider_rtisms.waiting import UnknownEventError, parse_trigger_event

    try:
        return parse_trigger_event(event, expects)
    except UnknownEventError as error:
        raise AirflowException(str(error)) from None


def raise_for_outcome(event: WaitEvent) -> None:
    """
    Raise if a deferred wait did not finish.

    :param event: how it ended.
    :raises AirflowFailException: the wait failed.
    :raises AirflowSensorTimeout: its ``timeout`` has passed.
    :raises AirflowTaskTimeout: the ``execution_timeout`` of the task has passed.
    :raises AirflowException: the trigger has crashed; a task retry may help.
    """
    match event.outcome, event.cause:
        case "failed", "crash":
            raise AirflowException(event.message)
        case "failed", _:
            raise AirflowFailException(event.message)
        case "timeout", "execution_timeout":
            raise AirflowTaskTimeout(f"The execution_timeout of the task has passed. {event.message}")
        case "timeout", _:
            raise AirflowSensorTimeout(event.message)
