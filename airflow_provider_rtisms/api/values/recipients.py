"""
Phone numbers as people and templates give them, and how they may be shown.

Sources: ITU-T E.164; docs/vendor-api.md, "Send SMS". Only the form is checked, since only its network knows
whether a number exists. The metadata of the phonenumbers library (8 MB, released every few weeks) would add weight, and
would refuse numbers that were assigned after its release.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.lists import as_iterable, name_some
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
    """
    A phone number in international form, ``+`` and 8 to 15 digits. Its text and its repr show the last three digits.

    :param value: the checked number.
    """

    __slots__ = ()

    @property
    def masked(self) -> str:
        """The number as logs and errors may show it: the last three digits."""
        return f"***{self.get_secret_value()[-3:]}"

    def __str__(self) -> str:
        """Return the masked number."""
        return self.masked

    def __format__(self, format_spec: str) -> str:
        """Return the masked number."""
        return format(self.masked, format_spec)

    def __repr__(self) -> str:
        """Return the type and the masked number."""
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
    recipients, bad = _parse(value)
    if bad:
        raise RtiSmsInputError(
            f"Not a phone number in international form: {name_some(bad)}. Use + and 8 to 15 digits, such as "
            "+56900000000, without a trunk zero in parentheses and without a slash. Nothing was sent."
        )
    if not recipients:
        raise RtiSmsInputError("recipients is empty: give one phone number or more.")
    return list(dict.fromkeys(recipients))


def parse_recipient(value: Any) -> Recipient | None:
    """
    Return a phone number, or None where the value is no number in international form.

    :param value: as for :func:`parse_recipients`.
    """
    number = _normalize(reveal(value))
    return None if number is None else Recipient(number)


def _parse(value: Any) -> tuple[list[Recipient], list[str]]:
    """Return the numbers, and the positions of other items. It does not raise, since a traceback may show variables."""
    recipients, bad = [], []
    for position, item in enumerate(as_iterable(reveal(value), "recipients", "+56900000000")):
        recipient = parse_recipient(item)
        if recipient is None:
            bad.append(f"recipients[{position}]")
        else:
            recipients.append(recipient)
    return recipients, bad


def _normalize(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    visible = _INVISIBLE.sub("", value)
    if _TRUNK_PREFIX.search(visible):
        return None
    number = _SEPARATORS.sub("", visible)
    return number if _E164.fullmatch(number) else None
