"""One poll, and the reaction to credentials that are refused; with a client that is no client."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.waiting import DeliveryWait, poll_balance, poll_deliveries, with_current_credentials

OLD, NEW, NEWEST = (ApiSettings(client_id="me", client_secret=one) for one in ("old", "new", "newest"))
SOON = errors.RtiSmsServerError("HTTP 503")


class Client:
    """Responds from a table; an exception is raised."""

    def __init__(self, settings: ApiSettings = OLD, outcomes: Any = None) -> None:
        self.settings = settings
        self.outcomes = outcomes
        self.polled: list[str | None] = []

    async def perform(self, call: Any) -> Any:
        self.polled.append(call.subject)
        return self._give(self.outcomes[call.subject])

    async def get_balance(self) -> Any:
        return self._give(self.outcomes)

    @staticmethod
    def _give(outcome: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.mark.parametrize(
    ("readings", "accepted", "worked", "is_done"),
    [
        ([OLD, NEW], OLD, [OLD], True),
        ([OLD, NEW], NEW, [OLD, NEW], True),
        ([OLD, NEW, NEWEST], NEWEST, [OLD, NEW, NEWEST], True),  # they may change more than once
        ([OLD, OLD, NEW], NEW, [OLD], False),  # those that have not changed are not tried again
        ([OLD, NEW, NEW], None, [OLD, NEW], False),
    ],
)
def test_refused_credentials_are_read_again_and_the_work_starts_over(
    caplog: pytest.LogCaptureFixture,
    readings: list[ApiSettings],
    accepted: ApiSettings | None,
    worked: list[ApiSettings],
    is_done: bool,
) -> None:
    """What the Connection holds at each reading, and the only credentials that the server accepts."""
    left, tried = iter(readings), []
    opened = closed = 0

    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        nonlocal opened, closed
        opened += 1
        try:
            yield Client(next(left))
        finally:
            closed += 1

    async def work(client: Any) -> str:
        tried.append(client.settings)
        if client.settings != accepted:
            raise errors.RtiSmsAuthenticationError("HTTP 401 at POST /auth.")
        return "done"

    expected = nullcontext() if is_done else pytest.raises(errors.RtiSmsAuthenticationError)
    with expected:
        assert asyncio.run(with_current_credentials(connect, work)) == "done"
    assert tried == worked
    assert opened == closed == len(worked) + (not is_done)
    assert ("HTTP 401 at POST /auth. Reading the Connection again" in caplog.text) is (len(worked) > 1 or not is_done)


class TestPollDeliveries:
    @staticmethod
    def poll(client: Client, wait: DeliveryWait, missing_until: float = 0.0) -> bool:
        return asyncio.run(poll_deliveries(client, wait, missing_until))  # type: ignore[arg-type]

    def test_each_open_submission_is_asked_for_once(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        wait = DeliveryWait(["1", "2", "3"], (), [SmsDetails("2", "DELIVERED").to_record()])
        client = Client(outcomes={"1": SmsDetails("1", "DELIVERED"), "3": SmsDetails("3", "SENT")})
        assert self.poll(client, wait) is False
        assert sorted(filter(None, client.polled)) == ["1", "3"]
        assert [record.getMessage() for record in caplog.records] == [
            "2 of 3 submissions are final (2 DELIVERED); open: 1 SENT"
        ]
        client.outcomes["3"] = SmsDetails("3", "EXPIRED")
        assert self.poll(client, wait) is True

    def warnings(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    def test_a_transient_error_is_a_warning_of_the_poll_that_met_it(self, caplog: pytest.LogCaptureFixture) -> None:
        wait = DeliveryWait(["1"], ())
        client = Client(outcomes={"1": SOON})
        assert self.poll(client, wait) is False
        assert self.warnings(caplog) == ["HTTP 503 The next poll will try again"]
        caplog.clear()
        client.outcomes["1"] = SmsDetails("1", "SENT")
        self.poll(client, wait)
        assert self.warnings(caplog) == []

    def test_a_large_wait_does_not_hold_up_the_event_loop(self) -> None:
        """A triggerer runs other triggers in the same loop, which get a turn after a small part of the work."""
        ids = [str(number) for number in range(20_000)]

        class Instant(Client):
            async def perform(self, call: Any) -> Any:
                await asyncio.sleep(0)
                return SmsDetails(call.subject, "SENT")

        async def tick(pauses: list[float]) -> None:
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                pauses.append(time.thread_time() - before)

        async def main() -> list[float]:
            pauses: list[float] = []
            ticker = asyncio.ensure_future(tick(pauses))
            client: Any = Instant()
            assert not await poll_deliveries(client, DeliveryWait(ids, ()), 0.0)
            ticker.cancel()
            return pauses

        gc.collect()
        gc.freeze()  # or collecting what pytest has piled up is a pause of its own
        try:
            pauses = asyncio.run(main())
        finally:
            gc.unfreeze()
        assert max(pauses) < sum(pauses) / 4


class TestPollBalance:
    @pytest.mark.parametrize(("balance", "is_enough"), [("9.99", False), ("10.00", True), ("10.01", True)])
    def test_the_minimum_is_enough(self, balance: str, is_enough: bool, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        client: Any = Client(outcomes=Decimal(balance))
        assert asyncio.run(poll_balance(client, Decimal(10))) == (is_enough, Decimal(balance))
        assert f"The balance is {balance}, {'at least' if is_enough else 'below'} 10" in caplog.text

    def test_a_transient_error_is_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        client: Any = Client(outcomes=SOON)
        assert asyncio.run(poll_balance(client, Decimal(10))) == (False, None)
        assert "HTTP 503 The next poll will try again" in caplog.text
