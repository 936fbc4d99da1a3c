"""Read submission ids from a file, as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from airflow_provider_rtisms.api.values.ids import check_submission_id
from airflow_provider_rtisms.bulk.lineage import report_input
from airflow_provider_rtisms.bulk.storage import open_to_read, storage_path
from airflow_provider_rtisms.bulk.storage_errors import explain_failures
from airflow_provider_rtisms.tables import decode, read_csv, read_lines

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.storage import StoragePath


def read_id_file(path: str | StoragePath, column: str | None = None) -> Iterator[str]:
    """
    Yield the ids of a file.

    :param path: UTF-8 text, local or in an object store; read through gzip if its name ends in ``.gz``.
    :param column: the column of a CSV with a header line; None for one id per line. Empty lines are skipped.
    :raises RtiSmsInputError: an id is malformed (names the line), or the column is not there or stands there twice.
    :raises RtiSmsStorageError: the file cannot be read.
    :raises RtiSmsStorageUnavailableError: the file cannot be read at the moment.
    """
    location = storage_path("submission_ids_path", path)
    report_input(location)
    name = location.name
    action = f"Reading {location} (submission_ids_path)"
    with (
        explain_failures(action, Exception),
        open_to_read(location, action) as raw,
        decode(raw, f"{location} (submission_ids_path)", is_packed=name.endswith(".gz")) as text,
    ):
        for position, value in _column(text, column, name) if column else _lines(text):
            if value.strip():
                yield check_submission_id(value, f"{position} of {name}")


def _lines(text: IO[str]) -> Iterator[tuple[str, str]]:
    return ((f"line {number}", line) for number, line in read_lines(text))


def _column(text: IO[str], column: str, name: str) -> Iterator[tuple[str, str]]:
    for row in read_csv(text, lambda _: {column: "submission_ids_column"}, name):
        yield row.position, row.values.get_secret_value()[column] or ""
