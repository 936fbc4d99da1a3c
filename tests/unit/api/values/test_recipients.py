"""Phone numbers: which are taken, in which form, and that errors do not repeat them."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.recipients import Recipient, parse_recipients

INVISIBLE = [
    *(0x00AD, 0x034F, 0x061C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)),
    *(*range(0xFE00, 0xFE10), 0xFEFF, 0xE0100),
]


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("+56900000000", ["+56900000000"]),
        ("+56 9 (0000) 00-00", ["+56900000000"]),
        ("+56\u00a09.0000-0000", ["+56900000000"]),
        ("\u202a+56 9\u00ad0000\u20110000\u202c", ["+56900000000"]),
        ("\ufeff\u2066\u200e+569\u200b0000\u2060000\ufe0f0\u2069\u200f", ["+56900000000"]),
        *((f"+569{chr(one)}00000000{chr(one)}", ["+56900000000"]) for one in INVISIBLE),
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
            *("", "56911111111", "+1234567", "+1234567890123456", "+56900000x00", "+٥٦٩٠٠٠٠٠٠٠٠", 56911111111),
            *(None, b"+5690"),
        ),
        *("+44 (\u200b0\u200e)20 7946 0000", "\u200b", "+56900000000\ufe0f/\u200b01"),
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
