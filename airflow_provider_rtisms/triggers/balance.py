"""Triggers that watch the account's balance without holding a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.triggers.polling import (
    pause,
    poll_until_done,
    refuse_arguments,
    run_until_deadline,
    serialize_args,
)
from airflow_provider_rtisms.waiting.polling import poll_balance

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2 has no asset watchers, but it imports this module
    BaseEventTrigger = BaseTrigger  # type: ignore[misc,assignment]


class RtiSmsBalanceTrigger(BaseTrigger):
    """
    Wait until the balance is at least some amount. Transient errors do not end the wait before its deadline.

    It yields one event, ``{"version": 1, "outcome": "finished", "balance": "457.00"}``, or an outcome ``failed`` or
    ``timeout`` with a ``message``.

    :param rtisms_conn_id: the Connection; read again when its credentials are refused.
    :param minimum: the amount, a decimal string.
    :param poke_interval: seconds between two polls.
    :param deadline: wall-clock time (seconds since the epoch) at which to give up.
    :param max_poke_interval: seconds up to which the pauses between polls grow; None if they do not.
    :param deferred_at: wall-clock time at which the task polled and then deferred, see
        :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger`.
    :param unknown: arguments of another version of this package; the trigger fails and names them.
    """

    def __init__(
        self,
        *,
        rtisms_conn_id: str,
        minimum: str,
        poke_interval: float,
        deadline: float,
        max_poke_interval: float | None = None,
        deferred_at: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rtisms_conn_id = rtisms_conn_id
        self.minimum = minimum
        self.poke_interval = poke_interval
        self.deadline = deadline
        self.max_poke_interval = max_poke_interval
        self.deferred_at = deferred_at
        self._unknown = unknown

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that recreate the trigger."""
        return serialize_args(
            self, "rtisms_conn_id", "minimum", "poke_interval", "deadline", "max_poke_interval", "deferred_at"
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait is over, and yield how it ended."""
        if self._unknown:
            yield await refuse_arguments(self, self._unknown)
            return
        self._seen: Decimal | None = None
        yield await run_until_deadline(self, self._wait(), self._timeout_message)

    async def _wait(self) -> dict[str, Any]:
        await poll_until_done(self, self._poll)
        return {"balance": str(self._seen)}

    async def _poll(self, client: AsyncRtiSmsClient) -> bool:
        is_done, balance = await poll_balance(client, Decimal(self.minimum))
        self._seen = self._seen if balance is None else balance
        return is_done

    def _timeout_message(self) -> str:
        seen = "was never received" if self._seen is None else f"was last {self._seen}, below {self.minimum}"
        return f"Timed out: the balance {seen}."


class RtiSmsBalanceFallTrigger(BaseEventTrigger):
    """
    Fire when the balance falls below a threshold, once per fall: for an ``AssetWatcher`` (Airflow 3).

    Each event is ``{"balance": "12.00", "threshold": "50"}``. A balance that is low when the watch begins counts
    as a fall. On Airflow 3.3 and later the asset state store remembers a reported fall when the triggerer is restarted.
    Earlier versions report it again after a restart. Errors of any kind are logged and do not end the watch.

    :param threshold: the amount, a decimal string or a number.
    :param rtisms_conn_id: the Connection.
    :param poke_interval: seconds between two polls.
    """

    def __init__(
        self, *, threshold: str | float, rtisms_conn_id: str = "rtisms_default", poke_interval: float = 300
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.threshold = str(threshold)
        self.rtisms_conn_id = rtisms_conn_id
        self.poke_interval = poke_interval
        #: Whether the balance was low at the last poll; None before the first one.
        self._was_low: bool | None = None
        self._is_stored = True

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that recreate the trigger."""
        return serialize_args(self, "threshold", "rtisms_conn_id", "poke_interval")

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll without end, and yield an event for each fall."""
        threshold = Decimal(self.threshold)
        while True:
            try:
                was_low = await self._recall()
                balance = await self._get_balance()
            except Exception as error:
                self.log.warning("%s The next poll will try again", error)
            else:
                is_low = balance < threshold
                if is_low and not was_low:
                    self.log.warning("The balance has fallen to %s, below %s", balance, threshold)
                    yield TriggerEvent(  # type: ignore[no-untyped-call]
                        {"balance": str(balance), "threshold": self.threshold}
                    )
                # After the event: a triggerer that dies in between reports the fall twice, which is better than never.
                await self._remember(is_low)
            await pause(self.poke_interval)

    async def _get_balance(self) -> Decimal:
        async with RtiSmsHook(self.rtisms_conn_id).get_async_conn() as client:
            return await client.get_balance()

    async def _recall(self) -> bool:
        if self._was_low is None:
            store = getattr(self, "asset_state_store", None)
            self._was_low = False if store is None else bool(await store.aget(self._key, default=False))
        return self._was_low

    async def _remember(self, is_low: bool) -> None:
        if is_low != self._was_low:
            self._was_low, self._is_stored = is_low, False
        store = getattr(self, "asset_state_store", None)
        if store is None or self._is_stored:
            return
        try:
            await store.aset(self._key, is_low)
            self._is_stored = True
        except Exception as error:
            self.log.warning("The state of the balance could not be stored: %s. The next poll will try again", error)

    @property
    def _key(self) -> str:
        return f"rtisms_balance_below_{self.threshold}_of_{self.rtisms_conn_id}"
