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


def noted(*outcomes: SmsDetails | errors.RtiSmsError, fail_on: tuple[str, ...] = ()) -> DeliveryWait:
    """Return a wait for the submissions 1, 2 and so on after a poll that found this."""
    ids = [str(number) for number in range(1, len(outcomes) + 1)]
    state = DeliveryWait(ids, fail_on)
    for submission_id, outcome in zip(ids, outcomes, strict=True):
        state.note(submission_id, outcome)
    return state


class TestOpen:
    @pytest.mark.parametrize(
        ("status", "is_done", "is_open"),
        [
            *((status, True, True) for status in ("PENDING", "SENT")),
            *((status, False, False) for status in ("DELIVERED", "REJECTED", "UNDELIVERED", "EXPIRED")),
            *((status, is_done, not is_done) for status in ("UNKNOWN", None) for is_done in (False, True)),
        ],
    )
    def test_a_submission_is_open_until_it_is_final(self, status: str | None, is_done: bool, is_open: bool) -> None:
        state = wait("1", "2")
        state.note("2", details("2", status, is_done=is_done))
        assert state.open_ids == (["1", "2"] if is_open else ["1"])
        assert [one["submission_id"] for one in state.records] == ([] if is_open else ["2"])
        state.note("2", LATER)
        assert state.open_ids == (["1", "2"] if is_open else ["1"]), "what is final stays final"

    def test_open_ids_and_records_keep_the_order_of_the_ids(self) -> None:
        state = wait("3", "1", "2", "4", finished=(record("3"), record("9")))
        state.note("2", details("2"))
        assert state.open_ids == ["1", "4"]
        state.restore([record("1", "EXPIRED")])
        assert [one["submission_id"] for one in state.records] == ["3", "1", "2"]


class TestIsOver:
    def test_it_is_over_when_every_submission_is_final(self) -> None:
        assert wait().is_over(missing_ok=False) is True
        assert noted(details("1"), LATER).is_over(missing_ok=False) is False
        assert noted(details("1"), details("2", "EXPIRED")).is_over(missing_ok=False) is True

    def test_a_state_of_fail_on_fails_it_while_others_are_open(self) -> None:
        outcomes = details("1", "EXPIRED"), details("2", "UNDELIVERED"), LATER
        with pytest.raises(
            errors.RtiSmsDeliveryError, match=r"^1 of 3 submissions .* 1 EXPIRED\. EXPIRED means"
        ) as caught:
            noted(*outcomes, fail_on=("REJECTED", "EXPIRED")).is_over(missing_ok=True)
        assert caught.value.subject == "1 EXPIRED"
        with pytest.raises(errors.RtiSmsDeliveryError):
            wait("1", fail_on=("REJECTED",), finished=(record("1", "REJECTED"),)).is_over(missing_ok=True)

    def test_an_unknown_submission_fails_it_unless_that_is_accepted(self) -> None:
        state = noted(LATER, MISSING, errors.RtiSmsNotFoundError("HTTP 404", status=404))
        assert state.is_over(missing_ok=True) is False
        with pytest.raises(errors.RtiSmsNotFoundError, match=r"^2 of 3 submissions are unknown .*: 2, 3\.") as caught:
            state.is_over(missing_ok=False)
        assert (caught.value.subject, caught.value.status) == ("2, 3", 404)

    @pytest.mark.parametrize("outcome", [details("1", "PENDING"), details("1"), LATER])
    def test_a_submission_that_was_unknown_once_is_not_unknown_for_ever(self, outcome: Any) -> None:
        state = noted(MISSING)
        state.note("1", outcome)
        state.is_over(missing_ok=False)

    @pytest.mark.parametrize(
        "error", [errors.RtiSmsForbiddenError("403"), errors.RtiSmsAuthenticationError("401"), errors.RtiSmsError("?")]
    )
    def test_an_error_that_does_not_pass_ends_the_wait(self, error: errors.RtiSmsError) -> None:
        with pytest.raises(type(error)) as caught:
            noted(error)
        assert caught.value is error


class TestWords:
    def test_progress_counts_what_is_final_and_what_is_open(self) -> None:
        pending, sent = details("0", "PENDING"), details("0", "SENT")
        state = noted(details("1"), pending, pending, pending, sent, sent, MISSING, details("8", None), LATER, LATER)
        assert state.progress() == (
            "1 of 10 submissions are final (1 DELIVERED); "
            "open: 3 PENDING, 2 SENT, 2 not fetched yet, 1 not found yet, 1 no status"
        )
        state = noted(details("1"), details("2", "EXPIRED"), details("3"))
        assert state.progress() == "3 of 3 submissions are final (2 DELIVERED, 1 EXPIRED)"

    def test_a_timeout_names_what_is_open_and_the_last_error(self) -> None:
        state = wait("1", "2")
        assert state.timeout_message() == "Timed out: 0 of 2 submissions are final; open: 2 not fetched yet (1, 2)."
        state.note("1", LATER)
        assert state.timeout_message().endswith("(1, 2). The last error was: HTTP 503")


@pytest.mark.parametrize("change", [{"submission_id": 7}, {"submission_id": None}, {"status": 7}])
def test_a_record_with_a_field_of_another_type_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'records\[0\]' has a field of another type"):
        check_records([{**record("1"), **change}])


OLD, NEW, NEWEST = (ApiSettings(client_id="me", client_secret=one) for one in ("old", "new", "newest"))


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


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class TestPollDeliveries:
    @staticmethod
    def poll(client: Client, wait: DeliveryWait, missing_until: float = 0.0) -> bool:
        return asyncio.run(poll_deliveries(client, wait, missing_until))  # type: ignore[arg-type]

    def test_each_open_submission_is_asked_for_once(self, caplog: pytest.LogCaptureFixture) -> None:
        state = wait("1", "2", "3", finished=(record("2"),))
        client = Client(outcomes={"1": details("1"), "3": details("3", "SENT")})
        assert self.poll(client, state) is False
        assert sorted(filter(None, client.polled)) == ["1", "3"]
        client.outcomes["3"] = details("3", "EXPIRED")
        assert self.poll(client, state) is True
        assert warnings(caplog) == []

    def test_a_transient_error_is_a_warning_of_the_poll_that_met_it(self, caplog: pytest.LogCaptureFixture) -> None:
        state, client = wait("1"), Client(outcomes={"1": LATER})
        assert self.poll(client, state) is False
        client.outcomes["1"] = details("1", "SENT")
        self.poll(client, state)
        assert warnings(caplog) == ["HTTP 503 The next poll will try again"]

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


@pytest.mark.parametrize(
    ("found", "result", "logged"),
    [
        (Decimal("9.99"), (False, Decimal("9.99")), "The balance is 9.99, below 10"),
        (Decimal("10.00"), (True, Decimal("10.00")), "The balance is 10.00, at least 10"),
        (Decimal("10.01"), (True, Decimal("10.01")), "The balance is 10.01, at least 10"),
        (LATER, (False, None), "HTTP 503 The next poll will try again"),
    ],
)
def test_a_balance_of_the_minimum_is_enough(
    found: Any, result: tuple[bool, Any], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client: Any = Client(outcomes=found)
    assert asyncio.run(poll_balance(client, Decimal(10))) == result
    assert caplog.messages == [logged]


RECORDS = [record("1")]


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        (WaitEvent("finished", found={"records": RECORDS}), {"outcome": "finished", "records": RECORDS}),
        (
            WaitEvent("finished", found={"records": [], "submission_ids": ["1", "2"]}),
            {"outcome": "finished", "records": [], "submission_ids": ["1", "2"]},
        ),
        (WaitEvent("finished", found={"balance": "457.00"}), {"outcome": "finished", "balance": "457.00"}),
        (WaitEvent("failed", "why"), {"outcome": "failed", "message": "why"}),
        (
            WaitEvent("timeout", "2 are open", {"records": RECORDS}, "execution_timeout"),
            {"outcome": "timeout", "message": "2 are open", "records": RECORDS, "cause": "execution_timeout"},
        ),
        (
            WaitEvent("failed", "KeyError", cause="crash"),
            {"outcome": "failed", "message": "KeyError", "cause": "crash"},
        ),
    ],
)
def test_an_event_has_the_form_that_other_releases_read(event: WaitEvent, payload: dict[str, Any]) -> None:
    expects = "balance" if "balance" in payload else "records"
    assert event.to_payload() == {"version": 1, **payload}
    assert parse_trigger_event(json.loads(json.dumps(event.to_payload())), expects) == event
    assert parse_trigger_event(payload, expects) == event, "older releases wrote no version"


FINISHED: dict[str, Any] = {"version": 1, "outcome": "finished"}
FAILED: dict[str, Any] = {"version": 1, "outcome": "failed", "message": "why"}


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (None, "it is None"),
        ("finished", "it is a str of 8 characters"),
        *((one, "it is a value of type dict") for one in ({}, FINISHED, {**FINISHED, "balance": "1"})),
        *(({**FAILED, **one}, "it is a value of type dict") for one in ({"message": 7}, {"outcome": "another"})),
        ({"version": 1, "outcome": "failed"}, "it is a value of type dict"),
        ({**FAILED, "version": 2}, "version 2"),
        ({**FINISHED, "version": 0, "records": []}, "version 0"),
        ({**FAILED, "cause": "fire"}, "'cause' is a str of 4 characters"),
        ({**FAILED, "cause": ["crash"]}, "'cause' is a value of type list"),
        ({**FINISHED, "records": None}, "'records' is not a list"),
        ({**FINISHED, "records": [{}]}, "'records[0]' lacks fields of a record"),
        ({**FINISHED, "records": [], "balance": 7}, "'balance' is not a string"),
        *(
            ({**FINISHED, "records": [], "submission_ids": ids}, "'submission_ids' is not a list of strings")
            for ids in ("12", ["1", 2])
        ),
    ],
)
def test_an_event_of_another_form_is_refused_with_advice(payload: Any, problem: str) -> None:
    with pytest.raises(UnknownEventError, match="Install the same version of airflow-provider-rtisms") as caught:
        parse_trigger_event(payload, "records")
    assert f"({problem})" in str(caught.value)


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
