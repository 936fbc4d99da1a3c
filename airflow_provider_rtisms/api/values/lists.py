"""Lists: how arguments are read as lists, and how errors and logs name their items."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import whole_number

#: How many items an error message or a log line names.
NAMED_IN_MESSAGE = 10


class RepeatedKeyError(Exception):
    """
    A key stands twice in an object. Its text names the key where it can be no phone number and no text.

    :param key: the key.
    """

    def __init__(self, key: Any) -> None:
        is_name = isinstance(key, str) and key.isidentifier()
        super().__init__(f"has the key {key!r} more than once" if is_name else "has a key more than once")


def object_of(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """
    Return a dict, as ``object_pairs_hook`` of a JSON parser.

    :param pairs: keys and values.
    :raises RepeatedKeyError: a key stands twice; a dict would silently keep the last.
    """
    values: dict[Any, Any] = {}
    for key, value in pairs:
        if key in values:
            raise RepeatedKeyError(key)
        values[key] = value
    return values


def as_iterable(value: Any, field_name: str, example: Any) -> Iterable[Any]:
    """
    Return the items of an argument that takes one or many.

    :param value: an item; an iterable of items; or a list of items as JSON or as a Python literal, which a template
        renders.
    :param field_name: how the error names the argument.
    :param example: an item, for the error.
    :raises RtiSmsInputError: it is anything else.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        value = _read_list(value, field_name, example)
    if isinstance(value, str | int | Mapping | Decimal) or whole_number(value) is not None:
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray):
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a list, or a template that renders one.")
    return value


def name_some(names: Sequence[str], total: int | None = None, *, limit: int = NAMED_IN_MESSAGE) -> str:
    """
    Return names for a message: the first few, then how many more there are.

    :param names: the first names, or all of them.
    :param total: how many there are in all; default the length of ``names``.
    :param limit: how many to name.
    """
    shown = names[:limit]
    more = (len(names) if total is None else total) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _read_list(text: str, field_name: str, example: Any) -> Any:
    for read in (_read_json, _read_literal):
        try:
            return read(text)
        except RepeatedKeyError as error:
            raise RtiSmsInputError(f"An item of {field_name} {error}: rename or remove one of them.") from None
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise RtiSmsInputError(
        f"{field_name} is {shape(text)} that cannot be read as a list: use JSON such as {json.dumps([example])}."
    )


def _read_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=object_of)


def _read_literal(text: str) -> Any:
    tree = ast.parse(text.strip(), mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            object_of((key.value, None) for key in node.keys if isinstance(key, ast.Constant))
    return ast.literal_eval(tree)
