"""Private. The columns of a table of records: what they hold, and how a table is named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.bulk.formats import RAW, TIMES

#: What a column holds.
Kind: TypeAlias = Literal["text", "boolean", "money", "time", "json"]
#: The column that identifies a row.
KEY = "submission_id"

#: A name as it is, or in double quotes, in which two of them stand for one.
_NAME = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')


class TableName(NamedTuple):
    """
    The name of a table.

    :param schema: None for the default of the Connection.
    :param name: of the table.
    """

    schema: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name

    @property
    def quoted(self) -> str:
        """The name in SQL, in double quotes."""
        return ".".join(quote(part) for part in self if part)


def parse_table_name(value: Any) -> TableName:
    """
    Read the name of a table.

    :param value: ``table`` or ``schema.table``; a part that holds a dot is in double quotes.
    :raises RtiSmsInputError: it is anything else.
    """
    problem = RtiSmsInputError(
        f"table is {shape(value)} that names no table: use table or schema.table, and put a part that holds a dot "
        'into double quotes, such as "my.schema".table.'
    )
    if not isinstance(value, str) or value.strip() in ("", "None") or not value.isprintable():
        raise problem
    parts: list[str] = []
    position = 0
    while match := _NAME.match(value.strip(), position):
        parts.append(match[2] or match[1].replace('""', '"'))
        position = match.end() + 1
        if value.strip()[match.end() : position] != ".":
            break
    if position != len(value.strip()) + 1 or not 1 <= len(parts) <= 2:
        raise problem
    return TableName(parts[0] if len(parts) == 2 else None, parts[-1])


def quote(name: str) -> str:
    """Return a name in double quotes, as SQL wants it."""
    return '"' + name.replace('"', '""') + '"'


def kind_of(column: str) -> Kind:
    """Return what a column holds."""
    if column in TIMES:
        return "time"
    kinds: dict[str, Kind] = {"is_final": "boolean", "cost": "money", RAW: "json"}
    return kinds.get(column, "text")


def is_required(column: str) -> bool:
    """Return whether a column is never null."""
    return column in (KEY, "is_final", "fetched_at", RAW)


def values_of(json_lines: Iterable[bytes], columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """
    Yield the values of records: str, bool, int, float or None; times are ISO 8601 in UTC.

    :param json_lines: one record each.
    :param columns: which values, in their order.
    """
    for line in json_lines:
        record = json.loads(line)
        yield tuple(record[column] for column in columns)


def check_existing(
    table: str, columns: Sequence[str], types: Mapping[str, str], accepted: Mapping[Kind, Sequence[str]]
) -> None:
    """
    Check the columns of an existing table.

    :param table: its name, for errors.
    :param columns: that records need.
    :param types: the type of each column of the table.
    :param accepted: the types that can hold each kind.
    :raises RtiSmsInputError: columns are missing, or have another type; names all of them.
    """
    problems = [f"has no column {column}" for column in columns if column not in types]
    for column in columns:
        if column in types and types[column] not in accepted[kind_of(column)]:
            wanted = " or ".join(accepted[kind_of(column)][:2])
            problems.append(f"has {column} as {types[column] or 'a column without a type'}, which has to be {wanted}")
    if problems:
        raise RtiSmsInputError(
            f"The table {table} {', '.join(problems)}. Change the table (ALTER TABLE), or name a table that does not "
            "exist yet and set create_table=True."
        )


def check_needed(table: str, columns: Sequence[str], needed: Iterable[str]) -> None:
    """
    Check that records fill all columns of an existing table that need a value.

    :param table: its name, for errors.
    :param columns: that records fill.
    :param needed: the columns of the table that have neither a default nor null.
    :raises RtiSmsInputError: some are not filled; names them.
    """
    if left := [column for column in needed if column not in columns]:
        raise RtiSmsInputError(
            f"The table {table} has columns that records do not fill, and that must not be null: {', '.join(left)}. "
            "Give them a default, or allow null."
        )
