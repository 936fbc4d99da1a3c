"""Lists as people and templates give them to an operator's argument."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape


def as_list(value: Any, field_name: str, example: str) -> list[Any]:
    """Return the items of an argument as a list, see :func:`as_iterable`."""
    return list(as_iterable(value, field_name, example))


def as_iterable(value: Any, field_name: str, example: str) -> Iterable[Any]:
    """
    Return the items of an argument that takes one or many.

    :param value: an item; an iterable of items; or such a list as JSON or as Python writes it, which is what a template
        gives.
    :param field_name: how the error names the argument.
    :param example: an item, for the error.
    :raises RtiSmsInputError: it is anything else.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        value = _read_list(value, field_name, example)
    if isinstance(value, str | int | Mapping):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray):
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a list, or a template that gives one.")
    return value


def _read_list(text: str, field_name: str, example: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise RtiSmsInputError(f"{field_name} is {shape(text)} that is no list: use JSON such as {json.dumps([example])}.")
