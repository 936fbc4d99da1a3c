"""The records of files: their columns, the lines of part files, and the formats that a file name asks for."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsInputError
from airflow_provider_rtisms.api.models import SmsDetails, parse_utc

Record: TypeAlias = dict[str, Any]
#: Takes records as JSON lines, and a binary file to write to.
Convert: TypeAlias = Callable[[Iterable[bytes], IO[bytes]], None]

#: The columns of every format, in their order: those of
#: :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`, and when the record was fetched.
COLUMNS = (*SmsDetails("").to_record(), "fetched_at")
#: The column of the JSON as it came.
RAW = "raw"
#: The columns that hold a time: ISO 8601 with its offset, or null.
TIMES = tuple(column for column in COLUMNS if column.endswith("_at"))
#: The columns of a file of the ids that the API does not know; a file that is neither CSV nor JSON lines has the first.
MISSING_COLUMNS = ("submission_id", "reason")
#: How far the clocks of two workers may differ. A record that claims to be newer would keep later ones out of a table.
MAX_CLOCK_SKEW = timedelta(minutes=5)
#: Rows of a row group of Parquet; they are in memory together.
ROW_GROUP = 10_000

_TYPES = {**dict.fromkeys(TIMES, "timestamp"), "is_final": "boolean", "cost": "double"}
_ROW_SUFFIXES = (".csv", ".jsonl")


def stamp(records: Iterable[Record], moment: datetime) -> None:
    fetched_at = moment.isoformat(timespec="seconds")
    for record in records:
        raw = record.pop(RAW, None)
        record["fetched_at"] = fetched_at
        if raw is not None:
            record[RAW] = raw


def columns_of(raw: bool) -> tuple[str, ...]:
    return (*COLUMNS, RAW) if raw else COLUMNS


def types_of(raw: bool) -> dict[str, str]:
    """Return the type of each column of a fetch, as lineage names it."""
    return {column: _TYPES.get(column, "string") for column in columns_of(raw)}


def to_line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def parse_record(line: bytes, columns: Sequence[str] = COLUMNS) -> Record | None:
    """
    Return the record of a line of a part; None if it is damaged, or if this version would not write this very line.

    Anybody who may write to the folder or to the bucket may have written it, so it is checked as a response is.
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
        return expected if line == to_line(expected) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


_TIME = rb"([0-9]{4}-[0-9]{2}-[0-9]{2})T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\+00:00"
_VALUE = rb"[^,\n]++"
#: A line as :func:`to_line` writes it, if no value holds a comma: the id, what repeats from line to line, and times.
_LINE = re.compile(
    rb'\{"submission_id": "(0|[1-9][0-9]{0,99})", '
    rb'("status": %(value)b, "status_code": %(value)b, "is_final": (?:true|false)), '
    rb'"registered_at": (?:"%(time)b"|null), "sent_at": (?:"%(time)b"|null), "done_at": (?:"%(time)b"|null), '
    rb'("cost": %(value)b, "operator_id": %(value)b, "operator_name": %(value)b, "operator_mcc": %(value)b, '
    rb'"operator_mnc": %(value)b), "fetched_at": "(%(time)b)"\}\n' % {b"value": _VALUE, b"time": _TIME}
)


class LineReader:
    """
    Reads many lines of a part, at a fraction of the cost of :func:`parse_record`, which decides what is good.

    The values of a line are good each by itself, except that ``is_final`` follows from the status and from whether
    there is a ``done_at``. So a line is good if its status, cost and network stood together in a good line, and the
    dates of its times in others. Everything else is asked of :func:`parse_record`.
    """

    #: What is remembered, at most.
    MOST = 10_000

    def __init__(self, columns: Sequence[str] = COLUMNS) -> None:
        self._columns = columns
        self._newest = (datetime.now(UTC) + MAX_CLOCK_SKEW).isoformat(timespec="seconds").encode()
        self._examples: dict[tuple[bytes, bool, bytes], Record] = {}
        self._dates: set[bytes | None] = {None}

    def read(self, line: bytes) -> tuple[int, str, Record] | None:
        """
        Return a line's submission id, when it was fetched, and a record with the same status, ``is_final``, cost and
        network, which may be that of another line; None if the line is damaged.
        """
        found = _LINE.fullmatch(line) if self._columns == COLUMNS else None
        if found is None:
            record = parse_record(line, self._columns)
            if record is None or record["submission_id"] != str(number := int(record["submission_id"])):
                return None
            return number, record["fetched_at"], record
        submission_id, status, registered, sent, done, rest, fetched_at, fetched = found.groups()
        key, dates = (status, done is None, rest), self._dates
        example = self._examples.get(key)
        if (
            example is None
            or fetched_at > self._newest
            or not (registered in dates and sent in dates and done in dates and fetched in dates)
        ):
            example = parse_record(line)
            if example is None:
                return None
            if len(dates) < self.MOST and len(self._examples) < self.MOST:
                dates.update((registered, sent, done, fetched))
                self._examples[key] = example
        return int(submission_id), fetched_at.decode(), example


def converter(name: str, columns: Sequence[str] = COLUMNS) -> Convert:
    """Return the function that converts records to the format that a name's suffix asks for."""
    suffix, is_packed = suffix_of(name)
    if suffix == ".parquet" and not is_packed:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise RtiSmsConfigError(
                "Writing .parquet takes pyarrow: pip install 'airflow-provider-rtisms[parquet]', or use .jsonl or .csv."
            ) from None
        return lambda lines, file: _write_parquet(map(json.loads, lines), columns, file)
    if suffix not in _ROW_SUFFIXES:
        raise RtiSmsInputError(f"output_path ends in {name[-20:]!r}: use .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet.")

    def convert(lines: Iterable[bytes], file: IO[bytes]) -> None:
        with _packed(name, file) as target:
            if suffix == ".jsonl":
                target.writelines(lines)
            else:  # databases read true and false; Python's own words only some of them
                records = map(json.loads, lines)
                _write_csv(({**one, "is_final": json.dumps(one["is_final"])} for one in records), columns, target)

    return convert


def suffix_of(name: str) -> tuple[str, bool]:
    """Return the suffix of a name without ``.gz``, and whether it had that."""
    bare = name.removesuffix(".gz")
    return Path(bare).suffix, bare != name


def write_rows(name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], file: IO[bytes]) -> None:
    """Write rows as the name asks for: as CSV, as JSON lines, or each one's first column as a line of text."""
    suffix = suffix_of(name)[0]
    with _packed(name, file) as target:
        if suffix == ".csv":
            _write_csv(rows, columns, target)
        elif suffix == ".jsonl":
            target.writelines(to_line({column: row.get(column) for column in columns}) for row in rows)
        else:
            target.writelines(f"{row[columns[0]]}\n".encode() for row in rows)


def missing_columns(path: str) -> Sequence[str]:
    """Return the columns of a file of missing ids."""
    return MISSING_COLUMNS if suffix_of(path)[0] in _ROW_SUFFIXES else MISSING_COLUMNS[:1]


def _packed(name: str, file: IO[bytes]) -> AbstractContextManager[Any]:
    if name.endswith(".gz"):
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)  # equal rows make equal files
    return nullcontext(file)


def _write_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text.detach()


def _write_parquet(records: Iterator[Record], columns: Sequence[str], file: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"boolean": pa.bool_(), "double": pa.float64(), "timestamp": pa.timestamp("s", tz="UTC")}
    schema = pa.schema([(column, types.get(_TYPES.get(column, ""), pa.string())) for column in columns])
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(records, ROW_GROUP)):
            for record in group:
                record.update((name, datetime.fromisoformat(record[name])) for name in TIMES if record[name])
            writer.write_table(pa.Table.from_pylist(group, schema))
