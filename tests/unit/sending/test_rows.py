"""Rows of a table: what becomes of them, and what the one error says about the bad ones."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.sending.message import Message
from airflow_provider_rtisms.sending.placeholders import PlaceholderText
from airflow_provider_rtisms.sending.preview import preview
from airflow_provider_rtisms.sending.rows import check_rows, rows_of_argument

NUMBER = "+56900000100"


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
    [(7, "7"), (Decimal(7), "7"), (UUID(int=7), str(UUID(int=7))), ("ñ 7", "ñ 7"), ("", None), (None, None)],
)
def test_references_are_text_whole_numbers_and_uuids(value: Any, reference: str | None) -> None:
    assert check(row(reference=value))[0].reference == reference


@pytest.mark.parametrize("messages", [json.dumps([row()]), str([row()]), [row()], row(), (one for one in [row()])])
def test_messages_come_in_many_forms(messages: Any) -> None:
    assert [one.reference for one in check_rows(rows_of_argument(messages))] == ["a"]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (row(recipient=""), "has no recipient"),
        (row(recipient=None), "has no recipient"),
        ({"text": "hola"}, "has no recipient"),
        (row(recipient="nobody"), "not a phone number"),
        (row(recipient=56900000100), "not a phone number"),
        (row(text=None), "has no text"),
        (row(text=""), "text is a str of 0 characters"),
        (row(text=5), "text is a value of type int"),
        (row(text="a" * 1000), "takes 7 parts in charset 1, more than max_parts=3"),
        (row(text="\N{PILE OF POO}"), "which charset 1 cannot hold"),
        (row(reference="first"), r"has the same reference as messages\[0\]"),
        (row(reference=True), "a value of type bool"),
        (row(reference=1.5), "a value of type float"),
        (row(reference="a\nb"), "not printable"),
        (row(reference="r" * 201), "at most 200"),
        (row(reference=f"order {NUMBER[1:]}"), "repeats its recipient"),
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
        assert text.columns == ["name", "amount"]

    @pytest.mark.parametrize("text", ["{", "}", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a{b}}", None, ""])
    def test_other_forms_are_refused(self, text: Any) -> None:
        with pytest.raises(RtiSmsInputError, match="text"):
            PlaceholderText(text)

    def test_a_placeholder_that_is_no_column_is_named(self) -> None:
        with pytest.raises(RtiSmsInputError, match=r"no columns: nmae\. The columns are: name, amount"):
            PlaceholderText("{nmae}").check_columns(["name", "amount"])

    @pytest.mark.parametrize(("value", "problem"), [(None, "null in name"), (b"x", "bytes in name")])
    def test_null_and_bytes_are_problems_of_the_row(self, value: Any, problem: str) -> None:
        filled, found = PlaceholderText("{name}").fill({"name": value})
        assert filled is None
        assert problem in str(found)


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

    def test_messages_and_a_single_text(self) -> None:
        assert preview(messages=[row(), row(reference="b")], samples=0)["messages"] == 2
        assert preview(text="{not a placeholder}")["samples"][0]["text"] == "{not a placeholder}"

    def test_bad_rows_are_named(self) -> None:
        with pytest.raises(RtiSmsInputError, match=r"row 2 has null in name, .*, row 3 gives a text that cannot"):
            preview(text="{name}", rows=[{"name": "a"}, {"name": None}, {"name": ""}])
