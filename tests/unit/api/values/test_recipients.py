"""Phone numbers: which are taken, in which form, and that errors do not repeat them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.recipients import Recipient, check_region, parse_recipient, parse_recipients

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
        *("", "56911111111", "+1234567", "+1234567890123456", "+56900000x00", "+٥٦٩٠٠٠٠٠٠٠٠", 56911111111),
        *(None, b"+5690"),
        *("+44 (\u200b0\u200e)20 7946 0000", "\u200b", "+56900000000\ufe0f/\u200b01"),
        *("+44 (0)20 7946 0000", "+44(0 )2079460000", "+56900000000 / 01", "+06900000000"),
    ],
)
def test_a_bad_number_is_refused_by_its_position(number: Any) -> None:
    with pytest.raises(RtiSmsInputError, match=r": recipients\[1\], recipients\[3\]\. ") as caught:
        parse_recipients(["+56900000000", number, "+56900000001", number])
    assert not number or str(number) not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        *((value, "recipients") for value in ([], "[]", b"+56900000000", 1.5)),
        (None, r"^recipients is None: use a list"),
        ("[1", r'use JSON such as \["\+56900000000"\]\.$'),
    ],
)
def test_what_is_no_list_of_numbers_is_refused(value: Any, what: str) -> None:
    with pytest.raises(RtiSmsInputError, match=what):
        parse_recipients(value)


def test_a_number_is_masked_to_its_last_three_digits() -> None:
    recipient = Recipient("+56900000123")
    assert [recipient.masked, str(recipient), f"{recipient:s}"] == ["***123"] * 3
    assert repr(recipient) == "Recipient('***123')"


#: What the numbering plans say (Subtel, UKE, CNMC, NANPA, IFT, ENACOM, BNetzA, Anatel): the number in E.164, or None
#: where it is not certain that it is that of a mobile phone.
NATIONAL = {
    "CL": {
        **{"9 8765 4321": "+56987654321", "(9) 8765-4321": "+56987654321", "56987654321": "+56987654321"},
        **{"2 2123 4567": None, "322123456": None, "87654321": None, "9876543210": None, "09 8765 4321": None},
    },
    "PL": {
        **{"512 345 678": "+48512345678", "48512345678": "+48512345678", "0048 512 345 678": "+48512345678"},
        **{"22 123 45 67": None, "0512345678": None, "51234567": None, "801 234 567": None},
    },
    "ES": {
        **{"612 34 56 78": "+34612345678", "0034612345678": "+34612345678", "712345678": "+34712345678"},
        **{"912345678": None, "900 123 456": None, "61234567": None, "803456789": None},
    },
    "US": {
        **{"(201) 555-0123": "+12015550123", "1 201 555 0123": "+12015550123", "4165550123": "+14165550123"},
        **{"800 234 5678": None, "555-0123": None, "1234567890": None, "900 234 5678": None},
    },
    "MX": {
        **{"55 1234 5678": "+525512345678", "525512345678": "+525512345678", "222 123 4567": "+522221234567"},
        **{"1234 5678": None, "800 123 4567": None, "044 55 1234 5678": None, "5215512345678": None},
    },
    "AR": {
        **{"11 15-2345-6789": "+5491123456789", "011 15 2345 6789": "+5491123456789"},
        **{"9 11 2345 6789": "+5491123456789", "0341 15 612-3456": "+5493416123456"},
        **{"11 2345-6789": None, "15 2345 6789": None, "0800 222 3333": None},
    },
    "DE": {
        **{"0151 23456789": "+4915123456789", "0049 151 23456789": "+4915123456789", "0171 1234567": "+491711234567"},
        **{"030 123456": None, "4915123456789": None, "0800 1234567": None, "0151 2345": None, "110": None},
    },
    "BR": {
        **{"(11) 91234-5678": "+5511912345678", "011 91234-5678": "+5511912345678", "5511912345678": "+5511912345678"},
        **{"51 91234-5678": "+5551912345678", "11 2345-6789": None, "91234-5678": None, "11 8123-4567": None},
    },
    # 3907066334 may be 390 706 6334 or +39 070 66334.
    "IT": {"312 345 6789": "+393123456789", "3907066334": None, "06 6982": None},
}


@pytest.mark.parametrize(
    ("region", "number", "expected"),
    [(region, number, expected) for region, numbers in NATIONAL.items() for number, expected in numbers.items()],
)
def test_only_certain_mobile_numbers_are_completed(region: str, number: str, expected: str | None) -> None:
    completed = parse_recipient(number, region)
    assert (completed and completed.get_secret_value()) == expected
    assert completed is None or completed.is_completed
    assert parse_recipient(number) is None


@pytest.mark.parametrize("region", NATIONAL)
def test_a_number_with_plus_is_read_as_without_a_region(region: str) -> None:
    """Its form alone is checked: this is no number of Chile's plan, and the first is a fixed line."""
    for number in ("+34 912345678", "+56 900 000 000"):
        found = parse_recipient(number, region)
        assert found == parse_recipient(number)
        assert found is not None
        assert not found.is_completed


@pytest.mark.parametrize(
    "number",
    [
        *("512345678.0", "5.12345678E+08", "512345678,0", "512 345 678 ext. 5", "512345678x5", "512345678;ext=5"),
        *("512 345 678 / 513 345 678", "(0) 512 345 678", "٥١٢٣٤٥٦٧٨", "512-FLOWER", "", " ", "5", "5" * 300),
        *(512345678, 512345678.0, None, "tel:512345678", "*512345678#"),
    ],
)
def test_what_is_not_plainly_a_national_number_is_refused(number: Any) -> None:
    assert parse_recipient(number, "PL") is None


def test_recipients_of_a_region_are_distinct_in_e164() -> None:
    found = parse_recipients(["512 345 678", "+48512345678", "\u200b48 512-345-678"], "PL")
    assert [one.get_secret_value() for one in found] == ["+48512345678"]
    with pytest.raises(RtiSmsInputError, match=r"^Neither .* nor a mobile number of PL: recipients\[1\]\. ") as caught:
        parse_recipients(["512 345 678", "22 123 45 67"], "PL")
    assert "123" not in str(caught.value)


@pytest.mark.parametrize("region", ["XX", "UK", "CHL", "Chile", "", 56, ["CL"], "C\u0141"])
def test_a_region_is_two_letters_of_a_country(region: Any) -> None:
    assert check_region("cl") == "CL"
    with pytest.raises(RtiSmsInputError, match=r"^default_region is .* two letters .* such as CL\."):
        check_region(region)


def test_a_region_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    assert check_region(None) is None
    with pytest.raises(RtiSmsInputError, match=r"^default_region .*pip install 'airflow-provider-rtisms\[phones\]'"):
        check_region("CL")
