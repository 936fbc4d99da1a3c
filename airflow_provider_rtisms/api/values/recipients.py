"""
Phone numbers as people and templates give them, and how they may be shown.

Sources: ITU-T E.164; docs/vendor-api.md, "Send SMS". Only the form is checked, since only its network knows whether a
number exists.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.arguments import as_iterable, name_some
from airflow_provider_rtisms.api.values.secret import Secret, reveal

#: A trunk prefix in parentheses, as in ``+44 (0)20 7946 0000``, is dialled inside the country only.
_TRUNK_PREFIX = re.compile(r"\(\s*0\s*\)")
_SEPARATORS = re.compile(r"[\s().\-\u2010-\u2015]+")
#: Characters that contacts and web pages put into numbers and that nobody sees: soft hyphens, zero-width characters,
#: marks of the direction of writing (Unicode's default ignorables), and variation selectors.
_INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]"
)
_E164 = re.compile(r"\+[1-9][0-9]{7,14}")


class Recipient(Secret[str]):
    """A phone number in international form. Its text and its repr show the last three digits."""

    __slots__ = ()

    @property
    def masked(self) -> str:
        """The number as logs and errors may show it: the last three digits."""
        return f"***{self.get_secret_value()[-3:]}"

    def __str__(self) -> str:
        return self.masked

    def __format__(self, format_spec: str) -> str:
        return format(self.masked, format_spec)

    def __repr__(self) -> str:
        return f"Recipient('{self.masked}')"


def parse_recipients(value: Any) -> list[Recipient]:
    """
    Return the phone numbers of an operator's argument, each once, in their order.

    Spaces, hyphens, dots, parentheses and invisible characters are removed. A trunk zero in parentheses is refused,
    since numbers with and without it differ, and so is a slash, which people write between two numbers.

    :param value: a number; an iterable of numbers; or a list of numbers as JSON or as a Python literal, which a
        template renders. It may be wrapped in a Secret.
    :raises RtiSmsInputError: an item is anything else. The error names the positions, never the values.
    """
    items = [parse_recipient(item) for item in as_iterable(reveal(value), "recipients", "+56900000000")]
    bad = [f"recipients[{position}]" for position, recipient in enumerate(items) if recipient is None]
    if bad:
        raise RtiSmsInputError(
            f"Not a phone number in international form: {name_some(bad)}. Use + and 8 to 15 digits, such as "
            "+56900000000, without a trunk zero in parentheses and without a slash. Nothing was sent."
        )
    if not items:
        raise RtiSmsInputError("recipients is empty: give one phone number or more.")
    return list(dict.fromkeys(recipient for recipient in items if recipient is not None))


def parse_recipient(value: Any) -> Recipient | None:
    """Return a phone number, or None where the value is no number in international form."""
    value = reveal(value)
    visible = _INVISIBLE.sub("", value) if isinstance(value, str) else ""
    number = "" if _TRUNK_PREFIX.search(visible) else _SEPARATORS.sub("", visible)
    return Recipient(number) if _E164.fullmatch(number) else None
