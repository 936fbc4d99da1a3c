"""Rows of a table: what becomes of them, and what the one error says about the bad ones."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.sending.messages import Message, PlaceholderText, check_rows, preview, rows_of_argument

NUMBER = "+56900000100"


class Name(str, Enum):  # noqa: UP042 - str() of a StrEnum gives the value anyway
    """A column of an ORM may hold members of an enum."""

    ANA = "Ana"


def row(**changes: Any) -> dict[str, Any]:
    return {"recipient": NUMBER, "text": "hola", "reference": "a", **changes}


def check(*rows: Any, **limits: Any) -> list[Message]:
    return check_rows(rows_of_argument(list(rows)), **limits)


def test_a_number_may_stand_there_twice_with_different_references() -> None:
    messages = check(row(), row(reference="b", text="chao"), row(recipient="+56 900 000 101", reference=None))
    assert [(one.recipient.get_secret_value(), one.text.characters, one.reference) for one in messages] == [
        (NUMBER, "hola", "a"),
        (NUMBER, "chao", "b"),
        ("+56900000101", "hola", None),
    ]


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        (7, "7"),
        (Decimal(7), "7"),
        (Decimal("7.00"), "7"),
        (Decimal("7E+3"), "7000"),
        ("0000100", "0000100"),
        (UUID(int=7), str(UUID(int=7))),
        ("ñ 7", "ñ 7"),
        ("0a0b0c0d-0e1f-0a0b-8c0d-1e2f3a4b5c6d", "0a0b0c0d-0e1f-0a0b-8c0d-1e2f3a4b5c6d"),
        ("", None),
        (None, None),
    ],
)
def test_references_are_text_whole_numbers_and_uuids(value: Any, reference: str | None) -> None:
    """Digits between which letters stand are no number, as in a UUID."""
    assert check(row(reference=value))[0].reference == reference


@pytest.mark.parametrize("messages", [json.dumps([row()]), str([row()]), [row()], row(), (one for one in [row()])])
def test_messages_come_in_many_forms(messages: Any) -> None:
    assert [one.reference for one in check_rows(rows_of_argument(messages))] == ["a"]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        *((row(recipient=value), "has no recipient") for value in ("", None)),
        ({"text": "hola"}, "has no recipient"),
        *((row(recipient=value), "not a phone number") for value in ("nobody", 56900000100)),
        (row(text=None), "has no text"),
        (row(text=""), "text is a str of 0 characters"),
        (row(text="a" * 1000), "takes 7 parts in charset 1, more than max_parts=3"),
        (row(reference="first"), r"has the same reference as messages\[0\]"),
        (row(reference="a\nb"), "not printable"),
        (row(reference="r" * 201), "at most 200"),
        *((row(reference=value), f"a value of type {type(value).__name__}") for value in (True, 1.5, 10**5000, {})),
        *((row(reference=Decimal(value)), "a value of type Decimal") for value in ("1E+300000", "1E-300000", "NaN")),
        *(
            (row(reference=value), "repeats its recipient")
            for value in (
                *(f"order {NUMBER[1:]}", f"inv-{NUMBER[3:]}", "900-000 100", "９００.０００.１００/2"),
                *(900000100, Decimal("900000100.00")),
            )
        ),
        (row(recipient="+3545550123", reference="555-0123"), "repeats its recipient"),
        (row(refrence="b"), "has other keys"),
        ("hola", "where an object was expected"),
    ],
)
def test_a_bad_row_is_named_without_its_values(bad: Any, problem: str) -> None:
    with pytest.raises(RtiSmsInputError, match=rf"1 of 3 messages cannot be sent: messages\[1\] .*{problem}") as caught:
        check(row(reference="first"), bad, row(reference="last"), charset=1, max_parts=3)
    assert "900000100" not in str(caught.value)


def test_all_bad_rows_are_in_one_error() -> None:
    rows = [
        row(recipient="", text=None, reference="z"),
        row(),
        row(reference=None),
        row(reference=None),
        row(reference="c", text=""),
    ]
    with pytest.raises(RtiSmsInputError) as caught:
        check(*rows)
    assert str(caught.value) == (
        "3 of 5 messages cannot be sent: messages[0] has no recipient and has no text, messages[3] has the same "
        "recipient as messages[2]; give each of them a reference of its own, messages[4] has a text that cannot be "
        "sent (text is a str of 0 characters). Nothing was sent. Correct these rows."
    )


def test_no_rows_are_no_messages(caplog: pytest.LogCaptureFixture) -> None:
    assert check() == []
    assert "nothing to send" in caplog.text


def test_more_rows_than_allowed_are_counted() -> None:
    with pytest.raises(RtiSmsInputError, match="There are 4 messages, more than max_messages=2"):
        check(*(row(reference=number) for number in range(4)), max_messages=2)


class TestPlaceholders:
    def test_values_are_inserted_as_they_are(self) -> None:
        text = PlaceholderText("Hola {name}, {{{amount}}} {name}")
        filled, problem = text.fill({"name": "{amount} {{ x }}", "amount": Decimal("1.50")})
        assert filled is not None
        assert filled.get_secret_value() == "Hola {amount} {{ x }}, {1.50} {amount} {{ x }}"
        assert problem is None
        assert list(text.columns) == ["name", "amount"]

    @pytest.mark.parametrize("text", ["{", "}", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a{b}}", None, ""])
    def test_other_forms_are_refused(self, text: Any) -> None:
        with pytest.raises(RtiSmsInputError, match="text"):
            PlaceholderText(text)

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            ("0E-8", "0E-8"),
            (Name.ANA, "Ana"),
            (7, "7"),
            (Decimal("0E-8"), "0.00000000"),
            (Decimal("-0.00"), "0.00"),
            (Decimal("1E+3"), "1000"),
            (Decimal("12.50"), "12.50"),
            (Decimal("-1E-8"), "-0.00000001"),
            (Decimal("1" * 60 + ".5"), "1" * 60 + ".5"),
            (0.1, "0.1"),
            (-0.0, "0"),
            (1e22, "1" + "0" * 22),
            (1e-7, "0.0000001"),
            (5.0, "5"),
            (date(2026, 3, 1), "2026-03-01"),
            (time(10, 5), "10:05:00"),
            (datetime(2026, 3, 1, 10, tzinfo=UTC), "2026-03-01 10:00:00+00:00"),
            (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ],
    )
    def test_values_are_written_as_a_person_writes_them(self, value: Any, written: str) -> None:
        filled, problem = PlaceholderText("<{x}>").fill({"x": value})
        assert problem is None
        assert filled is not None
        assert filled.get_secret_value() == f"<{written}>"

    def test_numbers_of_numpy_are_numbers(self) -> None:
        numpy = pytest.importorskip("numpy")
        values = {"a": numpy.int64(7), "b": numpy.float32(0.1), "c": numpy.float64(1e22)}
        filled, _ = PlaceholderText("{a} {b} {c}").fill(values)
        assert filled is not None
        assert filled.get_secret_value() == "7 0.1 10000000000000000000000"
        for value in (numpy.bool_(True), numpy.float64("nan"), numpy.timedelta64(5, "D")):
            assert PlaceholderText("{a}").fill({"a": value})[0] is None

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (None, "null in name"),
            *((value, "bytes in name") for value in (b"x", memoryview(b"x"))),
            *((value, "a number in name that is not finite") for value in (float("nan"), float("-inf"))),
            *((Decimal(value), "a number in name that is not finite") for value in ("NaN", "sNaN")),
            *((Decimal(value), "too long to write out") for value in ("1E+300000", "1E-300000", "0E+999999999999")),
            pytest.param(10**5000, "or too long to write out", id="an int of 5001 digits"),
            (True, "a value of type bool in name; make it text"),
            *((value, f"a value of type {type(value).__name__} in name") for value in ({}, ["a"], ("a",), object())),
            *((timedelta(hours=hours), "a value of type timedelta in name") for hours in (-1, 1)),
        ],
    )
    def test_other_values_are_problems_of_the_row(self, value: Any, problem: str) -> None:
        filled, found = PlaceholderText("{name}").fill({"name": value})
        assert filled is None
        assert problem in str(found)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (
            '[{"recipient": "1", "text": "a", "text": "b"}]',
            "^An item of messages has the key 'text' more than once: ren",
        ),
        (
            "[{'recipient': '1', 'text': 'a', 'text': 'b'}]",
            "^An item of messages has the key 'text' more than once: ren",
        ),
        (f'[{{"{NUMBER}": "hola", "{NUMBER}": "chao"}}]', "has a key more than once"),
    ],
)
def test_a_key_that_stands_twice_is_refused_and_shown_if_it_is_no_number(messages: str, problem: str) -> None:
    with pytest.raises(RtiSmsInputError, match=problem):
        check_rows(rows_of_argument(messages))


class TestPreview:
    def test_it_says_what_a_send_would_do(self) -> None:
        found = preview(
            text="Hola {name}", rows=[{"name": "Ana"}, {"name": "Łukasz ő"}, {"name": "x" * 200}], samples=2
        )
        assert found == {
            "messages": 3,
            "parts_total": 4,
            "max_parts": 2,
            "charsets": {1: 2, 6: 1},
            "forces_ucs2": {"Ł (U+0141)": 1, "ő (U+0151)": 1},
            "samples": [
                {"text": "Hola Ana", "charset": 1, "characters": 8, "parts": 1, "forces_ucs2": []},
                {
                    "text": "Hola Łukasz ő",
                    "charset": 6,
                    "characters": 13,
                    "parts": 1,
                    "forces_ucs2": ["Ł (U+0141)", "ő (U+0151)"],
                },
            ],
        }

    def test_it_says_what_is_completed_and_replaced(self) -> None:
        rows = [row(recipient="512 345 678", text="“" + "a" * 70), row(recipient="+48512345679", reference="b")]
        found = preview(messages=rows, default_region="PL", smart_encoding=True, samples=0)
        assert {name: found[name] for name in ("completed", "parts_saved", "replaced", "forces_ucs2", "samples")} == {
            "samples": [], "completed": 1, "parts_saved": 1, "replaced": {"“ (U+201C)": 1}, "forces_ucs2": {}
        }  # fmt: skip

    def test_bad_rows_are_named(self) -> None:
        with pytest.raises(RtiSmsInputError, match=r"row 2 has null in name, .*, row 3 gives a text that cannot"):
            preview(text="{name}", rows=[{"name": "a"}, {"name": None}, {"name": ""}])
