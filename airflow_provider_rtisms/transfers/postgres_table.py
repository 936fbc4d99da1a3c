"""Private. A table of PostgreSQL: COPY into a temporary table, then one INSERT, in one transaction."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from airflow_provider_rtisms.bulk.records import RAW
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError
from airflow_provider_rtisms.transfers.databases import library_of
from airflow_provider_rtisms.transfers.sql_table import StagedTable, row_values
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

#: The columns of a table, domains resolved: name, type, whether a value has to be given.
_COLUMNS = """
    SELECT a.attname, format_type(CASE WHEN t.typbasetype = 0 THEN t.oid ELSE t.typbasetype END, NULL),
           a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
    FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
#: SQLSTATE classes of errors that stay until a person changes something.
_PERMANENT = ("0A", "22", "23", "25006", "28", "3D", "3F", "42", "44", "55000")
_REMEDIES = {
    "42501": "Grant the user of the Connection USAGE on the schema, SELECT, INSERT and UPDATE on the table, and "
    "TEMPORARY on the database; create_table=True also takes CREATE on the schema.",
    "42P10": f"Add a unique key on {KEY} alone: ALTER TABLE ... ADD PRIMARY KEY ({KEY}).",
    "25006": "The Connection leads to a read-only server: use the primary one.",
    "22": "Make the column wide enough for what the API returns.",
    "23": "Check the other constraints of the table.",
}
_REFUSED_LOGIN = re.compile(r"authentication failed|no pg_hba\.conf entry|no password supplied|\" does not exist")
#: What the copy format escapes.
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
_NEEDS_ESCAPE = re.compile(r"[\\\n\r\t]")
#: JSON that jsonb may refuse: NUL and lone surrogates in strings, words of JavaScript, huge numbers.
_UNSAFE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|NaN|Infinity|[eE][+-]?[0-9]{3}|[0-9]{1000}")


class PostgresTable(StagedTable):
    """A table of PostgreSQL 12 and later, through psycopg2 or psycopg 3."""

    staging = "pg_temp.rtisms_staging"
    _types: dict[str, str]
    _schema: str

    def uri(self) -> str:
        """Return the asset of the table, in the form of Airflow's PostgreSQL provider."""
        connection = self.hook.connection
        database = getattr(self.hook, "database", None) or connection.schema
        return f"postgres://{connection.host}:{connection.port or 5432}/{database}/{self._schema}/{self.name.name}"

    def _exists(self) -> bool:
        with self._transaction("Checking", commit=False) as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [self.name.quoted])
            return bool(row_values(cursor.fetchone())[0])

    def _create(self) -> None:
        columns = ", ".join(
            f"{quote(one)} {TYPES[kind_of(one)]}{' NOT NULL' if is_required(one) else ''}" for one in self.columns
        )
        try:
            with self._transaction("Creating") as cursor:
                cursor.execute(f"CREATE TABLE {self.name.quoted} ({columns}, PRIMARY KEY ({quote(KEY)}))")
        except RtiSmsStorageError:
            if not self._exists():  # another task may have created it meanwhile
                raise

    def _check_columns(self) -> None:
        with self._transaction("Checking", commit=False) as cursor:
            cursor.execute(_COLUMNS, [self.name.quoted])
            rows = [row_values(row) for row in cursor.fetchall()]
            cursor.execute(
                "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(%s)", [self.name.quoted]
            )
            self._schema = row_values(cursor.fetchone())[0]
        self._types = {name: type_name for name, type_name, _ in rows}
        check_existing(str(self.name), self.columns, self._types, ACCEPTED)
        check_needed(str(self.name), self.columns, [name for name, _, is_needed in rows if is_needed])

    def _begin(self, connection: Any, cursor: Any) -> None:
        connection.autocommit = False
        cursor.execute("SET LOCAL client_encoding = 'UTF8'")
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")  # for columns without a time zone

    def _fill_staging(self, cursor: Any, json_lines: Iterable[bytes]) -> int:
        types = ", ".join(f"{quote(one)} {'text' if one == RAW else TYPES[kind_of(one)]}" for one in self.columns)
        cursor.execute(f"CREATE TEMPORARY TABLE rtisms_staging ({types}) ON COMMIT DROP")
        lines = _CopyLines(json_lines, self.columns, _to_jsonb if self._types.get(RAW) != "text" else str)
        command = f"COPY {self.staging} FROM STDIN"
        if library_of(cursor) == "psycopg":
            with cursor.copy(command) as copy:
                for block in lines.blocks():
                    copy.write(block)
        else:
            cursor.copy_expert(command, _Reader(lines.blocks()), BLOCK)
        if lines.count:
            cursor.execute(f"ANALYZE {self.staging}")  # so that the check of what landed uses the table's key
        return lines.count

    def _value(self, column: str) -> str:
        return f"{quote(column)}::{self._types[column]}" if column == RAW else quote(column)

    def _diagnose(self, error: Exception) -> tuple[bool, str]:
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if state is None:
            if _REFUSED_LOGIN.search(str(error)):
                return True, "Check the login, the password and the database of the Connection."
            return super()._diagnose(error)
        default = "Check the table and the Connection."
        return state.startswith(_PERMANENT), _REMEDIES.get(state) or _REMEDIES.get(state[:2], default)


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
