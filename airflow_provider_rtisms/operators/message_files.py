"""Messages from a file, read as a stream."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.bulk.storage import open_to_read, storage_path
from airflow_provider_rtisms.bulk.storage_errors import explain_failures
from airflow_provider_rtisms.sending.rows import FIELDS, Row, row_of

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.storage import StoragePath

#: No line of messages is longer; more means that this is another kind of file.
MAX_LINE = 1024 * 1024


def read_message_file(path: str | StoragePath) -> Iterator[Row]:
    """
    Give the rows of a file of messages one by one.

    :param path: UTF-8 text, local or in an object store. Its name ends in ``.csv`` (with a header line) or ``.jsonl``;
        ``.gz`` may follow.
    :raises RtiSmsInputError: the name ends otherwise, the header line has other columns, or the file cannot be decoded.
    :raises RtiSmsStorageError: the file cannot be read.
    :raises RtiSmsStorageUnavailableError: the file cannot be read at the moment.
    """
    for position, values in read_table_file(path, "messages_path"):
        if isinstance(values, Secret):
            yield row_of(position, values.get_secret_value())
        else:
            yield Row(position, Secret({}), values)


def read_table_file(path: str | StoragePath, field_name: str) -> Iterator[tuple[str, Secret[Any] | str]]:
    """
    Give the rows of a CSV or JSON-lines file one by one, whatever their columns.

    :param path: as for :func:`read_message_file`.
    :param field_name: how the error names the argument.
    :return: the position of each row with its values by column, or with what is wrong with it.
    :raises RtiSmsInputError: as :func:`read_message_file`.
    """
    place = storage_path(field_name, path)
    suffix = PurePath(place.name.removesuffix(".gz")).suffix
    if suffix not in (".csv", ".jsonl"):
        raise RtiSmsInputError(f"{field_name} ends in {place.name[-20:]!r}: use .csv, .csv.gz, .jsonl or .jsonl.gz.")
    failure: str | None = None
    action = f"Reading {place} ({field_name})"
    with explain_failures(action, Exception), _open_text(place, action) as text:
        try:
            yield from _read_csv(text, field_name) if suffix == ".csv" else _read_json_lines(text)
        except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
            failure = type(error).__name__  # its text may repeat a part of the file
    if failure is not None:
        raise RtiSmsInputError(f"{field_name} is not a {suffix} file in UTF-8 ({failure}). Nothing was sent.")


def _read_csv(text: IO[str], field_name: str) -> Iterator[tuple[str, Secret[Any] | str]]:
    rows = csv.DictReader(text, restval=None, strict=True)
    names = rows.fieldnames or ()
    if field_name == "messages_path" and not ({"recipient", "text"} <= set(names) <= set(FIELDS)):
        raise RtiSmsInputError(
            f"The first line of {field_name} must name the columns recipient, text and maybe reference, and no others."
        )
    line = rows.line_num + 1
    for row in rows:
        is_whole = None not in row and None not in row.values()
        yield f"line {line}", Secret(row) if is_whole else "has more or fewer fields than the first line has columns"
        line = rows.line_num + 1


def _read_json_lines(text: IO[str]) -> Iterator[tuple[str, Secret[Any] | str]]:
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        if line.strip():
            try:
                yield f"line {number}", Secret(json.loads(line))
            except (ValueError, RecursionError):
                yield f"line {number}", "is not JSON"


@contextmanager
def _open_text(path: StoragePath, action: str) -> Iterator[IO[str]]:
    with open_to_read(path, action) as raw:
        is_packed = path.name.endswith(".gz")
        with io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if is_packed else raw, "utf-8-sig", newline="") as text:
            yield text
