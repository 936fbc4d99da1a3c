"""
Tables: the rows of a query, of a CSV and of JSON lines, as streams; and how a value of a row is written in a text.

A column that is used stands there exactly once, wherever a table comes from. That is checked once, before the first
row. Names are compared as they are. A column that nobody uses does no harm.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import numbers
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import (
    MAX_DIGITS,
    RepeatedKeyError,
    check_submission_id,
    object_of,
    whole_number,
)
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.bulk.formats import suffix_of
from airflow_provider_rtisms.bulk.store import explain_failures, open_to_read, report_input, storage_path

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.store import StoragePath

#: No line of JSON or of ids is longer; more means that this is another kind of file.
MAX_LINE = 1024 * 1024

#: How other files begin, and what errors say of them.
_OTHER_FILES = {
    b"\x1f\x8b": "is a gzip file. Let its name end in .gz.",
    b"BZh": "is a bzip2 file. Unpack it.",
    b"\xfd7zXZ": "is an xz file. Unpack it.",
    b"\x28\xb5\x2f\xfd": "is a zstd file. Unpack it.",
    b"PK\x03\x04": "is a zip or Excel file. Save it as text in UTF-8.",
    b"PAR1": "is a Parquet file. Save it as text in UTF-8.",
}

#: Takes the columns of a table, and returns those that are used, each with the argument that names it, for errors.
ChooseColumns: TypeAlias = Callable[[Sequence[str]], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row before its values are checked, at a position such as ``messages[3]``, ``row 3`` or ``line 4``."""

    position: str
    values: Secret[Mapping[str, Any]]
    problem: str | None = None


def find_columns(
    columns: Sequence[str], used: Mapping[str, str], table: str, *, is_file: bool = False, note: str = ""
) -> dict[str, int]:
    """
    Return the position of each column that is used.

    :param used: the columns that are used, each with the argument that names it.
    :param is_file: whether ``columns`` are the first line of a file. It may hold data, so errors repeat nothing of it.
    """
    problems = [
        f"{'has no column' if column not in columns else 'has more than one column'} {column!r} ({argument})"
        for column, argument in used.items()
        if columns.count(column) != 1
    ]
    if problems:
        remedy = _remedy_of_file(columns, used) if is_file else _remedy_of_query(columns, used)
        raise RtiSmsInputError(f"{table} {' and '.join(problems)}. {remedy} {note}".rstrip())
    return {column: columns.index(column) for column in used}


def _remedy_of_query(columns: Sequence[str], used: Mapping[str, str]) -> str:
    found = f"The columns are: {', '.join(columns)}."
    if any(columns.count(column) > 1 for column in used):
        return f"{found} Give each of them a name of its own: SELECT column AS other_name."
    return found


def _remedy_of_file(columns: Sequence[str], used: Mapping[str, str]) -> str:
    if not columns:
        return "The file is empty: add a header line."
    if any(columns.count(column) > 1 for column in used):
        return "Rename or remove one of them in the first line of the file."
    found = f"The first line has {len(columns)} column{'s' if len(columns) > 1 else ''}."
    if any(column.strip().removeprefix("+").isdigit() for column in columns):
        return f"{found} The file seems to have no header line: add one."
    return f"{found} Check the name, and that the columns are separated by commas."


def read_query(
    columns: Sequence[str], rows: Iterable[Any], used: Mapping[str, str], *, note: str = ""
) -> Iterator[Row]:
    """Give the rows of a query, sequences or mappings, one by one, with the columns that are used."""
    positions = find_columns(columns, used, "The query", note=note)
    for number, row in enumerate(rows, 1):
        is_mapping = isinstance(row, Mapping)
        values = {column: row[column if is_mapping else position] for column, position in positions.items()}
        yield Row(f"row {number}", Secret(values))


def read_csv(text: Iterable[str], choose: ChooseColumns, name: str, *, note: str = "") -> Iterator[Row]:
    """Give the rows of a CSV with a header line one by one: the chosen columns. Empty lines are left out."""
    rows = csv.reader(text, strict=True)  # without it, a quote that never ends swallows the rest of the file
    line = 1
    try:
        columns = next(rows, [])
        positions = find_columns(columns, choose(columns), name, is_file=True, note=note)
        line = rows.line_num + 1
        for row in rows:
            if row:
                values = {column: row[at] if at < len(row) else None for column, at in positions.items()}
                is_whole = len(row) == len(columns)
                problem = None if is_whole else "has more or fewer fields than the first line has columns"
                yield Row(f"line {line}", Secret(values), problem)
            line = rows.line_num + 1
    except csv.Error as error:
        raise RtiSmsInputError(
            f"{name} is not a valid CSV: {error}, in the row that begins on line {line}. {note}".rstrip()
        ) from None


def read_json_lines(text: IO[str]) -> Iterator[Row]:
    """Give the objects of JSON lines one by one. Empty lines are left out. Decimal fractions are exact."""
    for number, line in read_lines(text):
        if line.strip():
            position = f"line {number}"
            try:
                values = json.loads(line, object_pairs_hook=object_of, parse_float=Decimal)
            except RepeatedKeyError as error:
                yield Row(position, Secret({}), f"{error}; rename or remove one of them")
            except (ValueError, ArithmeticError, RecursionError):  # a number may be beyond Decimal
                yield Row(position, Secret({}), "is not JSON")
            else:
                is_object = isinstance(values, Mapping)
                problem = None if is_object else f"is {shape(values)} where an object was expected"
                yield Row(position, Secret(values if is_object else {}), problem)


def read_lines(text: IO[str]) -> Iterator[tuple[int, str]]:
    """Give lines and their numbers. A line that is too long comes in pieces."""
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        yield number, line


def read_table_file(path: str | StoragePath, field_name: str, choose: ChooseColumns) -> Iterator[Row]:
    """
    Give the rows of a CSV or JSON-lines file, local or in a store, one by one, for a send.

    :param choose: which columns of a CSV are used. Objects of JSON lines come whole.
    """
    place = storage_path(field_name, path)
    suffix = suffix_of(place.name)[0]
    if suffix not in (".csv", ".jsonl"):
        raise wrong_ending(field_name)
    note = "Nothing was sent."
    with _open_text(place, field_name, note) as text:
        yield from read_json_lines(text) if suffix == ".jsonl" else read_csv(text, choose, field_name, note=note)


def wrong_ending(field_name: str) -> RtiSmsInputError:
    """Return the error for the name of a file of messages or results. It does not show what may be a file's content."""
    return RtiSmsInputError(
        f"{field_name} does not end in .csv, .csv.gz, .jsonl or .jsonl.gz: rename the file. A templated field that "
        "ends in .txt, .j2 or .sql names a template file, and holds its content."
    )


def read_id_file(path: str | StoragePath, column: str | None = None) -> Iterator[str]:
    """
    Give the submission ids of a file, local or in a store, one by one. Lines and rows without one are skipped.

    :param column: of a CSV with a header line, or the key of the objects of JSON lines; None for one id per line.
    """
    place = storage_path("submission_ids_path", path)
    report_input(place)
    with _open_text(place, "submission_ids_path") as text:
        name = place.name
        for position, value in _lines_or_column(text, name, column):
            if value is not None and str(value).strip():
                yield check_submission_id(value, f"{position} of {name}")


def _lines_or_column(text: IO[str], name: str, column: str | None) -> Iterator[tuple[str, Any]]:
    if column is None:
        yield from ((f"line {number}", line) for number, line in read_lines(text))
        return
    is_json = suffix_of(name)[0] == ".jsonl"
    used = {column: "submission_ids_column"}
    for row in read_json_lines(text) if is_json else read_csv(text, lambda _: used, name):
        values = row.values.get_secret_value()
        if is_json and (row.problem or column not in values):
            raise RtiSmsInputError(
                f"{row.position} of {name} {row.problem or f'has no key {column!r} (submission_ids_column)'}."
            )
        yield row.position, values[column]


@contextmanager
def _open_text(path: StoragePath, field_name: str, note: str = "") -> Iterator[IO[str]]:
    """Read a file as text in UTF-8, through gzip if its name ends in ``.gz``."""
    action = f"Reading {path} ({field_name})"
    with explain_failures(action, Exception), open_to_read(path, action) as raw:
        is_packed = path.name.endswith(".gz")
        buffered = io.BufferedReader(raw)  # type: ignore[type-var]  # it has what is needed here
        beginning = buffered.peek(4)
        unpacked = gzip.GzipFile(fileobj=buffered) if is_packed else buffered
        try:
            if is_packed and not beginning:
                raise EOFError  # gzip takes an empty file for one that holds nothing
            with io.TextIOWrapper(unpacked, "utf-8-sig", newline="") as text:
                yield text
        except UnicodeDecodeError:
            kinds = (kind for mark, kind in _OTHER_FILES.items() if beginning.startswith(mark) and not is_packed)
            problem = next(kinds, "is not UTF-8 text. Save it as UTF-8.")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:  # whose words repeat the first bytes of the file
            what = "it is cut off" if isinstance(error, EOFError) else "or is none, although its name ends in .gz"
            problem = f"is a damaged gzip file ({what}). Make it again."
        else:
            return
        raise RtiSmsInputError(f"{path} ({field_name}) {problem} {note}".rstrip())


def write_value(value: Any) -> str | None:
    """
    Return how a value of a row is written in a text, or None where it is neither text nor a number, date, time or UUID.

    Numbers are written in digits, without an exponent; those of numeric columns keep the digits of their scale. Dates
    and times are written in ISO 8601, with a blank between the two: ``2026-03-01 10:00:00+00:00``.

    :param value: as a driver or a JSON parser gives it. A bool is no number. A number that is not finite, or that has
        more than 100 digits before or after the point, is none that a person writes.
    """
    match value:
        case str():
            return str.__str__(value)  # not the name of an enum's member
        case bool() | None:
            return None
        case uuid.UUID():
            return str(value)
        case datetime():  # pandas' NaT is one, and does not equal itself
            return value.isoformat(" ") if value == value else None
        case date() | time():
            return value.isoformat()
        case numbers.Integral():
            whole = whole_number(value)
            return None if whole is None else str(whole)
        case Decimal():
            return _write_decimal(value)
        case numbers.Real() if not isinstance(value, numbers.Rational):  # floats of Python and numpy
            return _write_decimal(Decimal(str(value)), keep_scale=False)
    return None


def _write_decimal(number: Decimal, *, keep_scale: bool = True) -> str | None:
    """Return a number in digits. A float has no scale of its own: 5.0 is 5."""
    if not number.is_finite():
        return None
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -MAX_DIGITS or number.adjusted() >= MAX_DIGITS:
        return None
    if number == 0:
        number = number.copy_abs()  # a person writes no -0
    written = format(number, "f")
    return written if keep_scale or "." not in written else written.rstrip("0").rstrip(".")
