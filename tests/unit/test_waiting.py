"""
Waits: which submissions are open, when a wait is over or has failed, one poll, and the event that ends a trigger.

The client is none, and responds from a table; sensors and triggers are tested with a server.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.waiting import (
    VERSION,
    DeliveryWait,
    Quota,
    UnknownEventError,
    WaitEvent,
    WaitLimit,
    check_records,
    limit_wait,
    make_quota,
    parse_trigger_event,
    poll_balance,
    poll_deliveries,
    with_current_credentials,
)

LATER = errors.RtiSmsServerError("HTTP 503")
MISSING = errors.RtiSmsNotFoundError("HTTP 404", status=404)


def details(submission_id: str, status: str | None = "DELIVERED", *, is_done: bool = False) -> SmsDetails:
    return SmsDetails(submission_id, status, done_at=datetime(2026, 1, 1, tzinfo=UTC) if is_done else None)


def record(submission_id: str, status: str | None = "DELIVERED") -> dict[str, Any]:
    return details(submission_id, status).to_record()


def wait(*ids: str, fail_on: tuple[str, ...] = (), finished: tuple[dict[str, Any], ...] = ()) -> DeliveryWait:
    return DeliveryWait(ids, fail_on, finished)


class TestOpen:
    @pytest.mark.parametrize(
        ("status", "is_done", "is_open"),
        [
            ("PENDING", True, True),
            ("SENT", True, True),
            ("DELIVERED", False, False),
            ("REJECTED", False, False),
            ("UNDELIVERED", False, False),
            ("EXPIRED", False, False),
            ("UNKNOWN", False, True),
            ("UNKNOWN", True, False),
            (None, False, True),
            (None, True, False),
        ],
    )
    def test_a_submission_is_open_until_it_is_final(self, status: str | None, is_done: bool, is_open: bool) -> None:
        state = wait("1", "2")
        state.note("2", details("2", status, is_done=is_done))
        assert state.open_ids == (["1", "2"] if is_open else ["1"])
        assert [one["submission_id"] for one in state.records] == ([] if is_open else ["2"])

    def test_open_ids_and_records_keep_the_order_of_the_ids(self) -> None:
        state = wait("3", "1", "2", "4")
        for one in ("2", "3"):
            state.note(one, details(one))
        assert state.open_ids == ["1", "4"]
        assert [one["submission_id"] for one in state.records] == ["3", "2"]

    def test_a_submission_that_is_final_stays_final(self) -> None:
        state = wait("1")
        state.note("1", details("1"))
        state.note("1", LATER)
        assert state.open_ids == []

    def test_finished_records_are_not_open(self) -> None:
        state = wait("1", "2", finished=(record("2"),))
        assert state.open_ids == ["1"]
        state.restore([record("1", "EXPIRED")])
        assert [(one["submission_id"], one["status"]) for one in state.records] == [
            ("1", "EXPIRED"),
            ("2", "DELIVERED"),
        ]

    def test_records_of_other_submissions_are_not_counted(self) -> None:
        state = wait("1", finished=(record("9"),))
        assert state.records == []
        assert state.open_ids == ["1"]


class TestIsOver:
    def test_it_is_over_when_every_submission_is_final(self) -> None:
        state = wait("1", "2")
        state.note("1", details("1"))
        assert state.is_over(missing_ok=False) is False
        state.note("2", details("2", "EXPIRED"))
        assert state.is_over(missing_ok=False) is True

    def test_nothing_to_wait_for_is_over_at_once(self) -> None:
        assert wait().is_over(missing_ok=False) is True

    def test_a_state_of_fail_on_fails_it_while_others_are_open(self) -> None:
        state = wait("1", "2", "3", fail_on=("REJECTED", "EXPIRED"))
        state.note("1", details("1", "EXPIRED"))
        state.note("2", details("2", "UNDELIVERED"))
        with pytest.raises(errors.RtiSmsDeliveryError) as caught:
            state.is_over(missing_ok=True)
        assert str(caught.value) == "1 of 3 submissions reached a state of fail_on: 1 EXPIRED"
        assert caught.value.subject == "1 EXPIRED"

    def test_a_finished_record_fails_it_too(self) -> None:
        state = wait("1", fail_on=("REJECTED",), finished=(record("1", "REJECTED"),))
        with pytest.raises(errors.RtiSmsDeliveryError):
            state.is_over(missing_ok=True)

    def test_an_unknown_submission_fails_it_unless_that_is_accepted(self) -> None:
        state = wait("1", "2", "3")
        state.note("2", MISSING)
        state.note("3", errors.RtiSmsNotFoundError("HTTP 404", status=404))
        assert state.is_over(missing_ok=True) is False
        with pytest.raises(
            errors.RtiSmsNotFoundError, match=r"^2 of 3 submissions are unknown .*\(HTTP 404\): 2, 3\."
        ) as caught:
            state.is_over(missing_ok=False)
        assert (caught.value.subject, caught.value.status) == ("2, 3", 404)

    @pytest.mark.parametrize("outcome", [details("1", "PENDING"), details("1"), LATER])
    def test_a_submission_that_was_unknown_once_is_not_unknown_for_ever(self, outcome: Any) -> None:
        state = wait("1")
        state.note("1", MISSING)
        state.note("1", outcome)
        state.is_over(missing_ok=False)


class TestErrors:
    def test_a_transient_error_leaves_the_submission_open(self) -> None:
        state = wait("1")
        assert state.last_error is None
        state.note("1", LATER)
        assert state.open_ids == ["1"]
        assert state.last_error is LATER
        assert state.is_over(missing_ok=False) is False

    @pytest.mark.parametrize(
        "error", [errors.RtiSmsForbiddenError("403"), errors.RtiSmsAuthenticationError("401"), errors.RtiSmsError("?")]
    )
    def test_another_error_ends_the_wait(self, error: errors.RtiSmsError) -> None:
        state = wait("1")
        with pytest.raises(type(error)) as caught:
            state.note("1", error)
        assert caught.value is error


class TestWords:
    def test_progress_counts_what_is_final_and_what_is_open(self) -> None:
        state = wait(*"123456789")
        state.note("1", details("1"))
        for one in "234":
            state.note(one, details(one, "PENDING"))
        state.note("5", MISSING)
        state.note("6", details("6", None))
        for one in "67":
            state.note(one, details(one, "SENT"))
        assert state.progress() == (
            "1 of 9 submissions are final (1 DELIVERED); open: 3 PENDING, 2 SENT, 2 not fetched yet, 1 not found yet"
        )
        state.note("6", details("6", None))
        assert "1 no status" in state.progress()

    def test_progress_of_a_wait_that_is_over(self) -> None:
        state = wait("1", "2", "3", finished=(record("1"), record("2", "EXPIRED"), record("3")))
        assert state.progress() == "3 of 3 submissions are final (2 DELIVERED, 1 EXPIRED)"

    def test_a_timeout_names_what_is_open_and_the_last_error(self) -> None:
        state = wait("1", "2")
        assert state.timeout_message() == "Timed out: 0 of 2 submissions are final; open: 2 not fetched yet (1, 2)."
        state.note("1", LATER)
        assert state.timeout_message().endswith("(1, 2). The last error was: HTTP 503")


class TestCheckRecords:
    @pytest.mark.parametrize("change", [{"submission_id": 7}, {"submission_id": None}, {"status": 7}])
    def test_a_field_of_another_type_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"'records\[0\]' has a field of another type"):
            check_records([{**record("1"), **change}])


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


RECORDS = [SmsDetails("1", "DELIVERED").to_record()]


@pytest.mark.parametrize(
    ("event", "expects"),
    [
        (WaitEvent("finished", found={"records": RECORDS}), "records"),
        (WaitEvent("finished", found={"records": [], "submission_ids": ["1", "2"]}), "records"),
        (WaitEvent("finished", found={"balance": "457.00"}), "balance"),
        (WaitEvent("failed", "the account was closed"), "records"),
        (WaitEvent("timeout", "2 are open"), "balance"),
        (WaitEvent("timeout", "2 are open", {"records": RECORDS}, "execution_timeout"), "records"),
        (WaitEvent("failed", "KeyError", cause="crash"), "records"),
    ],
)
def test_what_is_built_is_read_again(event: WaitEvent, expects: str) -> None:
    payload = json.loads(json.dumps(event.to_payload()))
    assert payload["version"] == VERSION
    assert parse_trigger_event(payload, expects) == event


def test_the_payload_has_the_form_that_other_releases_read() -> None:
    assert WaitEvent("finished", found={"balance": "1"}).to_payload() == {
        "version": 1,
        "outcome": "finished",
        "balance": "1",
    }
    assert WaitEvent("failed", "why").to_payload() == {"version": 1, "outcome": "failed", "message": "why"}


def test_an_event_without_a_version_is_read() -> None:
    assert parse_trigger_event({"outcome": "finished", "balance": "1"}, "balance").found == {"balance": "1"}


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (None, "it is None"),
        ("finished", "it is a str of 8 characters"),
        ({}, "it is a value of type dict"),
        ({"version": 2, "outcome": "failed", "message": "why"}, "version 2"),
        ({"version": 0, "outcome": "finished", "records": []}, "version 0"),
        ({"version": 1, "outcome": "finished"}, "it is a value of type dict"),
        ({"version": 1, "outcome": "finished", "balance": "1"}, "it is a value of type dict"),
        ({"version": 1, "outcome": "failed"}, "it is a value of type dict"),
        ({"version": 1, "outcome": "failed", "message": 7}, "it is a value of type dict"),
        ({"version": 1, "outcome": "failed", "message": "why", "cause": "fire"}, "'cause' is a str of 4 characters"),
        ({"version": 1, "outcome": "failed", "message": "why", "cause": ["crash"]}, "'cause' is a value of type list"),
        ({"version": 1, "outcome": "another", "message": "why"}, "it is a value of type dict"),
        ({"version": 1, "outcome": "finished", "records": None}, "'records' is not a list"),
        ({"version": 1, "outcome": "finished", "records": [{}]}, "'records[0]' lacks fields of a record"),
        ({"version": 1, "outcome": "finished", "records": [], "balance": 7}, "'balance' is not a string"),
        (
            {"version": 1, "outcome": "finished", "records": [], "submission_ids": "12"},
            "'submission_ids' is not a list of strings",
        ),
        (
            {"version": 1, "outcome": "finished", "records": [], "submission_ids": ["1", 2]},
            "'submission_ids' is not a list of strings",
        ),
    ],
)
def test_another_form_is_refused_with_advice(payload: Any, problem: str) -> None:
    with pytest.raises(UnknownEventError) as caught:
        parse_trigger_event(payload, "records")
    assert f"({problem})" in str(caught.value)
    assert "Install the same version of airflow-provider-rtisms on the workers and on the triggerer" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("started", "timeout", "execution_end", "limit"),
    [
        (1000.0, 100, None, WaitLimit(100, 1095.0, is_execution_timeout=False)),
        (980.0, 100, None, WaitLimit(100, 1075.0, is_execution_timeout=False)),
        (1000.0, 100, 1100.1, WaitLimit(100, 1095.0, is_execution_timeout=False)),
        # Both at once: in mode="poke", the alarm of the execution_timeout comes before the poll that looks at the time.
        (1000.0, 100, 1100.0, WaitLimit(100.0, 1095.0, is_execution_timeout=True)),
        (1000.0, 604_800, 1020.0, WaitLimit(20.0, 1018.0, is_execution_timeout=True)),
        # The wait began after a send that took long.
        (1000.0, 30, 1010.0, WaitLimit(10.0, 1009.0, is_execution_timeout=True)),
        (990.0, 604_800, 995.0, WaitLimit(-5.0, -5.0 + 1000.0 + 0.5, is_execution_timeout=True)),
    ],
)
def test_the_first_end_limits_a_wait(
    started: float, timeout: float, execution_end: float | None, limit: WaitLimit
) -> None:
    assert limit_wait(1000.0, started, timeout, execution_end) == limit


@pytest.mark.parametrize("value", [0, -1, 0.0, 1.5, -0.5, True, "2", float("nan"), [], 4])
def test_a_number_of_deliveries_that_makes_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(RtiSmsInputError, match=r"^min_delivered is "):
        make_quota(value, 3)


@pytest.mark.parametrize(
    ("min_delivered", "total", "needed"),
    [(3, 3, 3), (0.95, 20, 19), (0.95, 21, 20), (0.5, 3, 2), (1.0, 7, 7), (0.1, 1, 1), (0.7, 10, 7), (0.95, 0, 0)],
)
def test_a_share_is_rounded_up(min_delivered: float, total: int, needed: int) -> None:
    assert make_quota(min_delivered, total) == Quota(needed, total)
