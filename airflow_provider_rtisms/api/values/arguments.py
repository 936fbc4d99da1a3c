"""
Arguments as people and templates give them: choices, numbers, spans of time, amounts, lists and submission ids.

Each ``check_`` and ``parse_`` takes the name of the argument and raises one RtiSmsInputError that names it, never a
value. Source of the ids: docs/vendor-api.md, "Get SMS info".
"""

from __future__ import annotations

import ast
import json
import logging
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape

log = logging.getLogger(__name__)

C = TypeVar("C", bound=str)

#: Most digits of a number before or after the point. The digits of 1E+300000 would take seconds.
MAX_DIGITS = 100
#: The vendor's ids have 13 to 16 digits. The length is not promised, but a URL has to hold the id.
MAX_ID_DIGITS = 100
#: How programs write a number that they have made a float, with a point or a comma.
_FLOAT = re.compile(r"[0-9]+[.,][0-9]*([eE][+-]?[0-9]+)?|[0-9]+[eE]\+?[0-9]+")
#: How many items an error message or a log line names.
NAMED_IN_MESSAGE = 10


def check_choice(field_name: str, value: Any, choices: tuple[C, ...]) -> C:
    """Return an argument that is one of a few words."""
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    listed = ", ".join(repr(choice) for choice in choices[:-1])
    raise RtiSmsInputError(f"{field_name} is {shape(value)}: use {listed} or {choices[-1]!r}.")


def check_rendered(field_name: str, value: object) -> None:
    """Refuse an argument whose template rendered to the word None."""
    if isinstance(value, str) and value.strip() == "None":
        raise RtiSmsInputError(
            f'{field_name} is the word "None": the task or variable that its template reads from returned nothing.'
        )


def check_whole_number(field_name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """Return an argument that is an int, and no bool, from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most}"
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a whole number, {bounds}.")
    return value


def whole_number(value: Any) -> int | None:
    """Return an integer of Python, numpy or a NUMERIC column as an int; None for a bool, a float or anything else."""
    number: int | None = None
    if isinstance(value, Decimal):
        # The exponent is bounded first, since int() writes all digits.
        if value.is_finite() and value.adjusted() < MAX_DIGITS and value == value.to_integral_value():
            number = int(value)
    elif type(value).__name__ not in ("bool", "bool_"):  # Python's and numpy's
        with suppress(TypeError, ValueError, OverflowError):
            number = operator.index(value)
    return number if number is not None and abs(number) < 10**MAX_DIGITS else None


def check_seconds(field_name: str, value: Any) -> float:
    """Return a span of time in seconds: seconds, 0 or more, or a timedelta."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds <= timedelta.max.total_seconds():
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use seconds, 0 or more, or a timedelta.")
    return float(seconds)


def parse_amount(value: Any) -> Decimal:
    """Return the exact amount of a decimal string or a number; raise ValueError where a value is anything else."""
    with suppress(InvalidOperation):
        if isinstance(value, str | int | float | Decimal) and not isinstance(value, bool):
            amount = Decimal(str(value).strip())
            if amount.is_finite():
                return amount
    raise ValueError("not a decimal string")


def check_amount(field_name: str, value: Any) -> Decimal:
    """Return an argument that is an amount of money, as :func:`parse_amount` reads it."""
    try:
        return parse_amount(value)
    except ValueError:
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a decimal string such as '12.50'.") from None


class RepeatedKeyError(Exception):
    """A key stands twice in an object. The text names the key where it can be no phone number and no text."""

    def __init__(self, key: Any) -> None:
        is_name = isinstance(key, str) and key.isidentifier()
        super().__init__(f"has the key {key!r} more than once" if is_name else "has a key more than once")


def object_of(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return a dict, as ``object_pairs_hook`` of a JSON parser, but refuse a key that stands twice."""
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
    """
    check_rendered(field_name, value)
    if isinstance(value, str) and value.strip().startswith("["):
        value = _read_list(value, field_name, example)
    if isinstance(value, str | int | Mapping | Decimal) or whole_number(value) is not None:
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray):
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a list, or a template that renders one.")
    return value


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


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, such as ``1 message`` or ``1,200 messages``."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def describe_progress(done: int, total: int, noun: str, per_second: float) -> str:
    """Return a line for the log: how many are done, and the time left. It says 100% at the end only."""
    left = f"about {max(1.0, (total - done) / per_second):,.0f} s left" if per_second else "time left unknown"
    end = left if done < total else "finishing"
    share = 100 * done // max(1, total)
    return f"{done:,} of {plural(total, noun)} done ({share}%), {per_second:,.0f} a second, {end}"


def check_submission_id(value: Any, field_name: str = "submission_id") -> str:
    """
    Return a submission id as the string that goes into the URL, without leading zeros: ``007`` and ``7`` are the same.

    :param value: ASCII decimal string, with or without white space around it; or a whole number of Python, of
        ``decimal`` or of a library such as numpy, not negative. No bool, and no float, which rounds long ids.
    :param field_name: how the error names it, such as ``submission_ids[3]``.
    """
    if isinstance(value, str):
        digits = value.strip()
        if digits.isascii() and digits.isdigit() and len(digits) <= MAX_ID_DIGITS:
            return digits.lstrip("0") or "0"
    else:
        number = whole_number(value)
        if number is not None and number >= 0:
            return str(number)
    is_float = isinstance(value, str | float) and _FLOAT.fullmatch(str(value).strip())
    reason = (
        " A program such as pandas or Excel has made the ids float, which rounds them: keep them as text (dtype=str)."
    )
    raise RtiSmsInputError(
        f"{field_name} is {shape(value)}: use a decimal string such as '4193366853543393' or a non-negative int, no "
        f"float.{reason if is_float else ''}"
    )


def iter_submission_ids(value: Any) -> Iterator[str]:
    """
    Yield the submission ids of an operator's argument, one by one.

    Records whose ``submission_id`` is null, such as those of messages that were not sent, are left out with one log
    line.

    :param value: an id; an iterable of ids, such as a list, an array of numpy or a column of pandas; a list of ids as
        JSON or as a Python literal, which a template renders; or records with a ``submission_id``, which the operators
        return.
    """
    return (entry for entry in _iter_entries(value) if entry is not None)


def parse_submission_ids(value: Any) -> list[str]:
    """Return the submission ids of an operator's argument, each once, in their order."""
    return parse_submissions(value)[0]


def parse_submissions(value: Any) -> tuple[list[str], int]:
    """Return the submission ids of an operator's argument, each once, and how many records have none."""
    entries = list(_iter_entries(value))
    return list(dict.fromkeys(entry for entry in entries if entry is not None)), entries.count(None)


def _iter_entries(value: Any) -> Iterator[str | None]:
    """Yield the id of each entry, None for a record without one."""
    without_id = 0
    for position, item in enumerate(as_iterable(value, "submission_ids", "4193366853543393")):
        if isinstance(item, Mapping):
            if "submission_id" in item and item["submission_id"] is None:
                without_id += 1
                yield None
                continue
            item = item.get("submission_id")
        yield check_submission_id(item, f"submission_ids[{position}]")
    if without_id:
        log.info("%s of submission_ids without a submission id: left out", plural(without_id, "record"))
