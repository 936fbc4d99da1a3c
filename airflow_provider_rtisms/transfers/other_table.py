"""Private. A table of another database with unique keys: one statement reads which rows exist, others write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsInputError
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError
from airflow_provider_rtisms.transfers.databases import LockWaits, row_values
from airflow_provider_rtisms.transfers.sql_table import SqlTable
from airflow_provider_rtisms.transfers.table_columns import KEY, Kind, check_existing, check_needed, kind_of, values_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Inspector

#: Databases that enforce unique keys and have transactions, by the name of their SQLAlchemy dialect.
DIALECTS = {"mysql", "mariadb", "mssql", "sqlite", "postgresql"}
#: Records that are written together.
BATCH = 500
#: The Python types that SQLAlchemy gives for columns that hold each kind.
ACCEPTED: dict[Kind, list[str]] = {
    "text": ["str"],
    "boolean": ["bool", "int"],
    "money": ["Decimal", "float"],
    "time": ["datetime"],
    "json": ["str", "dict"],
}


class OtherTable(SqlTable):
    """
    A table of MySQL, MariaDB or SQL Server, with plain statements.

    ``DbApiHook.insert_rows`` is not used: it cannot leave existing rows alone, on MySQL it deletes a row before it
    inserts it again, and its log repeats the rows if one of them fails.
    """

    def _exists(self) -> bool:
        return bool(self._inspector.has_table(self.name.name, schema=self.name.schema))

    def _create(self) -> None:
        raise RtiSmsConfigError(
            f"create_table=True works with PostgreSQL and SQLite. Create the table {self.name} yourself, with a "
            f"primary key on {KEY}, and these columns: {', '.join(self.columns)}."
        )

    def _check_columns(self) -> None:
        name = str(self.name)
        columns = self._inspector.get_columns(self.name.name, schema=self.name.schema)
        types = {str(one["name"]).lower(): _python_type(one["type"], str(one["name"]).lower()) for one in columns}
        check_existing(name, self.columns, types, ACCEPTED)
        needed = [
            str(one["name"]).lower()
            for one in columns
            if not (one["nullable"] or one.get("default") or one.get("autoincrement") is True or one.get("identity"))
        ]
        check_needed(name, self.columns, needed)
        primary = self._inspector.get_pk_constraint(self.name.name, schema=self.name.schema)
        indexes = self._inspector.get_indexes(self.name.name, schema=self.name.schema)
        keys: list[Any] = [primary["constrained_columns"], *(one["column_names"] for one in indexes if one["unique"])]
        if not any([str(column).lower() for column in key] == [KEY] for key in keys):
            raise RtiSmsInputError(f"The table {name} has no unique key on {KEY} alone: add a primary key.")

    def _upsert(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        records = values_of(json_lines, self.columns)
        written = 0
        self._waits.run(lambda: self._check_permissions(cursor))
        while batch := [self._bound(values) for values in islice(records, BATCH)]:
            written += self._waits.run(partial(self._upsert_batch, cursor, batch))
        return written

    def _check_permissions(self, cursor: Any) -> None:
        cursor.execute(f"INSERT INTO {self._table} ({self._names}) SELECT {self._names} FROM {self._table} WHERE 1 = 0")  # noqa: S608
        cursor.execute(f"UPDATE {self._table} SET {self._quote(KEY)} = {self._quote(KEY)} WHERE 1 = 0")  # noqa: S608

    def _read_moments(self, cursor: Any, batch: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Return the ``fetched_at`` of the rows that exist, by submission id."""
        key = self.columns.index(KEY)
        marks = ", ".join([self.hook.placeholder] * len(batch))
        cursor.execute(
            f"SELECT {self._quote(KEY)}, {self._quote('fetched_at')} FROM {self._table} "  # noqa: S608
            f"WHERE {self._quote(KEY)} IN ({marks})",
            [values[key] for values in batch],
        )
        return {str(one).strip(): moment for one, moment in map(row_values, cursor.fetchall())}

    def _upsert_batch(self, cursor: Any, batch: Sequence[Sequence[Any]]) -> int:
        mark = self.hook.placeholder
        key = self.columns.index(KEY)
        fetched_at = self.columns.index("fetched_at")
        known = self._read_moments(cursor, batch)
        if new := [values for values in batch if values[key] not in known]:
            marks = ", ".join([mark] * len(self.columns))
            cursor.executemany(f"INSERT INTO {self._table} ({self._names}) VALUES ({marks})", new)  # noqa: S608
        if self.on_conflict == "ignore" or len(new) == len(batch):
            return len(new)
        changes = ", ".join(f"{self._quote(one)} = {mark}" for one in self.columns)
        moment = self._quote("fetched_at")
        cursor.executemany(
            f"UPDATE {self._table} SET {changes} WHERE {self._quote(KEY)} = {mark} "  # noqa: S608
            f"AND ({moment} IS NULL OR {moment} <= {mark})",
            [(*values, values[key], values[fetched_at]) for values in batch if values[key] in known],
        )
        written = len(new) + max(0, int(cursor.rowcount))
        now = self._read_moments(cursor, batch)
        if lost := sum(_is_unchanged(now.get(one[key]), known.get(one[key]), one[fetched_at]) for one in batch):
            raise RtiSmsStorageError(
                f"{lost} of {len(batch)} records did not land in the table {self.name}, and the database reported no "
                "error. Check its triggers."
            )
        return written

    def _begin(self, connection: Any, cursor: Any) -> None:
        if self.hook.supports_autocommit:
            self.hook.set_autocommit(connection, False)
        self._waits = LockWaits(connection)

    def _bound(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Return values as drivers take them. Times have no zone, since not all databases know zones: they are UTC."""
        return tuple(_bind(kind_of(column), value) for column, value in zip(self.columns, values, strict=True))

    @property
    def _table(self) -> str:
        return ".".join(self._quote(part) for part in self.name if part)

    @property
    def _names(self) -> str:
        return ", ".join(map(self._quote, self.columns))

    def _quote(self, name: str) -> str:
        return str(self._inspector.dialect.identifier_preparer.quote_identifier(name))

    @cached_property
    def _inspector(self) -> Inspector:
        try:
            from sqlalchemy import inspect

            engine = self.hook.get_sqlalchemy_engine()
            dialect = engine.dialect.name
        except Exception as error:
            raise RtiSmsConfigError(
                f"The database of the Connection cannot be inspected ({type(error).__name__}): SQLAlchemy and its "
                f"dialect for the database are needed. {_ALTERNATIVE}"
            ) from None
        if dialect not in DIALECTS or self.hook.placeholder not in ("%s", "?"):
            raise RtiSmsConfigError(f"No row can be updated safely in {dialect}: it is not supported. {_ALTERNATIVE}")
        return inspect(engine)


_ALTERNATIVE = (
    "PostgreSQL, SQLite, MySQL, MariaDB and SQL Server work. For others, write a file with "
    "RtiSmsBulkGetDetailsOperator(output_path=...), and load it with the tools of the database."
)


def _bind(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind == "money":
        return Decimal(str(value))
    if kind == "time":
        return datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)
    return value


def _is_unchanged(now: Any, before: Any, fetched_at: datetime) -> bool:
    """Return whether a row is missing, or holds an older ``fetched_at`` as before; columns may round it to a minute."""
    if now is None:
        return True
    moment = datetime.fromisoformat(now) if isinstance(now, str) else now
    return now == before and bool(moment.replace(tzinfo=None) < fetched_at - timedelta(minutes=1))


def _python_type(sql_type: Any, column: str) -> str:
    try:
        return str(sql_type.python_type.__name__)
    except NotImplementedError:  # a type of one database alone
        return ACCEPTED[kind_of(column)][0]
