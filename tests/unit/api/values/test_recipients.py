"""Phone numbers: which are taken, in which form, and that errors do not repeat them."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.recipients import Recipient, parse_recipients


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("+56900000000", ["+56900000000"]),
        ("+56 9 (0000) 00-00", ["+56900000000"]),
        ("+56\u00a09.0000-0000", ["+56900000000"]),
        (["+56900000001", "+56 900 000 001", "+56900000002"], ["+56900000001", "+56900000002"]),
        ('["+56900000001", "+56900000002"]', ["+56900000001", "+56900000002"]),
        ("['+56900000001']", ["+56900000001"]),
        (("+12345678",), ["+12345678"]),
        ({"+123456789012345": None}.keys(), ["+123456789012345"]),
    ],
)
def test_numbers_are_taken(value: Any, numbers: list[str]) -> None:
    assert [recipient.get_secret_value() for recipient in parse_recipients(value)] == numbers


@pytest.mark.parametrize(
    "number",
    [
        *(
            "",
            "56911111111",
            "+1234567",
            "+1234567890123456",
            "+56900000x00",
            "+٥٦٩٠٠٠٠٠٠٠٠",
            56911111111,
            None,
            b"+5690",
        ),
        *("+44 (0)20 7946 0000", "+44(0 )2079460000", "+56900000000 / 01", "+06900000000"),
    ],
)
def test_a_bad_number_is_refused_by_its_position(number: Any) -> None:
    with pytest.raises(RtiSmsInputError, match=r": recipients\[1\], recipients\[3\]\. ") as caught:
        parse_recipients(["+56900000000", number, "+56900000001", number])
    assert not number or str(number) not in str(caught.value)


@pytest.mark.parametrize("value", [[], "[]", "[broken", None, b"+56900000000", 1.5])
def test_what_is_no_list_of_numbers_is_refused(value: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="recipients"):
        parse_recipients(value)


def test_a_number_is_masked_to_its_last_three_digits() -> None:
    recipient = Recipient("+56900000123")
    assert [recipient.masked, str(recipient), f"{recipient:s}"] == ["***123"] * 3
    assert repr(recipient) == "Recipient('***123')"


def test_what_is_no_list_is_refused_with_an_example() -> None:
    with pytest.raises(RtiSmsInputError, match=r"^recipients is None: use a list"):
        parse_recipients(None)
    with pytest.raises(RtiSmsInputError, match=r'use JSON such as \["\+56900000000"\]\.$'):
        parse_recipients("[1")
