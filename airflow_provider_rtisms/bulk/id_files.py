"""Read submission ids from a file, as a stream."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.ids import check_submission_id
from airflow_provider_rtisms.bulk.lineage import report_input
from airflow_provider_rtisms.bulk.storage import open_to_read, storage_path
from airflow_provider_rtisms.bulk.storage_errors import explain_failures

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.storage import StoragePath

#: No line of ids is longer; more means that this is another kind of file.
MAX_LINE = 1024 * 1024


def read_id_file(path: str | StoragePath, column: str | None = None) -> Iterator[str]:
    """
    Yield the ids of a file.

    :param path: UTF-8 text, local or in an object store; read through gzip if its name ends in ``.gz``.
    :param column: the column of a CSV with a header line; None for one id per line. Empty lines are skipped.
    :raises RtiSmsInputError: an id is malformed (names the line), or the column is not there.
    :raises RtiSmsStorageError: the file cannot be read.
    :raises RtiSmsStorageUnavailableError: the file cannot be read at the moment.
    """
    location = storage_path("submission_ids_path", path)
    report_input(location)
    name = location.name
    action = f"Reading {location} (submission_ids_path)"
    with explain_failures(action, Exception), _open_text(location, action) as text:
        try:
            for line, value in _column(text, column, name) if column else _lines(text):
                if value.strip():
                    yield check_submission_id(value.strip(), f"line {line} of {name}")
        except UnicodeDecodeError as error:
            raise RtiSmsInputError(f"{name} is not UTF-8 text: {error}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise RtiSmsInputError(f"{name} is a damaged gzip file ({error}). Make it again.") from None


def _lines(text: IO[str]) -> Iterator[tuple[int, str]]:
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        yield number, line


def _column(text: Iterable[str], column: str, name: str) -> Iterator[tuple[int, str]]:
    rows = csv.reader(text, strict=True)  # without it, a quote that never ends swallows the rest of the file
    line = 1
    try:
        names = next(rows, [])
        if column not in names:
            raise RtiSmsInputError(_missing_column(names, column, name))
        position = names.index(column)
        line = rows.line_num + 1
        for row in rows:
            yield line, row[position] if position < len(row) else ""
            line = rows.line_num + 1
    except csv.Error as error:
        raise RtiSmsInputError(f"{name} is not a valid CSV: {error}, in the row that begins on line {line}.") from None


def _missing_column(names: list[str], column: str, name: str) -> str:
    """Explain that a column is missing. The first line may hold data, so nothing of it is repeated."""
    if not names:
        return f"{name} is empty: submission_ids_column {column!r} needs a header line."
    columns = f"{len(names)} column{'s' if len(names) > 1 else ''}"
    found = f"The first line of {name} has {columns}, but none is named {column!r}."
    if any(one.strip().removeprefix("+").isdigit() for one in names):
        return f"{found} The file seems to have no header line: add one."
    return f"{found} Check submission_ids_column, and that the columns are separated by commas."


@contextmanager
def _open_text(path: StoragePath, action: str) -> Iterator[IO[str]]:
    with open_to_read(path, action) as raw:
        is_packed = path.name.endswith(".gz")
        with io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if is_packed else raw, "utf-8-sig", newline="") as text:
            yield text
