"""Private. A table that takes records, in any database: all of them in one transaction, or none."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.transfers.databases import message_of
from airflow_provider_rtisms.transfers.table_columns import KEY, TableName, quote

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger(__name__)

OnConflict: TypeAlias = Literal["update", "ignore"]

#: What drivers raise for a condition that passes (PEP 249).
_TRANSIENT_CLASSES = {"OperationalError", "InterfaceError", "InternalError", "OSError"}


class SqlTable(ABC):
    """
    A table of records, one row for each submission.

    :param hook: of the database.
    :param name: of the table.
    :param columns: of the records.
    :param on_conflict: what to do with a row that the table has already.
    """

    def __init__(self, hook: DbApiHook, name: TableName, columns: Sequence[str], on_conflict: OnConflict) -> None:
        self.hook = hook
        self.name = name
        self.columns = tuple(columns)
        self.on_conflict = on_conflict

    def __str__(self) -> str:
        return f"table {self.name}"

    def uri(self) -> str | None:
        """Return the asset of the table, once it is checked; None if its database has no form of assets."""
        return None

    def check(self, *, create: bool) -> None:
        """
        Find out whether the table can take records. Nothing is written into it.

        :param create: whether to make the table if it does not exist.
        :raises RtiSmsInputError: it does not exist, or it has other columns.
        :raises RtiSmsStorageError: it has no unique key on the submission id, or the user may not write to it.
        :raises RtiSmsStorageUnavailableError: the database cannot be reached at the moment.
        """
        with self._explained("Checking"):
            if not self._exists():
                if not create:
                    raise RtiSmsInputError(
                        f"The table {self.name} does not exist. Create it, or set create_table=True. Names are taken "
                        "as they are, upper and lower case included."
                    )
                self._create()
            self._check_columns()
            with self._transaction("Checking", commit=False) as cursor:
                self._upsert(cursor, iter(()))

    def load(self, json_lines: Iterable[bytes]) -> int:
        """
        Write records in one transaction.

        :param json_lines: the records.
        :return: how many rows were inserted or updated.
        :raises RtiSmsStorageError: a person has to change something first. The table is as it was before.
        :raises RtiSmsStorageUnavailableError: the same may succeed later. The table is as it was before.
        """
        with self._transaction("Writing") as cursor:
            return self._upsert(cursor, json_lines)

    @abstractmethod
    def _exists(self) -> bool:
        """Return whether there is such a table."""

    @abstractmethod
    def _create(self) -> None:
        """Create the table, unless another task has just done so."""

    @abstractmethod
    def _check_columns(self) -> None:
        """Check the columns of the table."""

    @abstractmethod
    def _upsert(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        """Write records; return how many rows were inserted or updated. None still checks permissions and keys."""

    @abstractmethod
    def _begin(self, connection: Any, cursor: Any) -> None:
        """Prepare a new connection for a transaction."""

    def _diagnose(self, error: Exception) -> tuple[bool, str]:
        """Return whether an error of the driver is permanent, and what to do about it."""
        names = {one.__name__ for one in type(error).__mro__}
        return not names & _TRANSIENT_CLASSES, "Check the table and the Connection."

    @contextmanager
    def _transaction(self, action: str, *, commit: bool = True) -> Iterator[Any]:
        """Yield a cursor, then commit. Errors of the driver are explained."""
        with self._explained(action), closing(self.hook.get_conn()) as connection:
            try:
                with closing(connection.cursor()) as cursor:
                    self._begin(connection, cursor)
                    yield cursor
                connection.commit() if commit else connection.rollback()
            except BaseException:
                with suppress(Exception):  # the connection may be lost
                    connection.rollback()
                raise

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        failure: RtiSmsError | None = None
        try:
            yield
        except RtiSmsError:
            raise
        except Exception as error:
            if not _is_of_database(error):
                raise
            failure = self._explain(action, error)
        if failure is not None:  # outside of the block, since a traceback would show the row in the driver's message
            raise failure

    def _explain(self, action: str, error: Exception) -> RtiSmsError:
        is_permanent, remedy = self._diagnose(error)
        first_line = message_of(error).partition("\n")[0]  # the other lines may repeat a row
        what = f"{action} the table {self.name} failed ({type(error).__name__}: {first_line}). "
        if is_permanent:
            return RtiSmsStorageError(what + remedy)
        return RtiSmsStorageUnavailableError(
            f"{what}This may be temporary: run the task again later. Airflow does so if the task has retries left."
        )


class StagedTable(SqlTable):
    """A table of a database with temporary tables and ``INSERT ... ON CONFLICT``: PostgreSQL and SQLite."""

    #: The temporary table, which only this connection sees.
    staging: str

    @abstractmethod
    def _fill_staging(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        """Create the temporary table and write records into it; return how many."""

    def _value(self, column: str) -> str:
        """Return the SQL of a value in the temporary table, as the table takes it."""
        return quote(column)

    def _upsert(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        records = self._fill_staging(cursor, json_lines)
        cursor.execute(self._upsert_sql())
        written = int(cursor.rowcount)
        if written < records:  # rows that were there already may be untouched; the others must be there now
            cursor.execute(
                f"SELECT count(*) FROM {self.staging} AS staged WHERE NOT EXISTS "  # noqa: S608
                f"(SELECT 1 FROM {self.name.quoted} AS t WHERE t.{quote(KEY)} = staged.{quote(KEY)})"
            )
            if lost := row_values(cursor.fetchone())[0]:
                raise RtiSmsStorageError(
                    f"{lost} of {records} records did not land in the table {self.name}, and the database reported no "
                    "error. Check its triggers, rules and row security policies."
                )
        return written

    def _upsert_sql(self) -> str:
        """Return the statement that moves all records into the table. All names in it are quoted."""
        columns = ", ".join(map(quote, self.columns))
        values = ", ".join(map(self._value, self.columns))
        action = "NOTHING"
        if self.on_conflict == "update":
            changes = ", ".join(f"{quote(one)} = excluded.{quote(one)}" for one in self.columns if one != KEY)
            # A resumed fetch may hold records that are older than what another run has written meanwhile.
            fetched_at = quote("fetched_at")
            action = f"UPDATE SET {changes} WHERE t.{fetched_at} IS NULL OR t.{fetched_at} <= excluded.{fetched_at}"
        # Two loads that lock their rows in the same order cannot block each other. SQLite needs the WHERE.
        return (
            f"INSERT INTO {self.name.quoted} AS t ({columns}) SELECT {values} FROM {self.staging} WHERE true "  # noqa: S608
            f"ORDER BY {quote(KEY)} ON CONFLICT ({quote(KEY)}) DO {action}"
        )


def _is_of_database(error: Exception) -> bool:
    """Return whether a driver (PEP 249), SQLAlchemy or the network raised an error."""
    names = {one.__name__ for one in type(error).__mro__}
    return isinstance(error, OSError) or bool(names & {"Error", "SQLAlchemyError"})


def row_values(row: Any) -> Sequence[Any]:
    """Return the values of a row; some Connections ask for rows as mappings."""
    return tuple(row.values()) if isinstance(row, Mapping) else row


def check_on_conflict(value: Any) -> None:
    """
    Check an operator's ``on_conflict``.

    :raises RtiSmsInputError: it is neither ``update`` nor ``ignore``.
    """
    if value not in ("update", "ignore"):
        raise RtiSmsInputError(f'on_conflict is {shape(value)}: use "update" or "ignore".')
