"""Amounts of money as the API and people write them: exact decimals, without a documented currency."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape


def parse_amount(value: Any) -> Decimal:
    """
    Return an amount.

    :param value: decimal string or number.
    :raises ValueError: it is anything else, or not finite.
    """
    try:
        if isinstance(value, str | int | float | Decimal) and not isinstance(value, bool):
            amount = Decimal(str(value).strip())
            if amount.is_finite():
                return amount
    except InvalidOperation:
        pass
    raise ValueError("not a decimal string")


def check_amount(field_name: str, value: Any) -> Decimal:
    """
    Return the amount of an operator's argument.

    :param field_name: how the error names it.
    :param value: decimal string or number.
    :raises RtiSmsInputError: it is anything else.
    """
    try:
        return parse_amount(value)
    except ValueError:
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a decimal string such as '12.50'.") from None
