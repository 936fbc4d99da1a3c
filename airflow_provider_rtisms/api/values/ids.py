"""
Submission ids as people and templates give them. Source: docs/vendor-api.md, "Get SMS info".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.lists import as_iterable

log = logging.getLogger(__name__)

#: The vendor's ids have 13 to 16 digits. The length is not promised, but a URL has to hold the id.
MAX_ID_DIGITS = 100


def check_submission_id(value: Any, field_name: str = "submission_id") -> str:
    """
    Return a submission id as the string that goes into the URL.

    :param value: ASCII decimal string or non-negative int; no bool, no float.
    :param field_name: how the error names it, such as ``submission_ids[3]``.
    :raises RtiSmsInputError: it is anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**MAX_ID_DIGITS:
        return str(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_ID_DIGITS:
        return str(value)
    raise RtiSmsInputError(
        f"{field_name} is {shape(value)}: use a decimal string such as '4193366853543393' or a non-negative int."
    )


def parse_submission_ids(value: Any) -> list[str]:
    """
    Return the submission ids of an operator's argument, each once, in their order.

    :param value: see :func:`iter_submission_ids`.
    :raises RtiSmsInputError: it is anything else; names the position.
    """
    return list(dict.fromkeys(iter_submission_ids(value)))


def iter_submission_ids(value: Any) -> Iterator[str]:
    """
    Give the submission ids of an operator's argument one by one, as they stand there.

    :param value: an id; an iterable of ids; such a list as JSON or as Python writes it, which is what a template gives;
        or records with a ``submission_id``, which is what the operators return. Records whose ``submission_id`` is
        None are left out: they are about recipients that the send refused or skipped.
    :raises RtiSmsInputError: it is anything else; names the position.
    """
    without_id = 0
    for position, item in enumerate(as_iterable(value, "submission_ids", "4193366853543393")):
        submission_id = _id_of(item)
        if submission_id is None and isinstance(item, Mapping) and "submission_id" in item:
            without_id += 1
        else:
            yield check_submission_id(submission_id, f"submission_ids[{position}]")
    if without_id:
        log.info("%d records have no submission_id, so they are left out: nothing was submitted for them", without_id)


def _id_of(item: Any) -> Any:
    return item.get("submission_id") if isinstance(item, Mapping) else item
