"""The records of files: their columns, and which JSON lines hold one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from airflow_provider_rtisms.api.models import LARGEST_NUMBER, SmsDetails

Record: TypeAlias = dict[str, Any]

#: The columns of every format, in their order: those of
#: :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`, and when the record was fetched.
COLUMNS = (*SmsDetails("").to_record(), "fetched_at")
#: The column of the JSON as it came.
RAW = "raw"
#: The columns that hold a time: ISO 8601 with its offset, or null.
TIMES = tuple(column for column in COLUMNS if column.endswith("_at"))
#: The columns that hold a text, or null.
TEXTS = tuple(column for column in COLUMNS if column not in (*TIMES, "is_final", "cost"))
_TYPES = {**dict.fromkeys(TIMES, "timestamp"), "is_final": "boolean", "cost": "double"}


def stamp(records: Iterable[Record], moment: datetime) -> None:
    """
    Add to records when they were fetched, as files hold them.

    :param records: see :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`.
    :param moment: UTC.
    """
    fetched_at = moment.isoformat(timespec="seconds")
    for record in records:
        raw = record.pop(RAW, None)
        record["fetched_at"] = fetched_at
        if raw is not None:
            record[RAW] = raw


def columns_of(raw: bool) -> tuple[str, ...]:
    """
    Return the columns of a fetch.

    :param raw: whether the JSON as it came is one of them.
    """
    return (*COLUMNS, RAW) if raw else COLUMNS


def types_of(raw: bool) -> dict[str, str]:
    """
    Return the type of each column of a fetch, as lineage names it.

    :param raw: whether the JSON as it came is one of them.
    """
    return {column: _TYPES.get(column, "string") for column in columns_of(raw)}


def parse_record(line: bytes, columns: Sequence[str] = COLUMNS) -> Record | None:
    """
    Read a JSON line that this package may have written.

    :param line: one line of a part file.
    :param columns: of the record, in their order.
    :return: the record; None if the line is damaged, or if this version would not write such a record.
    """
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
        return record if isinstance(record, dict) and _is_record(record, columns) else None
    except (ValueError, TypeError, RecursionError):
        return None


def _is_record(record: Record, columns: Sequence[str]) -> bool:
    if tuple(record) != tuple(columns):
        return False
    times = [time for column in TIMES if (time := record[column]) is not None]
    texts = [text for column in TEXTS if (text := record[column]) is not None]
    texts += [record[RAW]] if RAW in columns else []
    "".join(times + texts).encode()  # raises for a value that is no text, and for a lone surrogate
    for time in times:
        if datetime.fromisoformat(time).tzinfo is None:
            return False
    return (
        bool(record["submission_id"] and record["fetched_at"])
        and isinstance(record["is_final"], bool)
        and (record["cost"] is None or _is_amount(record["cost"]))
    )


def _is_amount(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST_NUMBER and math.isfinite(value)
