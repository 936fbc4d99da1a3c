"""
Submission ids as people and templates give them. Source: docs/vendor-api.md, "Get SMS info".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import whole_number
from airflow_provider_rtisms.api.values.lists import as_iterable

log = logging.getLogger(__name__)

#: The vendor's ids have 13 to 16 digits. The length is not promised, but a URL has to hold the id.
MAX_ID_DIGITS = 100


def check_submission_id(value: Any, field_name: str = "submission_id") -> str:
    """
    Return a submission id as the string that goes into the URL, without leading zeros.

    The API returns ids as JSON strings or numbers, so ``007`` and ``7`` are the same submission everywhere.

    :param value: ASCII decimal string, with or without white space around it; or a whole number of Python, of
        ``decimal`` or of a library such as numpy, not negative. No bool, and no float, which rounds long ids.
    :param field_name: how the error names it, such as ``submission_ids[3]``.
    :raises RtiSmsInputError: it is anything else.
    """
    if isinstance(value, str):
        digits = value.strip()
        if digits.isascii() and digits.isdigit() and len(digits) <= MAX_ID_DIGITS:
            return digits.lstrip("0") or "0"
    else:
        number = whole_number(value)
        if number is not None and 0 <= number < 10**MAX_ID_DIGITS:
            return str(number)
    raise RtiSmsInputError(
        f"{field_name} is {shape(value)}: use a decimal string such as '4193366853543393' or a non-negative int, no "
        "float."
    )


def parse_submission_ids(value: Any) -> list[str]:
    """
    Return the submission ids of an operator's argument, each once, in their order.

    :param value: see :func:`iter_submission_ids`.
    :raises RtiSmsInputError: it is anything else; names the position.
    """
    return list(dict.fromkeys(iter_submission_ids(value)))


def parse_submissions(value: Any) -> tuple[list[str], int]:
    """
    Return the submission ids of an operator's argument, as :func:`parse_submission_ids` does, and how many records
    have none.

    :param value: see :func:`iter_submission_ids`.
    :raises RtiSmsInputError: it is anything else; names the position.
    """
    entries = list(_iter_entries(value))
    return list(dict.fromkeys(entry for entry in entries if entry is not None)), entries.count(None)


def iter_submission_ids(value: Any) -> Iterator[str]:
    """
    Yield the submission ids of an operator's argument, one by one.

    Records whose ``submission_id`` is null, such as those of messages that were not sent, are left out with one log
    line.

    :param value: an id; an iterable of ids, such as a list, an array of numpy or a column of pandas; a list of ids as
        JSON or as a Python literal, which a template renders; or records with a ``submission_id``, which the operators
        return.
    :raises RtiSmsInputError: it is anything else; names the position.
    """
    return (entry for entry in _iter_entries(value) if entry is not None)


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
        log.info("%d records of submission_ids have no submission id and are left out", without_id)
