"""Check arguments that are a choice or a number. Each check raises one error that names the field."""

from __future__ import annotations

import operator
from contextlib import suppress
from decimal import Decimal
from typing import Any, TypeVar

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape

C = TypeVar("C", bound=str)

#: Most digits of a number before or after the point. The digits of 1E+300000 would take seconds.
MAX_DIGITS = 100


def check_choice(field_name: str, value: Any, choices: tuple[C, ...]) -> C:
    """
    Return an argument that is one of a few words.

    :param field_name: how the error names it.
    :param value: what was given.
    :param choices: the words.
    :raises RtiSmsInputError: it is none of them.
    """
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    listed = ", ".join(repr(choice) for choice in choices[:-1])
    raise RtiSmsInputError(f"{field_name} is {shape(value)}: use {listed} or {choices[-1]!r}.")


def check_whole_number(field_name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """
    Return an argument that is a whole number.

    :param field_name: how the error names it.
    :param value: what was given; no bool.
    :param least: the smallest number allowed.
    :param most: the largest number allowed; None for no limit.
    :raises RtiSmsInputError: it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most}"
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a whole number, {bounds}.")
    return value


def whole_number(value: Any) -> int | None:
    """
    Return a whole number of Python, numpy or a NUMERIC column as an int; None where a value is anything else.

    :param value: no bool, no float; a number of more than 100 digits is none either.
    """
    number: int | None = None
    if isinstance(value, Decimal):
        # The exponent is bounded first, since int() writes all digits.
        if value.is_finite() and value.adjusted() < MAX_DIGITS and value == value.to_integral_value():
            number = int(value)
    elif type(value).__name__ not in ("bool", "bool_"):  # Python's and numpy's
        with suppress(TypeError, ValueError, OverflowError):
            number = operator.index(value)
    return number if number is not None and abs(number) < 10**MAX_DIGITS else None
