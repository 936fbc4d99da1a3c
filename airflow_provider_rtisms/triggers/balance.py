"""Triggers that watch the account's balance without holding a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.api.errors import RtiSmsTransientError
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.triggers.polling import pause, poll, run_until_deadline, serialize_args

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2 has no asset watchers, but finds this module importable
    BaseEventTrigger = BaseTrigger  # type: ignore[misc,assignment]


class RtiSmsBalanceTrigger(BaseTrigger):
    """
    Wait until the balance is at least some amount. Transient failures are ridden out until the deadline.

    One event ends it: ``{"outcome": "finished", "balance": "457.00"}``, or ``failed`` or ``timeout`` with a
    ``message``.

    :param rtisms_conn_id: the Connection; read anew when its credentials are refused.
    :param minimum: the amount, a decimal string.
    :param poke_interval: seconds between two polls.
    :param deadline: wall-clock time (seconds since the epoch) at which to give up.
    :param max_poke_interval: seconds up to which the pauses between polls grow; None if they do not.
    :param deferred_at: wall-clock time at which the task deferred, see
        :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger`.
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
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rtisms_conn_id = rtisms_conn_id
        self.minimum = minimum
        self.poke_interval = poke_interval
        self.deadline = deadline
        self.max_poke_interval = max_poke_interval
        self.deferred_at = deferred_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments to make the trigger again."""
        return serialize_args(
            self, "rtisms_conn_id", "minimum", "poke_interval", "deadline", "max_poke_interval", "deferred_at"
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait is over, and say how it ended."""
        self._seen: Decimal | None = None
        yield await run_until_deadline(self, self._wait(), self._timeout_message)

    async def _wait(self) -> dict[str, Any]:
        await poll(self, self._ask)
        return {"balance": str(self._seen)}

    async def _ask(self, client: AsyncRtiSmsClient) -> bool:
        try:
            self._seen = await client.perform(endpoints.get_balance())
        except RtiSmsTransientError as error:
            self.log.warning("Asking again later: %s", error)
            return False
        self.log.info("The balance is %s, waiting for %s", self._seen, self.minimum)
        return self._seen >= Decimal(self.minimum)

    def _timeout_message(self) -> str:
        return f"Timed out: the balance was last seen at {self._seen}, below {self.minimum}."


class RtiSmsBalanceFallTrigger(BaseEventTrigger):
    """
    Fire when the balance falls below a threshold, once per fall: for an ``AssetWatcher`` (Airflow 3).

    Each event is ``{"balance": "12.00", "threshold": "50"}``. A balance that is low when the watch begins counts as
    fallen. On Airflow 3.3 the asset state store remembers across restarts of the triggerer that a fall was told; below
    it a restart tells it again. Failures of any kind are logged and ridden out, since nobody waits for the end.

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
        self._is_low = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments to make the trigger again."""
        return serialize_args(self, "threshold", "rtisms_conn_id", "poke_interval")

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll for ever, and tell of each fall."""
        threshold = Decimal(self.threshold)
        while True:
            balance = await self._ask()
            if balance is not None and await self._was_low() != (is_low := balance < threshold):
                if is_low:
                    self.log.warning("The balance has fallen to %s, below %s", balance, threshold)
                    yield TriggerEvent(  # type: ignore[no-untyped-call]
                        {"balance": str(balance), "threshold": self.threshold}
                    )
                # After the event: a triggerer that dies in between tells of the fall twice rather than never.
                await self._set_low(is_low)
            await pause(self.poke_interval)

    async def _ask(self) -> Decimal | None:
        try:
            async with RtiSmsHook(self.rtisms_conn_id).get_async_conn() as client:
                return await client.perform(endpoints.get_balance())
        except Exception as error:
            self.log.warning("Asking again later: %s", error)
            return None

    async def _was_low(self) -> bool:
        store = getattr(self, "asset_state_store", None)
        return self._is_low if store is None else bool(await store.aget(self._key, default=False))

    async def _set_low(self, is_low: bool) -> None:
        self._is_low = is_low
        if (store := getattr(self, "asset_state_store", None)) is not None:
            await store.aset(self._key, is_low)

    @property
    def _key(self) -> str:
        return f"rtisms_balance_below_{self.threshold}_of_{self.rtisms_conn_id}"
