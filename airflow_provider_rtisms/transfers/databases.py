"""Private. Databases of Connections: their hooks, queries read as a stream, and errors that repeat no values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, BaseHook

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.secret import Secret

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

T = TypeVar("T")

#: Rows that come from the database together.
BATCH = 1000
#: What an error of a database may repeat of a row: quoted values, and digits that may be a phone number.
_VALUES = re.compile(r"'[^']*'|\([^()]*\)=\([^()]*\)|[0-9][0-9 ().-]{5,}[0-9]")


def get_hook(field_name: str, conn_id: Any) -> DbApiHook:
    """
    Return the hook of a database.

    :param field_name: the argument that names the Connection, for errors.
    :param conn_id: the Connection.
    :raises RtiSmsConfigError: it is missing, is not one of a database, or a package is not installed.
    """
    try:
        from airflow.providers.common.sql.hooks.sql import DbApiHook
    except ImportError:
        raise RtiSmsConfigError(
            "Databases take apache-airflow-providers-common-sql: pip install 'airflow-provider-rtisms[sql]'."
        ) from None
    if not isinstance(conn_id, str) or not conn_id.strip() or conn_id == "None":
        given = "missing" if conn_id in (None, "", "None") else shape(conn_id)
        raise RtiSmsConfigError(f"{field_name} is {given}: name the Connection of the database.")
    try:
        hook = BaseHook.get_hook(conn_id)
    except AirflowException as error:
        if type(error).__name__ == "AirflowNotFoundException":
            raise RtiSmsConfigError(f"There is no Connection {conn_id!r} ({field_name}): add it.") from error
        raise RtiSmsConfigError(
            f"The Connection {conn_id!r} ({field_name}) cannot be used ({error}). Check its type, and install the "
            "Airflow provider of the database on every worker."
        ) from error
    if not isinstance(hook, DbApiHook):
        raise RtiSmsConfigError(f"The Connection {conn_id} is not one of a database: its hook is no DbApiHook.")
    return hook


def read_rows(
    hook: DbApiHook, sql: str, parameters: Secret[Any], read: Callable[[Sequence[str], Iterator[Any]], Iterator[T]]
) -> Iterator[T]:
    """
    Run a query, and yield what a function makes of its rows. The connection is closed at the end.

    :param hook: of the database.
    :param sql: one SELECT.
    :param parameters: of the query; its value may be None.
    :param read: called with the columns and the rows (sequences, or mappings by column).
    :raises RtiSmsInputError: the query returns no table, or what ``read`` raises.
    :raises AirflowException: the database failed. The message repeats no value of a row.
    """
    failure: str | None = None
    try:
        with closing(hook.get_conn()) as connection, closing(open_cursor(connection)) as cursor:
            if parameters.get_secret_value() is None:
                cursor.execute(sql)
            else:  # without a local variable, which a traceback may show
                cursor.execute(sql, parameters.get_secret_value())
            first = cursor.fetchmany(BATCH)  # a server-side cursor of psycopg2 knows its columns only now
            if cursor.description is None:
                raise RtiSmsInputError("The query returns no table: use one SELECT.")
            columns = [str(column[0]) for column in cursor.description]
            yield from read(columns, _rows(cursor, first))
    except (RtiSmsInputError, RtiSmsConfigError, AirflowException):
        raise
    except Exception as error:  # each driver has exceptions of its own
        failure = f"The query failed ({type(error).__name__}): {message_of(error)}"
    if failure is not None:
        raise AirflowException(failure)


def message_of(error: Exception) -> str:
    """Return the message of a driver's error, without values of rows."""
    return _VALUES.sub("***", str(error))


def open_cursor(connection: Any) -> Any:
    """Return a cursor that leaves the rows on the server, where the driver has one. SQLite's always streams."""
    library = library_of(connection)
    if library in ("psycopg", "psycopg2"):
        return connection.cursor(name="rtisms")
    if library in ("MySQLdb", "pymysql"):
        with suppress(ImportError):
            return connection.cursor(import_module(f"{library}.cursors").SSCursor)
    return connection.cursor()


def library_of(connection: Any) -> str:
    """Return the name of the package that a connection comes from."""
    return type(connection).__module__.partition(".")[0]


def _rows(cursor: Any, first: Sequence[Any]) -> Iterator[Any]:
    batch = first
    while batch:
        yield from batch
        batch = cursor.fetchmany(BATCH)
