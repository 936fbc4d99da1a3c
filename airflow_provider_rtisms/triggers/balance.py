"""Triggers that watch the account's balance without holding a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.values.arguments import check_amount
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.triggers.polling import (
    WaitTrigger,
    check_conn_id,
    check_duration,
    checking_arguments,
    describe,
    pause,
    serialize_args,
)
from airflow_provider_rtisms.waiting import poll_balance

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2 has no asset watchers, but it imports this module
    BaseEventTrigger = BaseTrigger  # type: ignore[misc,assignment]

#: Seconds: while polls fail, the pauses of a watch grow up to this, or to its ``poke_interval`` if that is longer.
MAX_PAUSE_AFTER_ERRORS = 300.0


class RtiSmsBalanceTrigger(WaitTrigger):
    """
    Wait until the balance is at least some amount. Transient errors do not end the wait before its deadline.

    It yields one event, ``{"version": 1, "outcome": "finished", "balance": "457.00"}``, or an outcome ``failed`` or
    ``timeout`` with a ``message``.

    :param minimum: the amount, a decimal string.
    :param common: the arguments that :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger` takes too.
    :raises TriggerArgumentError: an argument is malformed.
    """

    stored = ("minimum", *WaitTrigger.stored)

    def __init__(self, *, minimum: str, **common: Any) -> None:
        super().__init__(**common)
        with checking_arguments():
            check_amount("minimum", minimum)
        self.minimum = str(minimum).strip()
        self._seen: Decimal | None = None

    async def poll(self, client: AsyncRtiSmsClient) -> bool:
        """Poll the balance, once."""
        is_done, balance = await poll_balance(client, Decimal(self.minimum))
        self._seen = self._seen if balance is None else balance
        return is_done

    def found(self, *, is_done: bool) -> dict[str, Any]:
        """Return the balance that is enough."""
        return {"balance": str(self._seen)} if is_done else {}

    def timeout_message(self) -> str:
        """Return the last balance."""
        seen = "was never received" if self._seen is None else f"was last {self._seen}, below {self.minimum}"
        return f"Timed out: the balance {seen}."


class RtiSmsBalanceFallTrigger(BaseEventTrigger):
    """
    Fire when the balance falls below a threshold, once per fall: for an ``AssetWatcher`` (Airflow 3).

    Each event is ``{"balance": "12.00", "threshold": "50"}``. A balance that is low when the watch begins counts
    as a fall. On Airflow 3.3 and later the asset state store remembers a reported fall when the triggerer is restarted.
    Earlier versions report it again after a restart, and so does a trigger whose store cannot be used, such as the one
    that several assets with equal watchers share. Errors of any kind are logged and do not end the watch. While polls
    fail, the pauses between them grow up to 5 minutes.

    :param threshold: the amount, a decimal string or a number.
    :param rtisms_conn_id: the Connection.
    :param poke_interval: seconds or timedelta between two polls.
    :raises TriggerArgumentError: an argument is malformed. Airflow shows it as an import error of the DAG.
    """

    def __init__(
        self,
        *,
        threshold: str | float | Decimal,
        rtisms_conn_id: str = "rtisms_default",
        poke_interval: timedelta | float = 300,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        with checking_arguments():
            check_amount("threshold", threshold)
            self.threshold = str(threshold).strip()
            self.rtisms_conn_id = check_conn_id(rtisms_conn_id)
            self.poke_interval = check_duration("poke_interval", poke_interval)
        self._is_stored = True
        self._is_store_usable = True

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that recreate the trigger."""
        return serialize_args(self, "threshold", "rtisms_conn_id", "poke_interval")

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll without end, and yield an event for each fall."""
        threshold = Decimal(self.threshold)
        was_low = await self._recall()
        seconds: float = self.poke_interval
        while True:
            try:
                balance = await self._get_balance()
            except Exception as error:
                self.log.warning(
                    "The balance was not polled: %s The next poll will try again in about %d s",
                    describe(error),
                    seconds,
                )
                await pause(seconds)
                seconds = max(self.poke_interval, min(2 * seconds + 1, MAX_PAUSE_AFTER_ERRORS))
                continue
            is_low = balance < threshold
            if is_low and not was_low:
                self.log.warning("The balance has fallen to %s, below %s", balance, threshold)
                yield TriggerEvent(  # type: ignore[no-untyped-call]
                    {"balance": str(balance), "threshold": self.threshold}
                )
            # After the event: a triggerer that dies in between reports the fall twice, which is better than never.
            await self._remember(is_low, has_changed=is_low != was_low)
            was_low, seconds = is_low, self.poke_interval
            await pause(seconds)

    async def _get_balance(self) -> Decimal:
        async with RtiSmsHook(self.rtisms_conn_id).get_async_conn() as client:
            return await client.get_balance()

    async def _recall(self) -> bool:
        """Return whether a fall has been reported before a restart of the triggerer."""
        store = getattr(self, "asset_state_store", None)
        try:
            return store is not None and bool(await store.aget(self._key, default=False))
        except Exception as error:
            self._report_unusable_store(error)
            return False

    async def _remember(self, is_low: bool, *, has_changed: bool) -> None:
        """Store a change, with the next poll again if the store fails."""
        store = getattr(self, "asset_state_store", None)
        if store is None or (self._is_stored and not has_changed):
            return
        try:
            await store.aset(self._key, is_low)
            self._is_stored = True
        except Exception as error:
            self._is_stored = False
            self._report_unusable_store(error)

    def _report_unusable_store(self, error: Exception) -> None:
        """Log, once, that Airflow's store fails: a store of several assets always does."""
        if self._is_store_usable:
            self._is_store_usable = False
            self.log.warning(
                "Airflow's asset state store cannot be used (%s: %s). The balance is watched all the same, but after a "
                "restart of the triggerer a fall is reported again. If two assets have equal watchers, give them "
                "different arguments, or use one asset",
                type(error).__name__,
                error,
            )

    @property
    def _key(self) -> str:
        return f"rtisms_balance_below_{self.threshold}_of_{self.rtisms_conn_id}"
