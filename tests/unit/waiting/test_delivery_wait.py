"""The state of a wait for delivery: which submissions are open, and when the wait has failed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.waiting import DeliveryWait, check_records

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
