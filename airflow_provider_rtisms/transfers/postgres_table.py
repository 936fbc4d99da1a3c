"""Private. A table of PostgreSQL: COPY into a temporary table, then one INSERT, in one transaction."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.bulk.formats import RAW
from airflow_provider_rtisms.transfers.databases import LockWaits, library_of, row_values
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

#: The types of a table that this package creates.
TYPES: dict[Kind, str] = {
    "text": "text",
    "boolean": "boolean",
    "money": "numeric",
    "time": "timestamp with time zone",
    "json": "jsonb",
}
#: The types that hold each kind without loss, in an existing table. Times without a zone are in UTC.
ACCEPTED: dict[Kind, list[str]] = {
    "text": ["text", "character varying", "citext"],
    "boolean": ["boolean"],
    "money": ["numeric", "double precision"],
    "time": ["timestamp with time zone", "timestamp without time zone"],
    "json": ["jsonb", "json", "text"],
}
#: Bytes that go to the server together.
BLOCK = 256 * 1024

#: The columns of a table: name, type without its domains, type as declared, whether a value has to be given.
_COLUMNS = """
    WITH RECURSIVE columns AS (
        SELECT attnum, attname, atttypid, atthasdef OR attidentity <> '' AS is_given, attnotnull AS is_needed,
               format_type(atttypid, atttypmod) AS declared
        FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
    ), types AS (
        SELECT attnum, oid, typbasetype, typnotnull, typdefault FROM columns JOIN pg_catalog.pg_type ON oid = atttypid
        UNION ALL
        SELECT attnum, base.oid, base.typbasetype, base.typnotnull, base.typdefault
        FROM types JOIN pg_catalog.pg_type AS base ON base.oid = types.typbasetype
    )
    SELECT attname, max(format_type(oid, NULL)) FILTER (WHERE typbasetype = 0), declared,
           (is_needed OR bool_or(typnotnull)) AND NOT is_given AND count(typdefault) = 0
    FROM columns JOIN types USING (attnum) GROUP BY attnum, attname, declared, is_needed, is_given
"""
#: What a table is: its schema, whether it lacks partitions, whether a key on the submission id alone is deferrable.
_TABLE = f"""
    SELECT relnamespace::regnamespace::text,
           relkind = 'p' AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits WHERE inhparent = pg_class.oid),
           EXISTS (
               SELECT 1 FROM pg_catalog.pg_index JOIN pg_catalog.pg_attribute ON attrelid = indrelid
               WHERE indrelid = pg_class.oid AND indisunique AND NOT indimmediate AND indnkeyatts = 1
                     AND attnum = indkey[0] AND attname = '{KEY}'
           )
    FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)
"""  # noqa: S608
#: What the copy format escapes.
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
_NEEDS_ESCAPE = re.compile(r"[\\\n\r\t]")
#: JSON that jsonb may refuse: NUL and lone surrogates in strings, words of JavaScript, huge numbers.
_UNSAFE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|NaN|Infinity|[eE][+-]?[0-9]{3}|[0-9]{1000}")


class PostgresTable(StagedTable):
    """A table of PostgreSQL 12 and later, through psycopg2 or psycopg 3."""

    _types: dict[str, str]
    _declared: dict[str, str]
    _schema: str

    @property
    def _staged(self) -> str:
        return f"pg_temp.{self.staging}"

    def uri(self) -> str:
        """Return the asset of the table, in the form of Airflow's PostgreSQL provider."""
        connection = self.hook.connection
        database = getattr(self.hook, "database", None) or connection.schema
        return f"postgres://{connection.host}:{connection.port or 5432}/{database}/{self._schema}/{self.name.name}"

    def _exists(self) -> bool:
        with self._transaction(commit=False) as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [self.name.quoted])
            return bool(row_values(cursor.fetchone())[0])

    def _create(self) -> None:
        columns = ", ".join(
            f"{quote(one)} {TYPES[kind_of(one)]}{' NOT NULL' if is_required(one) else ''}" for one in self.columns
        )
        try:
            with self._transaction(commit=True) as cursor:
                statement = f"CREATE TABLE {self.name.quoted} ({columns}, PRIMARY KEY ({quote(KEY)}))"
                self._waits.run(lambda: cursor.execute(statement))
        except Exception:
            if not self._exists():  # another task may have created it meanwhile
                raise

    def _check_columns(self) -> None:
        with self._transaction(commit=False) as cursor:
            cursor.execute(_COLUMNS, [self.name.quoted])
            rows = [row_values(row) for row in cursor.fetchall()]
            cursor.execute(_TABLE, [self.name.quoted])
            self._schema, lacks_partitions, is_deferrable = row_values(cursor.fetchone())
        self._types = {name: type_name for name, type_name, _, _ in rows}
        self._declared = {name: declared for name, _, declared, _ in rows}
        check_existing(str(self.name), self.columns, self._types, ACCEPTED)
        check_needed(str(self.name), self.columns, [name for name, _, _, is_needed in rows if is_needed])
        if lacks_partitions:
            raise RtiSmsInputError(f"The table {self.name} has no partitions: create those that the rows need.")
        if is_deferrable:
            raise RtiSmsInputError(
                f"The table {self.name} has a unique key on {KEY} that is DEFERRABLE, with which ON CONFLICT does not "
                f"work: drop it, and add PRIMARY KEY ({KEY}) NOT DEFERRABLE."
            )

    def _begin(self, connection: Any, cursor: Any) -> None:
        connection.autocommit = False
        cursor.execute("SET LOCAL client_encoding = 'UTF8'")
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")  # for columns without a time zone
        self._waits = LockWaits(connection)

    def _fill_staging(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        types = ", ".join(f"{quote(one)} {'text' if one == RAW else TYPES[kind_of(one)]}" for one in self.columns)
        cursor.execute(f"CREATE TEMPORARY TABLE {self.staging} ({types}) ON COMMIT DROP")
        lines = _CopyLines(json_lines, self.columns, _to_jsonb if self._types.get(RAW) != "text" else str)
        command = f"COPY {self._staged} FROM STDIN"
        if library_of(cursor) == "psycopg":
            with cursor.copy(command) as copy:
                for block in lines.blocks():
                    copy.write(block)
        else:
            cursor.copy_expert(command, _Reader(lines.blocks()), BLOCK)
        if lines.count:
            cursor.execute(f"ANALYZE {self._staged}")  # so that the check of what landed uses the table's key
        return lines.count

    def _value(self, column: str, prefix: str = "") -> str:
        value = super()._value(column, prefix)  # fetched_at is rounded to what the column holds
        return f"{value}::{self._declared[column]}" if column in (RAW, "fetched_at") else value


class _CopyLines:
    """Records in the text format of COPY."""

    def __init__(self, json_lines: Iterable[bytes], columns: Iterable[str], raw: Callable[[str], str]) -> None:
        self._json_lines = json_lines
        self._columns = tuple(columns)
        self._raw = raw
        self.count = 0

    def blocks(self) -> Iterator[bytes]:
        """Yield about :data:`BLOCK` bytes at a time."""
        block: list[str] = []
        size = 0
        for values in values_of(self._json_lines, self._columns):
            if self._columns[-1] == RAW:
                values = (*values[:-1], self._raw(values[-1]))
            line = "\t".join(map(_field, values)) + "\n"
            block.append(line)
            size += len(line)
            self.count += 1
            if size >= BLOCK:
                yield "".join(block).encode()
                block.clear()
                size = 0
        yield "".join(block).encode()


class _Reader(io.RawIOBase):
    """What psycopg2 reads from."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most so many bytes; none at the end."""
        if not self._rest:
            self._rest = next((block for block in self._blocks if block), b"")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def _field(value: Any) -> str:
    if value is None:
        return r"\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES) if _NEEDS_ESCAPE.search(value) else value
    if isinstance(value, bool):
        return "t" if value else "f"
    return repr(value)


def _to_jsonb(raw: str) -> str:
    """Return JSON that jsonb takes: the same, or else a JSON string that holds the text as it came."""
    if not _UNSAFE.search(raw):
        return raw
    try:
        plain = json.dumps(json.loads(raw), ensure_ascii=False, allow_nan=False)
        plain.encode()
        is_safe = "\\u0000" not in plain and not re.search(r"[eE][+-]?[0-9]{3}|[0-9]{1000}", raw)
    except ValueError:
        is_safe = False
    return raw if is_safe else json.dumps(raw)
