"""The records of files: their columns, and which JSON lines hold one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from airflow_provider_rtisms.api.models import SmsDetails, parse_utc

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
#: How far the clocks of two workers may differ. A record that claims to be newer would keep later ones out of a table.
MAX_CLOCK_SKEW = timedelta(minutes=5)
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
    Read a JSON line that this package may have written. Anybody who may write to the folder or to the bucket may have
    written it as well, so it is checked as a response is.

    :param line: one line of a part file.
    :param columns: of the record, in their order.
    :return: the record; None if the line is damaged, or if this version would not write this very line.
    """
    try:
        record = json.loads(line)
        details = SmsDetails.from_record(record)
        fetched_at = parse_utc(record["fetched_at"])
        if fetched_at is None or fetched_at > datetime.now(UTC) + MAX_CLOCK_SKEW:
            return None
        expected = {**details.to_record(), "fetched_at": fetched_at.isoformat()}
        if RAW in columns:
            expected[RAW] = record[RAW]
            if SmsDetails.from_response(details.submission_id, json.loads(record[RAW])) != details:
                return None
        return expected if line == json.dumps(expected).encode() + b"\n" else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
