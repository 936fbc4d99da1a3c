"""Check values from outside: from the command line, from Python, and in the JSON of control and API calls."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from reprlib import repr as short_repr
from typing import Any

#: The largest number that is valid anywhere: seconds, counts and costs above it cannot be computed with.
MAXIMUM = 10**15


def read_object(body: bytes) -> dict[str, Any]:
    """
    Parse the body of a request.

    :param body: the body.
    :return: the fields of its JSON object.
    :raises ValueError: if the body is not a JSON object.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body must be a JSON object: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"the body must be a JSON object, not {short_repr(fields)}")
    return fields


def check_names(names: Iterable[str], known: Collection[str]) -> None:
    """
    Check the names of fields.

    :param names: the names.
    :param known: the valid names.
    :raises ValueError: if a name is not valid.
    """
    if unknown := [short_repr(name) for name in names if name not in known]:
        raise ValueError(f"there is no field {', '.join(unknown)}; the fields are: {', '.join(known) or 'none'}")


def check_text(name: str, value: object) -> str:
    """
    Check that a value is a string that UTF-8 can encode. JSON strings can contain halves of surrogate pairs.

    :param name: the name of the field.
    :param value: its value.
    :return: the value.
    :raises ValueError: if it is something else.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {short_repr(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be a string of whole characters, not {short_repr(value)}") from None
    return value


def check_number(name: str, value: object, *, whole: bool = False) -> None:
    """
    Check that a value is a number from 0 to :data:`MAXIMUM`.

    :param name: the name of the field.
    :param value: its value.
    :param whole: whether it must be an int.
    :raises ValueError: if it is something else.
    """
    kinds = int if whole else int | float
    if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value <= MAXIMUM:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{name} must be a {kind} from 0 to {MAXIMUM}, not {short_repr(value)}")
