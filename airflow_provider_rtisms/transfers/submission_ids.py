"""Private. Submission ids of a query, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.ids import check_submission_id
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.tables import read_query
from airflow_provider_rtisms.transfers.databases import read_rows

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

#: The column of the ids, unless the query has only one.
DEFAULT_COLUMN = "submission_id"


def query_ids(hook: DbApiHook, sql: str, parameters: Secret[Any], column: str | None) -> Iterator[str]:
    """
    Run a query, and yield its submission ids.

    :param hook: of the database.
    :param sql: one SELECT.
    :param parameters: of the query; its value may be None.
    :param column: the column of the ids; None for the only one, or for ``submission_id``.
    :raises RtiSmsInputError: the column is not there, or a value is no submission id (names the row).
    :raises RtiSmsStorageError: a person has to change the query, the Connection or the database first.
    :raises RtiSmsStorageUnavailableError: the same may succeed later. No message repeats a value.
    """

    def read(columns: Sequence[str], rows: Iterator[Any]) -> Iterator[str]:
        wanted = column or (columns[0] if len(columns) == 1 else DEFAULT_COLUMN)
        note = "Name the column of the submission ids in submission_ids_column, or select only that one."
        for row in read_query(columns, rows, lambda _: {wanted: "submission_ids_column"}, note=note):
            yield _submission_id(row.values.get_secret_value()[wanted], f"{row.position} of the query")

    return read_rows(hook, sql, parameters, read)


def _submission_id(value: Any, position: str) -> str:
    if value is None:
        raise RtiSmsInputError(f"{position} has no submission id: exclude such rows with WHERE ... IS NOT NULL.")
    return check_submission_id(value, position)
