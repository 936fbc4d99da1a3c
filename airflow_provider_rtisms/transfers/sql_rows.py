"""Private. Rows of a query as rows of messages, read as a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from importlib import import_module
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, BaseHook

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsInputError
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.sending.placeholders import PlaceholderText
from airflow_provider_rtisms.sending.rows import Row

#: Rows that come from the database together.
BATCH = 1000
#: What an error of a database may repeat of a row: quoted values, and digits that may be a phone number.
_VALUES = re.compile(r"'[^']*'|\([^()]*\)=\([^()]*\)|[0-9][0-9 ().-]{5,}[0-9]")


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

    def rows(self, columns: Sequence[str], batches: Iterator[Sequence[Any]]) -> Iterator[Row]:
        """
        Give the messages of a query one by one.

        :param columns: of the query.
        :param batches: its rows: sequences or mappings of values.
        :raises RtiSmsInputError: a column is missing, or stands there twice.
        """
        self._check_columns(columns)
        number = 0
        for batch in batches:
            for values in batch:
                number += 1
                by_column = values if isinstance(values, Mapping) else dict(zip(columns, values, strict=True))
                yield self._row(f"row {number}", Secret(by_column))

    def _check_columns(self, columns: Sequence[str]) -> None:
        named = {
            "recipient_column": self._recipient_column,
            "text_column": self._text_column,
            "reference_column": self._reference_column,
        }
        for argument, column in named.items():
            if column is not None and columns.count(column) != 1:
                problem = "is twice among" if column in columns else "is not among"
                raise RtiSmsInputError(
                    f"{argument} {column!r} {problem} the columns of the query: {', '.join(columns)}. Nothing was sent."
                )
        if self._template is not None:
            self._template.check_columns(columns)

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
    :raises AirflowException: the database failed. The message repeats no value of a row.
    """
    failure: str | None = None
    try:
        with closing(_connect(sql_conn_id)) as connection, closing(_open_cursor(connection)) as cursor:
            if parameters.get_secret_value() is None:
                cursor.execute(sql)
            else:  # without a local variable, which a traceback may show
                cursor.execute(sql, parameters.get_secret_value())
            first = cursor.fetchmany(BATCH)  # a server-side cursor of psycopg2 knows its columns only now
            if cursor.description is None:
                raise RtiSmsInputError("The query returns no table: use one SELECT.")
            columns = [str(column[0]) for column in cursor.description]
            yield from table.rows(columns, _batches(cursor, first))
    except (RtiSmsInputError, RtiSmsConfigError, AirflowException):
        raise
    except Exception as error:  # each driver has exceptions of its own
        failure = f"The query failed ({type(error).__name__}): {_VALUES.sub('***', str(error))}"
    if failure is not None:
        raise AirflowException(failure)


def _batches(cursor: Any, first: Sequence[Any]) -> Iterator[Sequence[Any]]:
    batch = first
    while batch:
        yield batch
        batch = cursor.fetchmany(BATCH)


def _connect(sql_conn_id: str | None) -> Any:
    try:
        from airflow.providers.common.sql.hooks.sql import DbApiHook
    except ImportError:
        raise RtiSmsConfigError(
            "Reading from a database takes apache-airflow-providers-common-sql: "
            "pip install 'airflow-provider-rtisms[sql]'."
        ) from None
    if not isinstance(sql_conn_id, str) or not sql_conn_id:
        raise RtiSmsConfigError("sql_conn_id is missing: name the Connection of the database.")
    hook = BaseHook.get_hook(sql_conn_id)
    if not isinstance(hook, DbApiHook):
        raise RtiSmsConfigError(f"The Connection {sql_conn_id} is not one of a database: its hook is no DbApiHook.")
    return hook.get_conn()


def _open_cursor(connection: Any) -> Any:
    """Return a cursor that leaves the rows on the server, where the driver has one. SQLite's always streams."""
    library = type(connection).__module__.partition(".")[0]
    if library in ("psycopg", "psycopg2"):
        return connection.cursor(name="rtisms")
    if library in ("MySQLdb", "pymysql"):
        with suppress(ImportError):
            return connection.cursor(import_module(f"{library}.cursors").SSCursor)
    return connection.cursor()
