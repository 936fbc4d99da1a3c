"""Messages from a file, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.bulk.storage import open_to_read, storage_path
from airflow_provider_rtisms.bulk.storage_errors import explain_failures
from airflow_provider_rtisms.sending.messages import FIELDS, row_of
from airflow_provider_rtisms.tables import ChooseColumns, Row, decode, read_csv, read_json_lines

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.storage import StoragePath


def read_message_file(path: str | StoragePath) -> Iterator[Row]:
    """
    Give the rows of a file of messages one by one.

    :param path: UTF-8 text, local or in an object store. Its name ends in ``.csv`` (with a header line) or ``.jsonl``;
        ``.gz`` may follow.
    :raises RtiSmsInputError: the name ends otherwise, the header line has other columns or one of them twice, or the
        file cannot be decoded.
    :raises RtiSmsStorageError: the file cannot be read.
    :raises RtiSmsStorageUnavailableError: the file cannot be read at the moment.
    """
    for row in read_table_file(path, "messages_path", _choose):
        if row.problem is None:
            yield row_of(row.position, row.values.get_secret_value())
        else:
            yield Row(row.position, Secret({}), row.problem)


def _choose(columns: Sequence[str]) -> Mapping[str, str]:
    if not {"recipient", "text"} <= set(columns) <= set(FIELDS):
        raise RtiSmsInputError(
            "The first line of messages_path must name the columns recipient, text and maybe reference, and no others."
            " Nothing was sent."
        )
    return dict.fromkeys(columns, "messages_path")


def wrong_ending(field_name: str) -> RtiSmsInputError:
    """Return the error for the name of a file of messages or results. It does not show what may be a file's content."""
    return RtiSmsInputError(
        f"{field_name} does not end in .csv, .csv.gz, .jsonl or .jsonl.gz: rename the file. A templated field that "
        "ends in .txt, .j2 or .sql names a template file, and holds its content."
    )


def read_table_file(path: str | StoragePath, field_name: str, choose: ChooseColumns) -> Iterator[Row]:
    """
    Give the rows of a CSV or JSON-lines file one by one, whatever their columns.

    :param path: as for :func:`read_message_file`.
    :param field_name: how the error names the argument.
    :param choose: which columns of a CSV are used. Objects of JSON lines come whole.
    :return: each row with its values by column, or with what is wrong with it.
    :raises RtiSmsInputError: as :func:`read_message_file`.
    """
    place = storage_path(field_name, path)
    suffix = PurePath(place.name.removesuffix(".gz")).suffix
    if suffix not in (".csv", ".jsonl"):
        raise wrong_ending(field_name)
    action = f"Reading {place} ({field_name})"
    note = "Nothing was sent."
    with (
        explain_failures(action, Exception),
        open_to_read(place, action) as raw,
        decode(raw, f"{place} ({field_name})", is_packed=place.name.endswith(".gz"), note=note) as text,
    ):
        yield from read_csv(text, choose, field_name, note=note) if suffix == ".csv" else read_json_lines(text)
