"""
Phone numbers as people and templates give them, and how they may be shown. Source: ITU-T E.164; API page, "Send SMS".

The shape alone is checked. Whether a number exists only its network knows, so the metadata of the phonenumbers library
(8 MB, released every few weeks) would add weight and refuse numbers that were allotted after its release.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.lists import as_list
from airflow_provider_rtisms.api.values.secret import Secret

#: How many bad positions an error message names.
NAMED_IN_MESSAGE = 10

_SEPARATORS = re.compile(r"[\s()./\-\u2010-\u2015]+")
_E164 = re.compile(r"\+[0-9]{8,15}")


def parse_recipients(value: Any) -> list[Secret]:
    """
    Return the phone numbers of an operator's argument, each once, in their order.

    :param value: a number, an iterable of numbers, or such a list as JSON or as Python writes it, which is what a
        template gives. Spaces, hyphens, dots, slashes and parentheses are dropped.
    :return: ``+`` and 8 to 15 digits each, which their reprs do not show.
    :raises RtiSmsInputError: one is anything else; names the positions, never the values.
    """
    numbers = [_normalize(item) for item in as_list(value, "recipients", "+56900000000")]
    if not numbers:
        raise RtiSmsInputError("recipients is empty: give one phone number or more.")
    bad = [f"recipients[{position}]" for position, number in enumerate(numbers) if number is None]
    if bad:
        more = f" and {len(bad) - NAMED_IN_MESSAGE} more" if len(bad) > NAMED_IN_MESSAGE else ""
        raise RtiSmsInputError(
            f"{', '.join(bad[:NAMED_IN_MESSAGE])}{more}: no phone number in international form, which is + and 8 to 15 "
            "digits. Nothing was sent."
        )
    return list(dict.fromkeys(number for number in numbers if number is not None))


def masked(number: str) -> str:
    """Return a phone number as logs and errors may show it: the last three digits."""
    return f"***{number[-3:]}"


def _normalize(value: Any) -> Secret | None:
    if not isinstance(value, str):
        return None
    number = _SEPARATORS.sub("", value)
    return Secret(number) if _E164.fullmatch(number) else None
