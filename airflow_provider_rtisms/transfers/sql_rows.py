"""Private. Rows of a query as messages or as submission ids, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError
from airflow_provider_rtisms.api.values.ids import check_submission_id
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.bulk.store import STORAGE_ERRORS
from airflow_provider_rtisms.sending.messages import PlaceholderText
from airflow_provider_rtisms.tables import Row, read_query
from airflow_provider_rtisms.transfers.databases import get_hook, read_rows

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

#: The column of the ids, unless the query has only one.
DEFAULT_COLUMN = "submission_id"


class TableOfMessages:
    """
    How the columns of a query become messages.

    :param recipient_column: the column of the phone numbers.
    :param text: the text, with ``{column}`` placeholders; None where there is a ``text_column``.
    :param text_column: the column of the texts.
    :param reference_column: the column of the references; None where the recipient identifies the message.
    :raises RtiSmsInputError: the text is malformed, or not exactly one of ``text`` and ``text_column`` is given.
    """

    def __init__(
        self, *, recipient_column: str, text: Any, text_column: str | None, reference_column: str | None
    ) -> None:
        if (text is None) == (text_column is None):
            raise RtiSmsInputError("Give either text or text_column.")
        self._recipient_column = recipient_column
        self._template = None if text is None else PlaceholderText(text)
        self._text_column = text_column
        self._reference_column = reference_column

    def rows(self, columns: Sequence[str], rows: Iterator[Any]) -> Iterator[Row]:
        """
        Give the messages of a query one by one.

        :param columns: of the query.
        :param rows: sequences or mappings of values.
        :raises RtiSmsInputError: a column is missing, or stands there twice.
        """
        for row in read_query(columns, rows, self._choose, note="Nothing was sent."):
            yield self._row(row.position, row.values)

    def _choose(self, columns: Sequence[str]) -> Mapping[str, str]:
        named = {
            self._recipient_column: "recipient_column",
            self._text_column: "text_column",
            self._reference_column: "reference_column",
        }
        used = {column: argument for column, argument in named.items() if column is not None}
        return {**({} if self._template is None else self._template.columns), **used}

    def _row(self, position: str, values: Secret[Mapping[str, Any]]) -> Row:
        problems = []
        text: Any = None
        if self._template is None:
            text = Secret(values.get_secret_value()[self._text_column or ""])
        else:
            text, problem = self._template.fill(values.get_secret_value())
            problems += [problem] if problem else []
        reference = None
        if self._reference_column is not None:
            reference = values.get_secret_value()[self._reference_column]
            if reference is None or reference == "":
                problems.append(f"has no reference in {self._reference_column}")
        recipient = values.get_secret_value()[self._recipient_column]
        message = {"recipient": recipient, "text": text, "reference": reference}
        return Row(position, Secret(message), " and ".join(problems) or None)


def query(sql_conn_id: str | None, sql: str, parameters: Secret[Any], table: TableOfMessages) -> Iterator[Row]:
    """
    Run a query, and give its messages one by one. The connection is closed at the end.

    :param sql_conn_id: Connection of a database.
    :param sql: one SELECT.
    :param parameters: of the query; its value may be None.
    :param table: how columns become messages.
    :raises RtiSmsInputError: the query has other columns.
    :raises RtiSmsConfigError: the Connection is not one of a database, or the package for it is missing.
    :raises RtiSmsStorageError: a person has to change the query, the Connection or the database first.
    :raises RtiSmsStorageUnavailableError: the same may succeed later. No message repeats a value.
    """
    failure: RtiSmsError | None = None
    try:
        yield from read_rows(get_hook("sql_conn_id", sql_conn_id), sql, parameters, table.rows)
    except STORAGE_ERRORS as error:
        failure = error.with_context("Nothing was sent in this attempt.")
    if failure is not None:
        raise failure


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
