"""What the sensors have in common: poll once before they defer, and end in the same way on every Airflow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_rtisms.hooks.templates import TemplateFields

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.waiting.events import WaitEvent

#: The error text of Airflow 2 for a deferral that has timed out; later versions raise a class of their own.
DEFERRAL_TIMEOUT = "Trigger/execution timeout"


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
            return super().execute(context)
        try:
            done = self.poke(context)
        except AirflowFailException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipping, since soft_fail or never_fail is set: {error}") from error
            raise
        if not done:
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
        """Resume after the deferral. On Airflow 2 too, ``never_fail`` works and a timeout is AirflowSensorTimeout."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except AirflowException as error:
            if self.never_fail:
                raise AirflowSkipException(f"Skipping, since never_fail is set: {error}") from error
            if (next_kwargs or {}).get("error") == DEFERRAL_TIMEOUT and not isinstance(error, AirflowSensorTimeout):
                raise AirflowSensorTimeout(str(error)) from error
            raise


def finish_wait(event: Any, expects: str) -> Mapping[str, Any]:
    """
    Return what a deferred wait has found.

    :param event: the payload of a trigger of this package.
    :param expects: the key that its payload has to contain, ``records`` or ``balance``.
    :raises AirflowFailException: the wait failed.
    :raises AirflowSensorTimeout: the wait has timed out.
    :raises AirflowException: the event is of an unknown form.
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
    from airflow_provider_rtisms.waiting.events import UnknownEventError, parse_trigger_event

    try:
        return parse_trigger_event(event, expects)
    except UnknownEventError as error:
        raise AirflowException(str(error)) from None


def raise_for_outcome(event: WaitEvent) -> None:
    """
    Raise if a deferred wait did not finish.

    :param event: how it ended.
    :raises AirflowFailException: the wait failed.
    :raises AirflowSensorTimeout: its time was up.
    """
    match event.outcome:
        case "failed":
            raise AirflowFailException(event.message)
        case "timeout":
            raise AirflowSensorTimeout(event.message)
