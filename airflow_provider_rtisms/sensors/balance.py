"""The sensor of the account's balance. Importing this module loads no HTTP library."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import PokeReturnValue

from airflow_provider_rtisms.hooks.failures import fail_without_retry
from airflow_provider_rtisms.sensors.base import (
    DeferrableSensor,
    execution_end,
    finish_wait,
    limit_deferral,
    task_start,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook


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
        """
        Poll once.

        :return: whether the wait is done, with the balance if it is.
        """
        from airflow_provider_rtisms.api.values.arguments import check_amount
        from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
        from airflow_provider_rtisms.waiting import poll_balance

        self._hook = self._hook or RtiSmsHook(self.rtisms_conn_id)  # one token for all pokes
        with fail_without_retry():
            minimum = check_amount("minimum", self.minimum)
            is_done, balance = self._hook.run_async(lambda client: poll_balance(client, minimum))
        return PokeReturnValue(is_done, str(balance) if is_done else None)

    def deferral(self, context: Context) -> dict[str, Any]:
        """Return the arguments of ``defer`` that hand the wait over to the trigger."""
        from airflow_provider_rtisms.triggers.balance import RtiSmsBalanceTrigger

        limit = limit_deferral(task_start(context), self.timeout, execution_end(self, context))
        trigger = RtiSmsBalanceTrigger(
            rtisms_conn_id=self.rtisms_conn_id,
            minimum=str(self.minimum),
            poke_interval=self.poke_interval,
            deadline=limit.deadline,
            max_poke_interval=self.max_poke_interval,
            deferred_at=time.time(),
            is_execution_timeout=limit.is_execution_timeout,
        )
        return {"trigger": trigger, "method_name": "execute_complete", "timeout": timedelta(seconds=limit.seconds)}

    def execute_complete(self, context: Context, event: Any) -> str:
        """
        End the wait as the event of the trigger says.

        :param event: of :class:`~airflow_provider_rtisms.triggers.balance.RtiSmsBalanceTrigger`.
        """
        return str(finish_wait(event, "balance")["balance"])
