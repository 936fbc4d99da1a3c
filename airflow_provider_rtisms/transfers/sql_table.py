"""Private. A table that takes records, in any database: all of them in one transaction, or none."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError
from airflow_provider_rtisms.transfers.databases import LockWaits, explain, is_of_database, row_values
from airflow_provider_rtisms.transfers.table_columns import KEY, TableName, quote

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

log = logging.getLogger(__name__)

T = TypeVar("T")
OnConflict: TypeAlias = Literal["update", "ignore"]

#: Schemas of tables that only one connection sees: of PostgreSQL and of SQLite.
_TEMPORARY = ("pg_temp", "temp")


class SqlTable(ABC):
    """
    A table of records, one row for each submission.

    :param hook: of the database.
    :param name: of the table.
    :param columns: of the records.
    :param on_conflict: what to do with a row that the table has already.
    """

    _waits: LockWaits

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
        schema = (self.name.schema or "").lower()
        if schema in _TEMPORARY or schema.startswith("pg_temp_"):
            raise RtiSmsInputError(
                f"The table {self.name} is a temporary one, which disappears with its connection: name another schema."
            )
        if not self._explained("Checking", self._exists):
            if not create:
                raise RtiSmsInputError(
                    f"The table {self.name} does not exist. Create it, or set create_table=True. Names are taken as "
                    "they are, upper and lower case included."
                )
            self._explained("Creating", self._create)
            if not self._explained("Checking", self._exists):
                raise RtiSmsInputError(
                    f"The table {self.name} was created, and another connection does not see it. Name its schema."
                )
        self._explained("Checking", self._check_columns)
        self._explained("Checking", lambda: self._write(iter(()), commit=False))

    def load(self, json_lines: Iterable[bytes]) -> int:
        """
        Write records in one transaction.

        :param json_lines: the records.
        :return: how many rows were inserted or updated.
        :raises RtiSmsStorageError: a person has to change something first. The table is as it was before.
        :raises RtiSmsStorageUnavailableError: the same may succeed later. The table is as it was before.
        """
        return self._explained("Writing", lambda: self._write(json_lines, commit=True))

    def _write(self, json_lines: Iterable[bytes], *, commit: bool) -> int:
        with self._transaction(commit=commit) as cursor:
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
        """Begin a transaction on a new connection, and set ``_waits``."""

    def _commit(self, connection: Any) -> None:
        """Commit the transaction."""
        connection.commit()

    @contextmanager
    def _transaction(self, *, commit: bool) -> Iterator[Any]:
        """Yield a cursor, then commit or roll back."""
        with closing(self.hook.get_conn()) as connection:
            try:
                with closing(connection.cursor()) as cursor:
                    self._begin(connection, cursor)
                    yield cursor
                self._commit(connection) if commit else connection.rollback()
            except BaseException:
                with suppress(Exception):  # the connection may be lost
                    connection.rollback()
                raise

    def _explained(self, action: str, work: Callable[[], T]) -> T:
        """
        Return what a function returns, and explain the driver's errors.

        This is no context manager: what one raises has the driver's error, and so perhaps a row, as its context.
        """
        try:
            return work()
        except RtiSmsError:
            raise
        except Exception as error:
            if not is_of_database(error):
                raise
            names = " ".join((*filter(None, self.name), *self.columns))
            failure = explain(f"{action} the table {self.name}", error, names)
        raise failure  # outside of the block, for the same reason


class StagedTable(SqlTable):
    """A table of a database with temporary tables and ``INSERT ... ON CONFLICT``: PostgreSQL and SQLite."""

    @property
    def staging(self) -> str:
        """The name of the temporary table, which only this connection sees; never that of the table."""
        return "rtisms_staging_2" if self.name.name.lower() == "rtisms_staging" else "rtisms_staging"

    @abstractmethod
    def _fill_staging(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        """Create the temporary table and write records into it; return how many."""

    @property
    @abstractmethod
    def _staged(self) -> str:
        """The temporary table, with its schema."""

    def _value(self, column: str, prefix: str = "") -> str:
        """Return the SQL of a value in the temporary table, as the table takes it."""
        return prefix + quote(column)

    def _upsert(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        records = self._fill_staging(cursor, json_lines)

        def insert() -> int:
            cursor.execute(self._upsert_sql())
            return int(cursor.rowcount)

        written = self._waits.run(insert)
        cursor.execute(self._lost_sql())
        if lost := row_values(cursor.fetchone())[0]:
            raise RtiSmsStorageError(
                f"{lost} of {records} records did not land in the table {self.name}, and the database reported no "
                "error. Check its triggers, rules and row security policies."
            )
        return written

    def _lost_sql(self) -> str:
        """Return the query that counts records without a row, or whose row has an older ``fetched_at``."""
        fetched_at = quote("fetched_at")
        is_there = f"t.{quote(KEY)} = staged.{quote(KEY)}"
        if self.on_conflict == "update":  # a row that is newer than the record stays
            is_there += f" AND t.{fetched_at} >= {self._value('fetched_at', 'staged.')}"
        return (
            f"SELECT count(*) FROM {self._staged} AS staged WHERE NOT EXISTS "  # noqa: S608
            f"(SELECT 1 FROM {self.name.quoted} AS t WHERE {is_there})"
        )

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
            f"INSERT INTO {self.name.quoted} AS t ({columns}) SELECT {values} FROM {self._staged} WHERE true "  # noqa: S608
            f"ORDER BY {quote(KEY)} ON CONFLICT ({quote(KEY)}) DO {action}"
        )


def check_on_conflict(value: Any) -> None:
    """
    Check an operator's ``on_conflict``.

    :raises RtiSmsInputError: it is neither ``update`` nor ``ignore``.
    """
    if value not in ("update", "ignore"):
        raise RtiSmsInputError(f'on_conflict is {shape(value)}: use "update" or "ignore".')
