"""What the sensors have in common: check once before deferring, and end the same way on every Airflow."""

from __future__ import annotations

from abc import abstractmethod
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

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

#: What Airflow 2 says when a deferral has timed out; later versions raise a class of their own.
DEFERRAL_TIMEOUT = "Trigger/execution timeout"


class DeferrableSensor(BaseSensorOperator):
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
        """Wait in this process, or ask once and defer."""
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
        """Ask once."""

    @abstractmethod
    def deferral(self, context: Context) -> dict[str, Any]:
        """Return the arguments of ``defer``, once a poke has found that there is more to wait for."""

    @property
    def max_poke_interval(self) -> float | None:
        """Seconds up to which the pauses of a deferred wait grow (``exponential_backoff``, ``max_wait``), or None."""
        if not self.exponential_backoff:
            return None
        return self.max_wait.total_seconds() if self.max_wait else self.timeout

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the deferral; never_fail and AirflowSensorTimeout on Airflow 2 too."""
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


def trigger_deadline(started: float, timeout: float) -> float:
    """Return when a trigger is to give up: before Airflow ends the deferral, so that it can still say what it saw."""
    return started + timeout - min(5.0, timeout / 10)


def parse_trigger_event(event: Any, brings: str) -> dict[str, Any]:
    """
    Return the event of a trigger that found what it waited for.

    :param event: of a trigger of this package.
    :param brings: the key without which the event says nothing, such as ``records``.
    :raises AirflowFailException: the wait failed.
    :raises AirflowSensorTimeout: its time was up.
    :raises AirflowException: the event is of an unknown form.
    """
    match event:
        case {"outcome": "finished", **found} if brings in found:
            return dict(event)
        case {"outcome": "failed", "message": str(message)}:
            raise AirflowFailException(message)
        case {"outcome": "timeout", "message": str(message)}:
            raise AirflowSensorTimeout(message)
    raise AirflowException(
        f"The trigger ended with an event of an unknown form ({type(event).__name__}); do worker and triggerer "
        "have the same version of airflow-provider-rtisms?"
    )
