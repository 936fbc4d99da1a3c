"""
Tables: the rows of a query, of a CSV and of JSON lines, as streams; and how a value of a row is written in a text.

A column that is used stands there exactly once, wherever a table comes from. That is checked once, before the first
row. Names are compared as they are; those of a CSV, where no column has the very name, without case and the blanks
around them. A column that nobody uses does no harm.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import numbers
import re
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain, islice
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import (
    MAX_DIGITS,
    RepeatedKeyError,
    check_rendered,
    check_submission_id,
    iter_submission_ids,
    object_of,
    whole_number,
)
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.bulk.store import (
    explain_failures,
    open_to_read,
    report_input,
    storage_path,
    suffix_of,
)

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

#: What spreadsheets save under another name than .csv.
_SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
#: The separators that a header line may tell.
_DELIMITERS = (",", ";", "\t")
#: The first line by which Excel knows the separator. Saved again, it has the separators of empty cells at its end.
_SEP_LINE = re.compile(r'"?sep=([^"\w\r\n\0])"?\1*\s*', re.IGNORECASE)
#: What errors repeat of a header line: short names without numbers. Anything else may be data.
_NAME = re.compile(r"(?!(?:\D*\d){4})[^\W\d][\w .|/-]{,29}")

#: Takes the columns of a table, and returns those that are used, each with the argument that names it, for errors.
ChooseColumns: TypeAlias = Callable[[Sequence[str]], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row before its values are checked, at a position such as ``messages[3]``, ``row 3`` or ``line 4``."""

    position: str
    values: Secret[Mapping[str, Any]]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """
    How a CSV is written, as the arguments ``csv_delimiter`` and ``csv_encoding`` say it.

    :param delimiter: what separates the fields: one character; None: what the first lines of the file say.
    :param encoding: a name that Python knows, such as ``cp1252``; None for UTF-8.
    :raises RtiSmsInputError: one of them is anything else.
    """

    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None and (
            not isinstance(self.delimiter, str) or not re.fullmatch(r'[^"\w\r\n\0]', self.delimiter)
        ):
            raise RtiSmsInputError(
                f"csv_delimiter is {shape(self.delimiter)}: use one character that is no letter, digit or quote, such "
                "as ';' or '\\t'."
            )
        try:
            " ".encode("utf-8" if self.encoding is None else self.encoding)
        except (LookupError, ValueError, TypeError):
            raise RtiSmsInputError(
                f"csv_encoding is {shape(self.encoding)}: use the name of an encoding, such as 'cp1252' or 'utf-16'."
            ) from None

    @property
    def codec(self) -> str:
        """The codec that decodes the file. UTF-8 may begin with a byte order mark."""
        name = codecs.lookup(self.encoding or "utf-8").name
        return "utf-8-sig" if name == "utf-8" else name

    def check_unused(self, place: str) -> None:
        """Refuse the two arguments where nothing reads them."""
        if self != CsvFormat():
            raise RtiSmsInputError(f"csv_delimiter and csv_encoding are for {place}: leave them out.")


def csv_format_of(operator: Any, path_field: str) -> CsvFormat:
    """Return the CSV format of an operator's file. Without a file it has none."""
    csv_format = CsvFormat(operator.csv_delimiter, operator.csv_encoding)
    if getattr(operator, path_field) is None:
        csv_format.check_unused(path_field)
    return csv_format


#: In UTF-8, and the file says what its separator is.
PLAIN_CSV = CsvFormat()


def plain_name(column: str) -> str:
    """Return the name of a column of a CSV without case, and without the blanks around it."""
    return column.strip().casefold()


def find_columns(
    columns: Sequence[str], used: Mapping[str, str], table: str, *, is_file: bool = False, note: str = ""
) -> dict[str, int]:
    """
    Return the position of each column that is used.

    :param used: the columns that are used, each with the argument that names it.
    :param is_file: whether ``columns`` are the first line of a file. It may hold data, so errors repeat
        no more of it than short names without numbers.
    """
    found = {column: _positions(columns, column, is_file) for column in used}
    problems = [
        f"{'has more than one column' if found[column] else 'has no column'} {column!r} ({argument})"
        for column, argument in used.items()
        if len(found[column]) != 1
    ]
    if problems:
        is_repeated = any(len(positions) > 1 for positions in found.values())
        remedy = (_remedy_of_file if is_file else _remedy_of_query)(columns, is_repeated)
        raise RtiSmsInputError(f"{table} {' and '.join(problems)}. {remedy} {note}".rstrip())
    return {column: positions[0] for column, positions in found.items()}


def _positions(columns: Sequence[str], column: str, is_file: bool) -> list[int]:
    exact = [position for position, one in enumerate(columns) if one == column]
    if exact or not is_file:
        return exact
    return [position for position, one in enumerate(columns) if plain_name(one) == plain_name(column)]


def _remedy_of_query(columns: Sequence[str], is_repeated: bool) -> str:
    found = f"The columns are: {', '.join(columns)}."
    return f"{found} Give each of them a name of its own: SELECT column AS other_name." if is_repeated else found


def _remedy_of_file(columns: Sequence[str], is_repeated: bool) -> str:
    if not columns:
        return "The file is empty: add a header line."
    if is_repeated:
        return "Rename or remove one of them in the first line of the file."
    found = f"The first line has {count_columns(columns)}."
    if any(column.strip().removeprefix("+").isdigit() for column in columns):
        return f"{found} The file seems to have no header line: add one."
    return f"{found} Check the name, or set csv_delimiter."


def count_columns(columns: Sequence[str]) -> str:
    """Return how many columns a header line has, and their names unless the line may hold data."""
    count = f"{len(columns)} column{'' if len(columns) == 1 else 's'}"
    names = [column.strip() for column in columns]
    are_names = any(names) and all(not name or _NAME.fullmatch(name) for name in names)
    return f"{count}: {', '.join(name or '(no name)' for name in names)}" if are_names else count


def read_query(
    columns: Sequence[str], rows: Iterable[Any], used: Mapping[str, str], *, note: str = ""
) -> Iterator[Row]:
    """Give the rows of a query, sequences or mappings, one by one, with the columns that are used."""
    positions = find_columns(columns, used, "The query", note=note)
    for number, row in enumerate(rows, 1):
        is_mapping = isinstance(row, Mapping)
        values = {column: row[column if is_mapping else position] for column, position in positions.items()}
        yield Row(f"row {number}", Secret(values))


def read_csv(
    text: Iterable[str], choose: ChooseColumns, name: str, *, delimiter: str | None = None, note: str = ""
) -> Iterator[Row]:
    """
    Give the rows of a CSV with a header line one by one: the chosen columns. Empty lines are left out, and so are rows
    without values at the end, which spreadsheets write as ``;;``.

    :param delimiter: None for what the line ``sep=`` says, or else the only separator that gives the chosen columns.
    """
    source = iter(text)
    head = [line.removeprefix("\ufeff") for line in islice(source, 1)]
    header_line = 1
    if head and (sep_line := _SEP_LINE.fullmatch(head[0])):
        if delimiter not in (None, sep_line[1]):
            raise RtiSmsInputError(
                f"{name} names its separator in the first line, and csv_delimiter is another one: leave csv_delimiter "
                f"out, or remove the first line. {note}".rstrip()
            )
        head, delimiter, header_line = [], sep_line[1], 2
    line = header_line
    try:
        delimiter, width, positions = _read_header(head, source, choose, name, delimiter, note)
        rows = csv.reader(chain(head, source), delimiter=delimiter, strict=True)  # else an open quote swallows the rest
        next(rows)
        line = header_line + rows.line_num
        empty: list[int] = []  # the widths of rows without values, one a line; only others that follow make them count
        for row in rows:
            if any(row):
                for number, cells in enumerate(empty, line - len(empty)):
                    if cells:
                        yield _csv_row(number, [""] * cells, positions, width)
                yield _csv_row(line, row, positions, width)
                empty = []
            else:
                empty.append(len(row))
            line = header_line + rows.line_num
    except csv.Error as error:
        raise RtiSmsInputError(
            f"{name} is not a valid CSV: {error}, in the row that begins on line {line}. {note}".rstrip()
        ) from None


def _csv_row(line: int, row: Sequence[str], positions: Mapping[str, int], width: int) -> Row:
    values = {column: row[at] if at < len(row) else None for column, at in positions.items()}
    problem = None if len(row) == width else "has more or fewer fields than the first line has columns"
    return Row(f"line {line}", Secret(values), problem)


def _read_header(
    head: list[str], source: Iterator[str], choose: ChooseColumns, name: str, delimiter: str | None, note: str
) -> tuple[str, int, dict[str, int]]:
    """
    Return the delimiter of a CSV, how many columns its header has, and the positions of the chosen ones.

    :param head: the lines that are read already; gets those that the header takes.
    """

    def lines() -> Iterator[str]:
        yield from list(head)
        for line in source:
            head.append(line)
            yield line

    readings: list[tuple[str, int, dict[str, int]]] = []
    failures: list[tuple[int, Exception]] = []
    for one in _DELIMITERS if delimiter is None else [delimiter]:
        columns: list[str] = []
        try:
            columns = next(csv.reader(lines(), delimiter=one, strict=True), [])
            positions = find_columns(columns, choose(columns), name, is_file=True, note=note)
            readings.append((one, len(columns), positions))
        except (RtiSmsInputError, csv.Error) as error:
            failures.append((len(columns), error))
    split = [reading for reading in readings if reading[1] > 1]
    if len(split) > 1:
        raise RtiSmsInputError(f"{name} can be read with more than one separator: set csv_delimiter. {note}".rstrip())
    if not readings:
        raise max(failures, key=lambda failure: failure[0])[1] from None
    return (split or readings)[0]


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


def read_table_file(
    path: str | StoragePath, field_name: str, choose: ChooseColumns, csv_format: CsvFormat = PLAIN_CSV
) -> Iterator[Row]:
    """
    Give the rows of a CSV or JSON-lines file, local or in a store, one by one, for a send.

    :param choose: which columns of a CSV are used. Objects of JSON lines come whole.
    """
    place = storage_path(field_name, path)
    suffix = _text_suffix(place.name, field_name)
    if suffix not in (".csv", ".jsonl"):
        raise wrong_ending(field_name)
    note = "Nothing was sent."
    with _open_text(place, field_name, csv_format, note) as text:
        if suffix == ".jsonl":
            yield from read_json_lines(text)
        else:
            yield from read_csv(text, choose, field_name, delimiter=csv_format.delimiter, note=note)


def _text_suffix(name: str, field_name: str) -> str:
    suffix = suffix_of(name)[0]
    if suffix.lower() in _SPREADSHEETS:
        raise RtiSmsInputError(
            f"{field_name} is a spreadsheet ({suffix}). Save it as CSV (UTF-8) there, and give the name of that file."
        )
    return suffix


def wrong_ending(field_name: str) -> RtiSmsInputError:
    """Return the error for the name of a file of messages or results. It does not show what may be a file's content."""
    return RtiSmsInputError(
        f"{field_name} does not end in .csv, .csv.gz, .jsonl or .jsonl.gz: rename the file. A templated field that "
        "ends in .txt, .j2 or .sql names a template file, and holds its content."
    )


def read_ids(operator: Any) -> Iterator[str]:
    """Give the ids of an operator's arguments ``submission_ids`` or ``submission_ids_path``, and what goes with it."""
    csv_format = csv_format_of(operator, "submission_ids_path")
    if operator.submission_ids is None:
        return read_id_file(operator.submission_ids_path, operator.submission_ids_column, csv_format)
    return iter_submission_ids(operator.submission_ids)


def read_id_file(
    path: str | StoragePath, column: str | None = None, csv_format: CsvFormat = PLAIN_CSV
) -> Iterator[str]:
    """
    Give the submission ids of a file, local or in a store, one by one. Lines and rows without one are skipped.

    :param column: of a CSV with a header line, or the key of the objects of JSON lines; None for one id per line.
    """
    check_rendered("submission_ids_column", column)
    place = storage_path("submission_ids_path", path)
    _text_suffix(place.name, "submission_ids_path")
    if column is None and csv_format.delimiter is not None:
        raise RtiSmsInputError("csv_delimiter is for a column of a CSV: set submission_ids_column too.")
    report_input(place)
    with _open_text(place, "submission_ids_path", csv_format) as text:
        name = place.name
        for position, value in _lines_or_column(text, name, column, csv_format.delimiter):
            if value is not None and str(value).strip():
                yield check_submission_id(value, f"{position} of {name}")


def _lines_or_column(text: IO[str], name: str, column: str | None, delimiter: str | None) -> Iterator[tuple[str, Any]]:
    if column is None:
        yield from ((f"line {number}", line) for number, line in read_lines(text))
        return
    is_json = suffix_of(name)[0] == ".jsonl"
    used = {column: "submission_ids_column"}
    for row in read_json_lines(text) if is_json else read_csv(text, lambda _: used, name, delimiter=delimiter):
        values = row.values.get_secret_value()
        if is_json and (row.problem or column not in values):
            raise RtiSmsInputError(
                f"{row.position} of {name} {row.problem or f'has no key {column!r} (submission_ids_column)'}."
            )
        yield row.position, values[column]


@contextmanager
def _open_text(path: StoragePath, field_name: str, csv_format: CsvFormat, note: str = "") -> Iterator[IO[str]]:
    """Read a file as text, through gzip if its name ends in ``.gz``."""
    action = f"Reading {path} ({field_name})"
    is_json = suffix_of(path.name)[0] == ".jsonl"
    if is_json:
        csv_format.check_unused("CSV files")
    with explain_failures(action, Exception), open_to_read(path, action) as raw:
        is_packed = path.name.endswith(".gz")
        buffered = io.BufferedReader(raw)  # type: ignore[type-var]  # it has what is needed here
        beginning = buffered.peek(4)
        unpacked = gzip.GzipFile(fileobj=buffered) if is_packed else buffered
        kinds = [kind for mark, kind in _OTHER_FILES.items() if beginning.startswith(mark) and not is_packed]
        try:
            if is_packed and not beginning:
                raise EOFError  # gzip takes an empty file for one that holds nothing
            if kinds and csv_format.encoding:
                raise UnicodeError  # other encodings than UTF-8 decode any bytes
            with io.TextIOWrapper(unpacked, csv_format.codec, newline="") as text:
                yield text
        except UnicodeError:
            if csv_format.encoding:
                problem = f"is not {csv_format.encoding} text. Correct csv_encoding."
            else:
                is_fixed = is_json or field_name == "exclude_path"  # csv_encoding is about messages_path then
                hint = "" if is_fixed else ", or set csv_encoding, such as 'cp1252' or 'utf-16'"
                problem = f"is not UTF-8 text. Save it as UTF-8{hint}."
            problem = next(iter(kinds), problem)
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
