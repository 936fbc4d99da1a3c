"""What responses mean, field by field: details of a submission, and the results of a send."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_rtisms.api.models import Operator, SendOutcome, SmsDetails, SmsStatus, Submission

ID = "4193366853543393"


def details(**fields: Any) -> SmsDetails:
    return SmsDetails.from_response(ID, fields)


class TestDetails:
    @pytest.mark.parametrize("fields", [{"id": ID}, {"timestamps": {}}, {"info": {}}, {"id": None}, {"info": None}])
    def test_one_known_field_is_enough(self, fields: dict[str, Any]) -> None:
        assert details(**fields) == SmsDetails(ID)

    @pytest.mark.parametrize("fields", [{}, {"error": "no such submission"}])
    def test_a_response_without_any_known_field_is_refused(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"^it has none of 'id', 'timestamps' and 'info'$"):
            details(**fields)

    @pytest.mark.parametrize("returned", [ID, int(ID), f"00{ID}"])
    def test_the_id_may_be_written_otherwise(self, returned: Any) -> None:
        assert details(id=returned).submission_id == ID
        assert SmsDetails.from_response(f"0{ID}", {"id": returned}).submission_id == f"0{ID}"

    @pytest.mark.parametrize("returned", ["1", ID + "0", ID[:-1], "", "0", "X" + ID, f"X0{ID}"])
    def test_another_submission_is_refused(self, returned: str) -> None:
        with pytest.raises(ValueError, match=r"^it is about another submission$"):
            details(id=returned)

    @pytest.mark.parametrize(
        ("fields", "what"),
        [
            ({"id": []}, "id is a JSON array where a string was expected"),
            ({"id": True}, "id is a JSON boolean where a string was expected"),
            ({"timestamps": [1]}, "timestamps is a JSON array where an object was expected"),
            ({"info": 7}, "info is a JSON number where an object was expected"),
            (
                {"timestamps": {"registered": True}},
                "timestamps.registered is a JSON boolean where a number was expected",
            ),
            ({"timestamps": {"sent": "x"}}, "timestamps.sent is a JSON string where a number was expected"),
            ({"timestamps": {"done": -1}}, "timestamps.done is not a time in seconds since 1970"),
            ({"timestamps": {"done": 1e14}}, "timestamps.done is not a time in seconds since 1970"),
            *(
                ({"info": info}, f"info.{what}")
                for info, what in (
                    ({"status": "SENT"}, "status is a JSON string where an object was expected"),
                    ({"operator": 1.5}, "operator is a JSON number where an object was expected"),
                    ({"status": {"status": {}}}, "status.status is a JSON object where a string was expected"),
                    ({"status": {"status": "a b"}}, "status.status is not one word of letters, digits, '_' and '-'"),
                    ({"status": {"code": []}}, "status.code is a JSON array where a string was expected"),
                    ({"cost": []}, "cost is a JSON array where a number was expected"),
                    ({"cost": float("nan")}, "cost is a JSON number where a number was expected"),
                    ({"operator": {"id": []}}, "operator.id is a JSON array where a string was expected"),
                    ({"operator": {"name": {}}}, "operator.name is a JSON object where a string was expected"),
                    ({"operator": {"mcc": 1.5}}, "operator.mcc is a JSON number where a string was expected"),
                    ({"operator": {"mnc": False}}, "operator.mnc is a JSON boolean where a string was expected"),
                )
            ),
        ],
    )
    def test_a_field_of_another_type_is_named(self, fields: dict[str, Any], what: str) -> None:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            details(**fields)
        assert str(caught.value) == what

    @pytest.mark.parametrize(
        ("value", "cost"),
        [
            *((1, 1), (1.5, 1.5), ("2", 2), ("2.5", 2.5), (0, 0), (None, None), (-3, -3)),
            *((10**15 - 1, 10**15 - 1), (-(10**15) + 1, -(10**15) + 1)),
        ],
    )
    def test_costs(self, value: Any, cost: Any) -> None:
        parsed = details(info={"cost": value}).cost
        assert parsed == cost
        assert type(parsed) is type(cost)

    @pytest.mark.parametrize("value", [10**15, -(10**15), 1e15, "1e3", "", "1000000000000000", float("inf"), True])
    def test_numbers_that_are_none_or_too_large_are_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"^info\.cost is a JSON \w+ where a number was expected$"):
            details(info={"cost": value})

    @pytest.mark.parametrize(
        ("value", "moment"),
        [
            (1600351683, datetime(2020, 9, 17, 14, 8, 3, tzinfo=UTC)),
            (1600351683.9, datetime(2020, 9, 17, 14, 8, 3, tzinfo=UTC)),
            ("1600351683", datetime(2020, 9, 17, 14, 8, 3, tzinfo=UTC)),
            (1, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
            (0.5, datetime(1970, 1, 1, tzinfo=UTC)),
            (0, None),
            (None, None),
            ("0", None),
        ],
    )
    def test_moments(self, value: Any, moment: datetime | None) -> None:
        parsed = details(timestamps={"registered": value, "sent": value, "done": value})
        assert (parsed.registered_at, parsed.sent_at, parsed.done_at) == (moment, moment, moment)

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            *(("Entel Pcs", "Entel Pcs"), ("Telefónica", "Telefónica"), (730, "730"), ("a\x00b", "a\ufffdb")),
            *(("é\x00", "é\ufffd"), ("\ud800", "?"), ("\x1b[2J", r"\x1b[2J"), ("a\x07", r"a\x07")),
            *(("\x9b31m", r"\x9b31m"), ("\x7f", r"\x7f"), ("a\r\n\tb", r"a\r\n\tb")),
            *(("a\u202eb\u2066", r"a\u202eb\u2066"), ("\u200e\u200b\ufeff", r"\u200e\u200b\ufeff")),
            *(("\u2028", r"\u2028"), ("\xad", r"\xad"), ("\U000e0041", r"\U000e0041")),
            *(("\ud800\x1b", r"?\x1b"), ("Entel 📶 č", "Entel 📶 č"), ("", ""), (None, None)),
        ],
    )
    def test_names(self, value: Any, text: str | None) -> None:
        network = details(info={"operator": dict.fromkeys(("id", "name", "mcc", "mnc"), value)}).operator
        assert network == Operator(text, text, text, text)

    def test_a_known_network_is_not_taken_for_one_that_only_compares_equal(self) -> None:
        assert details(info={"operator": {"id": 1}}).operator == Operator("1")
        with pytest.raises(ValueError, match="a JSON boolean"):
            details(info={"operator": {"id": True}})

    def test_a_status_is_a_word(self) -> None:
        for status in (*SmsStatus, "NEW", "a", "A_b-9", "x" * 40):
            assert details(info={"status": {"status": status, "code": 1}}).status == status
        for status in ("", "9A", "_a", "x" * 41, "SENT ", "é", "a.b"):
            with pytest.raises(ValueError, match="not one word"):
                details(info={"status": {"status": status}})


def test_the_documented_example_becomes_a_record_and_comes_back_from_it() -> None:
    operator = {"id": "188", "name": "Entel Pcs", "mcc": "730", "mnc": "01"}
    one = details(
        id=ID,
        timestamps={"registered": 1600351683, "sent": 1600351694, "done": 1600355610},
        info={"status": {"code": "1", "status": "DELIVERED"}, "cost": 1, "operator": operator},
    )
    assert SmsDetails.from_record(one.to_record()) == one
    assert one.to_record() == {
        "submission_id": ID,
        "status": "DELIVERED",
        "status_code": "1",
        "is_final": True,
        "registered_at": "2020-09-17T14:08:03+00:00",
        "sent_at": "2020-09-17T14:08:14+00:00",
        "done_at": "2020-09-17T15:13:30+00:00",
        "cost": 1,
        **{f"operator_{name}": value for name, value in operator.items()},
    }


@pytest.mark.parametrize(
    ("status", "is_done", "is_final"),
    [
        *(("PENDING", False, False), ("PENDING", True, False), ("SENT", True, False)),
        *(("DELIVERED", False, True), ("REJECTED", False, True), ("UNDELIVERED", False, True)),
        *(("EXPIRED", False, True), ("UNKNOWN", False, False), ("UNKNOWN", True, True), (None, True, True)),
        (None, False, False),
    ],
)
def test_what_is_final(status: str | None, is_done: bool, is_final: bool) -> None:
    one = SmsDetails(ID, status, done_at=datetime.now(UTC) if is_done else None)
    assert one.is_final is is_final
    assert one.to_record()["is_final"] is is_final


class TestSubmission:
    @pytest.mark.parametrize(
        ("response", "record"),
        [
            ({"status": "submitted", "submissionId": "42"}, ("submitted", "submitted", "42")),
            ({"status": "submitted", "submissionId": 42}, ("submitted", "submitted", "42")),
            ({"status": "queued", "submissionId": "42"}, ("submitted", "queued", "42")),
            ({"status": "unknown_error", "submissionId": "9" * 100}, ("submitted", "unknown_error", "9" * 100)),
            ({"status": "account_no_balance"}, ("refused", "account_no_balance", None)),
            ({"status": "unknown_error", "submissionId": None}, ("refused", "unknown_error", None)),
            ({"status": "queued"}, ("uncertain", "queued", None)),
        ],
    )
    def test_an_id_means_submitted_and_a_documented_status_refused(
        self, response: dict[str, Any], record: tuple[str, str, str | None]
    ) -> None:
        submission = Submission.from_response(response)
        assert tuple(submission.to_record().values()) == record
        assert submission.is_submitted is (record[0] == "submitted")
        assert submission.is_uncertain is (record[0] == "uncertain")
        assert Submission.from_record(submission.to_record()) == submission

    @pytest.mark.parametrize(
        ("response", "what"),
        [
            ([], "submission is a JSON array where an object was expected"),
            (None, "submission is a JSON null where an object was expected"),
            ({}, "a submission has no 'status'"),
            ({"submissionId": "42"}, "a submission has no 'status'"),
            ({"status": 1.5}, "status is a JSON number where a string was expected"),
            ({"status": "a b"}, "status is not one word of letters, digits, '_' and '-'"),
            ({"status": "submitted"}, "a submission is 'submitted' but has no 'submissionId'"),
            ({"status": "queued", "submissionId": []}, "submissionId is a JSON array where a string was expected"),
            ({"status": "queued", "submissionId": ""}, "a 'submissionId' is not a string of digits"),
            ({"status": "queued", "submissionId": "4a"}, "a 'submissionId' is not a string of digits"),
            ({"status": "queued", "submissionId": "9" * 101}, "a 'submissionId' is not a string of digits"),
        ],
    )
    def test_anything_else_is_refused(self, response: Any, what: str) -> None:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            Submission.from_response(response)
        assert str(caught.value) == what

    @pytest.mark.parametrize("missing", ["outcome", "status", "submission_id"])
    def test_a_record_without_a_field_is_refused(self, missing: str) -> None:
        record = Submission(SendOutcome.NOT_SENT).to_record()
        del record[missing]
        with pytest.raises(ValueError, match=f"^a record of a submission has no '{missing}'$"):
            Submission.from_record(record)
