"""Private. A table of SQLite 3.24 and later: a temporary table, then one INSERT, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow_provider_rtisms.transfers.databases import LockWaits
from airflow_provider_rtisms.transfers.sql_table import StagedTable
from airflow_provider_rtisms.transfers.table_columns import (
    KEY,
    Kind,
    check_existing,
    check_needed,
    is_required,
    kind_of,
    quote,
    values_of,
)

#: The types of a table that this package creates. SQLite has none for times and JSON.
TYPES: dict[Kind, str] = {"text": "TEXT", "boolean": "BOOLEAN", "money": "NUMERIC", "time": "TEXT", "json": "TEXT"}
#: The affinities that keep each kind as it is.
ACCEPTED: dict[Kind, list[str]] = {
    "text": ["TEXT", "BLOB"],
    "boolean": ["NUMERIC", "INTEGER", "BLOB"],
    "money": ["NUMERIC", "REAL", "INTEGER", "BLOB"],
    "time": ["TEXT", "NUMERIC", "BLOB"],
    "json": ["TEXT", "BLOB"],
}
#: The columns of a table: name, type, whether a value has to be given. SQLite fills an INTEGER PRIMARY KEY itself.
_COLUMNS = """
    SELECT lower(name), type, "notnull" AND dflt_value IS NULL AND NOT (pk AND upper(type) = 'INTEGER')
    FROM pragma_table_info(?, ?)
"""


class SqliteTable(StagedTable):
    """A table of SQLite."""

    @property
    def _staged(self) -> str:
        return f"temp.{self.staging}"

    def _exists(self) -> bool:
        return bool(self._read_columns())

    def _create(self) -> None:
        columns = ", ".join(
            f"{quote(one)} {TYPES[kind_of(one)]}{' NOT NULL' if is_required(one) else ''}" for one in self.columns
        )
        with self._transaction(commit=True) as cursor:
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {self.name.quoted} ({columns}, PRIMARY KEY ({quote(KEY)}))")

    def _check_columns(self) -> None:
        rows = self._read_columns()
        check_existing(
            str(self.name), self.columns, {name: _affinity(declared) for name, declared, _ in rows}, ACCEPTED
        )
        check_needed(str(self.name), self.columns, [name for name, _, is_needed in rows if is_needed])

    def _read_columns(self) -> list[Any]:
        with self._transaction(commit=False) as cursor:
            return list(cursor.execute(_COLUMNS, [self.name.name, self.name.schema or "main"]))

    def _begin(self, connection: Any, cursor: Any) -> None:
        connection.isolation_level = None
        self._waits = LockWaits(connection)
        self._waits.run(lambda: cursor.execute("BEGIN IMMEDIATE"))  # fails at once where the file cannot be written

    def _commit(self, connection: Any) -> None:
        self._waits.run(connection.commit)

    def _fill_staging(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        cursor.execute(f"CREATE TEMPORARY TABLE {self.staging} ({', '.join(map(quote, self.columns))})")
        marks = ", ".join("?" * len(self.columns))
        cursor.executemany(
            f"INSERT INTO {self._staged} VALUES ({marks})",  # noqa: S608
            values_of(json_lines, self.columns),
        )
        return max(0, int(cursor.rowcount))


def _affinity(declared: str) -> str:
    """Return the affinity of a declared type (sqlite.org/datatype3.html, section 3.1)."""
    declared = declared.upper()
    for words, affinity in (
        (("INT",), "INTEGER"),
        (("CHAR", "CLOB", "TEXT"), "TEXT"),
        (("BLOB",), "BLOB"),
        (("REAL", "FLOA", "DOUB"), "REAL"),
    ):
        if any(word in declared for word in words):
            return affinity
    return "NUMERIC" if declared and declared != "ANY" else "BLOB"
