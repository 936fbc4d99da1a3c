"""
Phone numbers as people and templates give them, and how they may be shown.

Sources: ITU-T E.164; docs/vendor-api.md, "Send SMS". Only the form of a number is checked, since only its network knows
whether it exists. A number without + is read by libphonenumber, where a region is given.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
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
#: How programs write a number that they have made a float.
_FLOAT = re.compile(r"[0-9]+\.0+")
#: How mobile numbers begin where libphonenumber does not tell them from fixed lines, but the numbering plan does.
#: Source: Subtel, Plan Tecnico Fundamental de Numeracion.
_MOBILE_PREFIXES = {"CL": "9"}


class Recipient(Secret[str]):
    """
    A phone number in international form. Its text and its repr show the last three digits.

    :param is_completed: whether the number was a national one, which the region has completed.
    """

    __slots__ = ("is_completed",)

    def __init__(self, value: str | Secret[str], is_completed: bool = False) -> None:
        super().__init__(value)
        self.is_completed = is_completed

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


def parse_region(value: Any) -> str | None:
    """Return a region's code in capital letters; None where it is none that libphonenumber (or its form) knows."""
    region = value.upper() if isinstance(value, str) and re.fullmatch("[A-Za-z]{2}", value) else None
    with suppress(ImportError):
        from phonenumbers import SUPPORTED_REGIONS

        return region if region in SUPPORTED_REGIONS else None
    return region


def check_region(value: Any) -> str | None:
    """
    Return the argument ``default_region``, ready for :func:`parse_recipient`.

    :raises RtiSmsInputError: it is no region, or the pip extra ``phones`` is not installed.
    """
    if value is None:
        return None
    region = parse_region(value)
    if region is None:
        raise RtiSmsInputError(f"default_region is {shape(value)}: use the two letters of a country, such as CL.")
    try:
        import phonenumbers  # noqa: F401
    except ImportError:
        raise RtiSmsInputError(
            "default_region takes phonenumbers: pip install 'airflow-provider-rtisms[phones]'. Nothing was sent."
        ) from None
    return region


def parse_recipients(value: Any, default_region: str | None = None) -> list[Recipient]:
    """
    Return the phone numbers of an operator's argument, each once, in their order.

    Spaces, hyphens, dots, parentheses and invisible characters are removed. A trunk zero in parentheses is refused,
    since numbers with and without it differ, and so is a slash, which people write between two numbers.

    :param value: a number; an iterable of numbers; or a list of numbers as JSON or as a Python literal, which a
        template renders. It may be wrapped in a Secret.
    :param default_region: as for :func:`check_region`.
    :raises RtiSmsInputError: an item is anything else. The error names the positions, never the values.
    """
    region = check_region(default_region)
    items = [parse_recipient(item, region) for item in as_iterable(reveal(value), "recipients", "+56900000000")]
    bad = [f"recipients[{position}]" for position, recipient in enumerate(items) if recipient is None]
    if bad:
        form = "a phone number in international form"
        raise RtiSmsInputError(
            f"{f'Neither {form} nor a mobile number of {region}' if region else f'Not {form}'}: {name_some(bad)}. Use "
            "+ and 8 to 15 digits, such as +56900000000, without a trunk zero in parentheses and without a slash. "
            "Nothing was sent."
        )
    if not items:
        raise RtiSmsInputError("recipients is empty: give one phone number or more.")
    return list(dict.fromkeys(recipient for recipient in items if recipient is not None))


def parse_recipient(value: Any, region: str | None = None) -> Recipient | None:
    """
    Return a phone number, or None where the value is no number in international form.

    :param region: of :func:`check_region`, to read a number without + as one dials it there. Only a valid number of a
        mobile phone, or one that may be that in a country whose numbers do not tell, is returned.
    """
    value = reveal(value)
    visible = _INVISIBLE.sub("", value) if isinstance(value, str) else ""
    number = "" if _TRUNK_PREFIX.search(visible) else _SEPARATORS.sub("", visible)
    if _E164.fullmatch(number):
        return Recipient(number)
    if region is None or not (number.isascii() and number.isdigit()) or _FLOAT.fullmatch(visible.strip()):
        return None
    return _complete(number, region)


def _complete(digits: str, region: str) -> Recipient | None:
    """Return the only reading of a number that is dialled in a region, if it can receive SMS."""
    import phonenumbers as library

    found: dict[str, library.PhoneNumber] = {}
    # People leave out the +, and in some countries a national number may begin with the digits of the country code.
    is_code_possible = digits.startswith(str(library.country_code_for_region(region)))
    for form in (digits, f"+{digits}") if is_code_possible else (digits,):
        with suppress(library.NumberParseException):
            number = library.parse(form, region)
            if library.is_valid_number(number):
                found[library.format_number(number, library.PhoneNumberFormat.E164)] = number
    if len(found) != 1:
        return None
    [(e164, number)] = found.items()
    kind, kinds = library.number_type(number), library.PhoneNumberType
    is_mobile = kind == kinds.MOBILE
    if kind == kinds.FIXED_LINE_OR_MOBILE:
        prefix = _MOBILE_PREFIXES.get(library.region_code_for_number(number) or "", "")
        is_mobile = library.national_significant_number(number).startswith(prefix)
    return Recipient(e164, is_completed=True) if is_mobile and _E164.fullmatch(e164) else None
