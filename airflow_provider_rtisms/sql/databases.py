"""
Private. Databases of Connections: their hooks, queries read as a stream, what their errors mean, and waits for locks.

An error of a database may repeat a value of a row or of a parameter, so its message is not shown. Where the statement
is at fault, its first line is, with no words but the server's own and the names in the statement.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import tenacity

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.compat import AirflowException, BaseHook

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

T = TypeVar("T")

#: Rows that come from the database together.
BATCH = 1000
#: Seconds that a driver waits for a lock at a time: drivers in C hear no signal while they wait.
LOCK_SLICE = 1

#: What is at fault. ``passing`` alone can succeed later without a person.
Fault: TypeAlias = Literal[
    "passing", "statement", "key", "rights", "login", "read-only", "values", "constraint", "placeholders", "unknown"
]
#: Faults whose message names parts of the statement, and is shown.
_OF_THE_STATEMENT = {"statement", "key", "rights"}

#: Beginnings of SQLSTATEs (PostgreSQL, and ODBC: HY, 42S); the first that fits decides. Others are ``unknown``.
_SQLSTATES: list[tuple[Fault, tuple[str, ...]]] = [
    ("passing", ("08", "25P03", "25P04", "26", "40", "53", "55006", "55P03", "57", "58", "72", "HV", "HY", "XX")),
    ("rights", ("42501",)),
    ("key", ("42P10",)),
    ("statement", ("3F", "42")),
    ("login", ("28", "3D")),
    ("read-only", ("25006",)),
    ("values", ("21", "22")),
    ("constraint", ("23", "44")),
]
#: Error numbers of MySQL and MariaDB. From 2000 to 2999 the client gives them, mostly since it reaches no server.
_NUMBERS: list[tuple[Fault, set[int]]] = [
    ("passing", {1021, 1028, 1030, 1037, 1038, 1040, 1041, 1043, 1053, 1077, 1079, 1080, 1114, 1135, 1152, 1158, 1159}),
    ("passing", {1160, 1161, 1180, 1184, 1203, 1205, 1206, 1213, 1226, 1317, 1412, 1614, 1637, 1927, 1969, 3024, 3572}),
    ("passing", {4031, *range(2000, 3000)} - {2019, 2049, 2054, 2058, 2059, 2061}),
    ("rights", {1142, 1143, 1227, 1370}),
    (
        "statement",
        {1046, 1051, 1052, 1054, 1055, 1060, 1064, 1109, 1140, 1146, 1176, 1222, 1241, 1248, 1305, 1318, 1582},
    ),
    ("login", {1044, 1045, 1049, 1130, 1251, 1698, 2019, 2049, 2054, 2058, 2059, 2061}),
    ("read-only", {1036, 1290, 1792, 1836}),
    ("values", {1242, 1264, 1265, 1292, 1364, 1365, 1366, 1367, 1406, 1411, 1426, 1525, 1690}),
    ("constraint", {1048, 1062, 1169, 1216, 1217, 1451, 1452, 1557, 1586, 1644, 3819, 4025}),
]
#: Primary result codes of SQLite. SQLITE_ERROR is what is wrong with a statement.
_RESULT_CODES: list[tuple[Fault, set[int]]] = [
    ("passing", {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}),
    ("passing", {sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_SCHEMA}),
    ("statement", {sqlite3.SQLITE_ERROR}),
    ("login", {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB}),
    ("read-only", {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}),
    ("values", {sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}),
    ("constraint", {sqlite3.SQLITE_CONSTRAINT}),
]
#: The classes of PEP 249 and of Python, of errors without a code; the first that fits decides.
_CLASSES: list[tuple[Fault, set[str]]] = [
    ("constraint", {"IntegrityError"}),
    ("values", {"DataError", "UnicodeError"}),
    ("passing", {"OperationalError", "InterfaceError", "InternalError", "OSError"}),
    ("placeholders", {"ProgrammingError", "TypeError", "LookupError", "ValueError"}),
    ("unknown", {"NotSupportedError", "Warning", "SQLAlchemyError"}),
]
_MYSQL = {"MySQLdb", "pymysql", "mysql", "aiomysql", "mariadb"}
_REFUSED_LOGIN = re.compile(r"authentication failed|no pg_hba\.conf entry|no password supplied|\" does not exist")
_NO_SUCH_KEY = "ON CONFLICT clause does not match"  # of SQLite

_PASSES = "This may be temporary: run the task again later. Airflow does so if the task has retries left."
_NOT_SHOWN = "The message of the database is not shown, because it may repeat a value."
QUERY_REMEDIES: dict[Fault, str] = {
    "statement": "Correct the query, or create what it names.",
    "rights": "Grant the user of the Connection SELECT on the tables of the query, and USAGE on their schemas.",
    "login": "Check the host, the login, the password and the database of the Connection.",
    "read-only": "The Connection leads to a read-only server: use one SELECT, or another server.",
    "values": f"A value of a row or of a parameter does not fit into what the query does with it. {_NOT_SHOWN}",
    "constraint": f"A row breaks a constraint of the database. {_NOT_SHOWN}",
    "placeholders": "The driver refused the query and its parameters. Check that each placeholder has a parameter of a "
    "plain type, and each parameter a placeholder.",
    "unknown": f"Run the query by hand to see what is wrong. {_NOT_SHOWN}",
}
TABLE_REMEDIES: dict[Fault, str] = {
    "rights": "Grant the user of the Connection USAGE on the schema, SELECT, INSERT and UPDATE on the table, and "
    "TEMPORARY on the database (CREATE TEMPORARY TABLES in MySQL and MariaDB); create_table=True also takes CREATE on "
    "the schema.",
    "login": "Check the host, the login, the password and the database of the Connection. In MySQL and MariaDB, the "
    "user also needs CREATE TEMPORARY TABLES on the database.",
    "read-only": "The Connection leads to a read-only server or file: use the primary server, or give the worker's "
    "user the permission to write the file and its folder.",
    "values": f"Make each column wide enough, in a character set that has every character. {_NOT_SHOWN}",
    "constraint": f"Check the other constraints of the table, and its triggers. {_NOT_SHOWN}",
}

#: The words of servers in messages about a statement. All others may be a value.
_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a access aggregate aggregates all allowed alias ambiguous an and any appear are argument arguments array as
    at be between bigint boolean bytea by call can cannot cast char character clause column columns command conflict
    constraint correct corresponds could create database date default defined denied derived determine different does
    doesn double each end error every exclusion exist expression few field for from function functions group has have
    identifier in incomplete index input insert integer interval into invalid is it item join json jsonb key left line
    list manual many MariaDB match matches matching misuse module more must MySQL name names near no not nested number
    numeric of on operator or order parameter parameters permission precision primary procedure query quoted real
    recognized record reference relation returned right row rows same schema select server set should single smallint
    specification specified SQL statement string subquery such syntax t table tables target temporary text that the
    their there this time timestamp to token too type types unique unknown unrecognized unterminated update use used
    user using uuid value values varchar varying version view when where which with without wrong You your zone
    Access Column Duplicate Every FUNCTION FROM Not PROCEDURE SELECT Table The Unknown WHERE CONFLICT ON INSERT UPDATE
    CREATE GROUP BY ORDER Operand expected""",
    )
)
#: String literals and comments; whether a backslash escapes a quote depends on the database.
_LITERALS = [
    re.compile(rf"{string}|--[^\n]*|/\*.*?(?:\*/|\Z)|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)", re.DOTALL)
    for string in (r"'(?:[^']|'')*(?:'|\Z)", r"'(?:[^'\\]|''|\\.)*(?:'|\Z)")
]
_STRINGS_OF_MYSQL = re.compile(r'"(?:[^"\\]|""|\\.)*(?:"|\Z)', re.DOTALL)


def get_hook(field_name: str, conn_id: Any) -> DbApiHook:
    """Return the hook of a database; ``field_name`` is the argument that names its Connection."""
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


def check_parameters(parameters: Secret[Any]) -> None:
    """Check that the parameters of a query are None, a list, a tuple or a mapping."""
    value = parameters.get_secret_value()
    if value is not None and (isinstance(value, str | bytes) or not isinstance(value, Sequence | Mapping)):
        given = shape(value)
        del value
        raise RtiSmsInputError(
            f'parameters is {given}: use a list such as [5], or a dict such as {{"least": 5}}, as the driver of the '
            "database takes them."
        )


def read_rows(
    hook: DbApiHook, sql: str, parameters: Secret[Any], read: Callable[[Sequence[str], Iterator[Any]], Iterator[T]]
) -> Iterator[T]:
    """
    Run one SELECT, and yield what a function makes of its columns and rows. The connection is closed at the end.

    :raises RtiSmsError: from ``read``, or says what is wrong with the query or the database. No message repeats a
        value.
    """
    check_parameters(parameters)
    failure: RtiSmsError | None = None
    try:
        with _closing(hook.get_conn()) as connection:
            cursor, first = LockWaits(connection).run(lambda: _execute(connection, sql, parameters))
            with _closing(cursor):
                if cursor.description is None:
                    raise RtiSmsInputError("The query returns no table: use one SELECT.")
                columns = [str(column[0]) for column in cursor.description]
                yield from read(columns, _rows(cursor, first))
    except (RtiSmsError, AirflowException):  # hooks raise AirflowException before they connect
        raise
    except Exception as error:  # each driver has exceptions of its own
        remedies = QUERY_REMEDIES
        if "%" in sql and parameters.get_secret_value() is not None:
            more = " Write %% for a % sign in the query, because it has parameters."
            remedies = {**remedies, "placeholders": remedies["placeholders"] + more}
        failure = explain("The query", error, sql, remedies)
    if failure is not None:  # outside of the block, since a traceback would show the driver's message
        raise failure


def explain(what: str, error: Exception, statement: str, remedies: Mapping[Fault, str] = TABLE_REMEDIES) -> RtiSmsError:
    """
    Return the error that says what failed and what to do, and that repeats no value of a row or a parameter.

    :param statement: whose names the message may repeat.
    """
    error = getattr(error, "orig", None) or error  # SQLAlchemy's errors hold the driver's
    fault = fault_of(error)
    code = _code(error)
    shown = type(error).__name__ + (f", {code}" if code else "")
    if fault in _OF_THE_STATEMENT:
        shown += f": {_first_line(error, statement)}"
    if fault == "passing":
        return RtiSmsStorageUnavailableError(f"{what} failed ({shown}). {_PASSES}")
    return RtiSmsStorageError(f"{what} failed ({shown}). {remedies.get(fault, 'Check the table and the Connection.')}")


def fault_of(error: Exception) -> Fault:
    """Return what is at fault, by the code of a driver's error, and without one by its class."""
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        if code == sqlite3.SQLITE_ERROR and _NO_SUCH_KEY in str(error):
            return "key"
        return next((one for one, codes in _RESULT_CODES if code & 0xFF in codes), "unknown")
    if (number := _number(error)) is not None:
        return next((one for one, numbers in _NUMBERS if number in numbers), "unknown")
    if state := _sqlstate(error):
        return next((one for one, states in _SQLSTATES if state.startswith(states)), "unknown")
    names = {one.__name__ for one in type(error).__mro__}
    if "OperationalError" in names and _REFUSED_LOGIN.search(str(error)):  # a server that is connected to gives no code
        return "login"
    return next((one for one, classes in _CLASSES if names & classes), "passing")


def is_of_database(error: Exception) -> bool:
    """Return whether a driver (PEP 249), SQLAlchemy or the network raised an error."""
    names = {one.__name__ for one in type(error).__mro__}
    return isinstance(error, OSError) or bool(names & {"Error", "SQLAlchemyError"})


def _number(error: Exception) -> int | None:
    if type(error).__module__.partition(".")[0] not in _MYSQL:
        return None
    number = getattr(error, "errno", None) or next(iter(error.args), None)
    return number if isinstance(number, int) and number > 0 else None


def _sqlstate(error: Exception) -> str | None:
    """Return the SQLSTATE of psycopg 3, of psycopg2, and of drivers for ODBC, which have it as the first argument."""
    states = (getattr(error, "sqlstate", None), getattr(error, "pgcode", None), next(iter(error.args), None))
    is_driver = any(one.__name__ == "Error" for one in type(error).__mro__)
    return next((s for s in states if is_driver and isinstance(s, str) and re.fullmatch("[0-9A-Z]{5}", s)), None)


def _code(error: Exception) -> str | None:
    name: str | None = getattr(error, "sqlite_errorname", None)
    number = _number(error)
    if number is None and isinstance(error, OSError):
        number = error.errno
    return name or (None if number is None else str(number)) or _sqlstate(error)


def _first_line(error: Exception, statement: str) -> str:
    """Return the first line of a message with no words but the server's and the names in the statement."""
    message = str(getattr(error, "msg", None) or (error.args[-1] if _number(error) and error.args else error))
    without_strings = [one.sub(" ", statement) for one in _LITERALS]
    if _number(error) is not None:
        without_strings.append(_STRINGS_OF_MYSQL.sub(" ", without_strings[1]))
    names = set.intersection(*({one.casefold() for one in re.findall(r"[^\W\d]\w*", sql)} for sql in without_strings))

    def shown(word: re.Match[str]) -> str:
        return word[0] if word[0].casefold() in names or word[0] in _WORDS else "***"

    line = re.sub(r"\w+|[^\x20-\x7e]+", shown, message.partition("\n")[0])
    return re.sub(r"\*\*\*(?:\W*\*\*\*)+", "***", line)


class LockWaits:
    """
    Wait for locks a short while at a time, with pauses, so that a signal or ``execution_timeout`` ends the wait soon.

    The wait ends when the limit of the Connection has passed: in PostgreSQL, ``lock_timeout``, which is no limit by
    default; in MySQL and MariaDB, the larger of ``lock_wait_timeout`` and ``innodb_lock_wait_timeout``; in SQLite, its
    busy timeout. Other databases wait as their drivers do.

    :param connection: in PostgreSQL, one that is not in autocommit mode; the settings last until its transaction ends.
    :param most: seconds, for a shorter limit than that of the Connection.
    """

    def __init__(self, connection: Any, most: float = math.inf) -> None:
        self._connection = connection
        self._library = library_of(connection)
        self._limit: float | None = None
        try:
            limit = self._shorten()
            self._limit = None if limit is None else min(limit, most)
        except Exception:  # a database that only speaks as these do
            with suppress(Exception):
                connection.rollback()

    def run(self, attempt: Callable[[], T]) -> T:
        """Do something that may wait for a lock. After each slice, its changes are undone, and it is called again."""
        if self._limit is None:
            return attempt()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_SliceEndedError),
            stop=tenacity.stop_after_delay(self._limit),
            wait=tenacity.wait_exponential(0.1, max=5),
            reraise=True,
        )
        try:
            return retrying(lambda: self._once(attempt))
        except _SliceEndedError as ended:
            raise ended.args[0] from None

    def _once(self, attempt: Callable[[], T]) -> T:
        if self._library != "sqlite3":
            self._do("SAVEPOINT rtisms")
        began = monotonic()
        try:
            return attempt()
        except Exception as error:
            if not _is_lock_timeout(error) or monotonic() - began < 0.9 * LOCK_SLICE:  # such as of FOR UPDATE NOWAIT
                raise
            if self._library != "sqlite3":
                self._undo()
            raise _SliceEndedError(error) from None

    def _undo(self) -> None:
        try:
            self._do("ROLLBACK TO SAVEPOINT rtisms")
        except Exception:
            raise RtiSmsStorageUnavailableError(
                f"The database undid the whole transaction, because it waited too long for a lock. {_PASSES}"
            ) from None

    def _shorten(self) -> float | None:
        """Set the time that the driver waits, and return the seconds that a wait may take; None to leave it alone."""
        if self._library in ("psycopg", "psycopg2"):
            if self._connection.info.server_version < 90300:  # Redshift says that it is an old PostgreSQL
                return None
            (limit,) = self._do("SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'")
            self._do(f"SET LOCAL lock_timeout = {min(limit or math.inf, LOCK_SLICE * 1000)}")
            return limit / 1000 if limit else math.inf
        if self._library in _MYSQL:
            limits = self._do("SELECT @@lock_wait_timeout, @@innodb_lock_wait_timeout")
            self._do(f"SET SESSION lock_wait_timeout = {LOCK_SLICE}, innodb_lock_wait_timeout = {LOCK_SLICE}")
            return float(max(map(int, limits)))
        if self._library == "sqlite3":
            (limit,) = self._do("PRAGMA busy_timeout")
            self._do(f"PRAGMA busy_timeout = {min(limit, LOCK_SLICE * 1000)}")
            return float(limit) / 1000
        return None

    def _do(self, statement: str) -> Sequence[Any]:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement)
            return row_values(cursor.fetchone()) if cursor.description else ()


class _SliceEndedError(Exception):
    """The driver waited for a lock for one slice; the argument is its error."""


def _is_lock_timeout(error: BaseException) -> bool:
    error = getattr(error, "orig", None) or error  # SQLAlchemy's errors hold the driver's
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return True
    return isinstance(error, Exception) and (_number(error) == 1205 or _sqlstate(error) == "55P03")


@contextmanager
def _closing(opened: T) -> Iterator[T]:
    """Close a cursor or a connection; what that raises, such as of rows that were not read, hides no other error."""
    try:
        yield opened
    finally:
        with suppress(Exception):
            opened.close()  # type: ignore[attr-defined]


def _execute(connection: Any, sql: str, parameters: Secret[Any]) -> tuple[Any, Sequence[Any]]:
    """Return the cursor of a query and its first rows: a server-side cursor of psycopg2 knows its columns only then."""
    cursor = open_cursor(connection)
    try:
        if parameters.get_secret_value() is None:
            cursor.execute(sql)
        else:  # without a local variable, which a traceback may show
            cursor.execute(sql, parameters.get_secret_value())
        return cursor, cursor.fetchmany(BATCH)
    except BaseException:
        with suppress(Exception):
            cursor.close()
        raise


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
    return type(connection).__module__.partition(".")[0]


def row_values(row: Any) -> Sequence[Any]:
    """Return the values of a row, which is a mapping where the Connection says so."""
    return tuple(row.values()) if isinstance(row, Mapping) else row


def _rows(cursor: Any, batch: Sequence[Any]) -> Iterator[Any]:
    while batch:
        yield from batch
        batch = cursor.fetchmany(BATCH)
