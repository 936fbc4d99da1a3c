"""
Private. A table that takes rows, in PostgreSQL, SQLite, MySQL or MariaDB: all of them in one transaction, or none.

The way of a load: rows go in batches into a temporary table with the types of the table itself, and from there with one
upsert into the table. Then what was to be written is compared with what stands there. The check before the first fetch
goes the same way without a row.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from importlib import import_module
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.api.models import SendOutcome
from airflow_provider_rtisms.api.values.arguments import check_submission_id
from airflow_provider_rtisms.bulk.store import COLUMNS, RAW, TIMES, RtiSmsStorageError
from airflow_provider_rtisms.sql.databases import TABLE_REMEDIES, LockWaits, explain, is_of_database, library_of

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import mysql, postgresql, sqlite
    from sqlalchemy.pool import NullPool
    from sqlalchemy.sql import quoted_name
except ImportError:
    remedy = "pip install 'airflow-provider-rtisms[sql]' on every worker."
    raise RtiSmsConfigError(f"Tables take SQLAlchemy: {remedy}") from None

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from sqlalchemy.engine import Connection, Engine

T = TypeVar("T")
OnConflict: TypeAlias = Literal["update", "ignore"]
#: What a column holds.
Kind: TypeAlias = Literal["text", "boolean", "integer", "money", "time", "json"]

#: Records that go to the database together.
BATCH = 1000
#: Schemas of tables that only one connection sees: of PostgreSQL and of SQLite.
_TEMPORARY = ("pg_temp", "temp")
#: Columns that hold ASCII only, so that any character set does.
_ASCII = ("submission_id", "message_key")
#: A part of a table's name as it is, or in double quotes, in which two of them stand for one.
_NAME = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')
_UNSUPPORTED = (
    "Records go into tables of PostgreSQL (12 and later), SQLite, MySQL and MariaDB. For another database, write a "
    "file with RtiSmsBulkGetDetailsOperator(output_path=...), and load it with the operator of that database, such as "
    "CopyFromExternalStageToSnowflakeOperator, GCSToBigQueryOperator or S3ToRedshiftOperator."
)


class Layout(NamedTuple):
    """
    What the rows of a table hold.

    :param kinds: of the columns, in their order.
    :param required: the columns that hold no null.
    :param key: the columns that identify a row.
    :param moment: the column that says which of two rows is newer. If rows do not have it, one is never replaced once
        the table has a value there.
    :param others: columns that the table has besides, and that somebody else fills.
    :param only_updates: whether rows that are not there stay away. Then the table needs no unique key.
    """

    kinds: Mapping[str, Kind]
    required: Collection[str]
    key: Sequence[str]
    moment: str
    others: Mapping[str, Kind] = MappingProxyType({})
    only_updates: bool = False

    def replaces(self, old: Any, new: Any) -> Any:
        """Return the condition for a row that is there to be replaced by a new one."""
        has_none = old[self.moment].is_(None)
        return sa.or_(has_none, old[self.moment] <= new[self.moment]) if self.moment in self.kinds else has_none


def layout_of_details(columns: Iterable[str], *, only_updates: bool = False) -> Layout:
    """Return the layout of the records of a bulk fetch, one for each submission."""
    kinds: dict[str, Kind] = {**dict.fromkeys(TIMES, "time"), "is_final": "boolean", "cost": "money", RAW: "json"}
    required = ("submission_id", "is_final", "fetched_at", RAW)
    of_columns = {one: kinds.get(one, "text") for one in columns}
    return Layout(of_columns, required, ["submission_id"], "fetched_at", only_updates=only_updates)


def layout_of_sends() -> Layout:
    """Return the layout of a ledger: a row for each message. What has details is not changed by a send."""
    texts = ("message_key", "reference", "submission_id", "outcome", "status", "dag_id", "task_id", "run_id")
    kinds: dict[str, Kind] = dict.fromkeys(texts, "text")
    kinds |= {**dict.fromkeys(("map_index", "parts", "charset"), "integer"), "sent_at": "time"}
    others = {one: kind for one, kind in layout_of_details(COLUMNS).kinds.items() if one not in kinds}
    return Layout(kinds, (), ["message_key"], "fetched_at", others)


class TableName(NamedTuple):
    """The name of a table. The schema is None for the default of the Connection."""

    schema: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name

    @property
    def quoted(self) -> str:
        return ".".join(quote(part) for part in self if part)


def parse_table_name(value: Any, field_name: str = "table") -> TableName:
    """Read ``table`` or ``schema.table``; a part that holds a dot is in double quotes."""
    problem = RtiSmsInputError(
        f"{field_name} is {shape(value)} that names no table: use table or schema.table, and put a part that holds a "
        'dot into double quotes, such as "my.schema".table.'
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


class Existing(NamedTuple):
    """A column of an existing table: its name, its type, and whether a row has to give a value."""

    name: str
    type: str
    is_needed: bool


class Database:
    """What one database does in its own way, with rows of a layout."""

    #: SQLAlchemy's dialects, by the package of the driver.
    dialects: ClassVar[Mapping[str, str]]
    #: The INSERT of the dialect, which knows the clause for rows that are there already.
    insert: ClassVar[Any]
    #: That of a column of the key, if it is another one.
    key_type: ClassVar[Any] = None
    #: For each kind: its type in a table that this package creates; and those that hold it without loss in an existing
    #: table, the first two of which are named in errors.
    kinds: ClassVar[Mapping[Kind, tuple[Any, Sequence[str]]]]
    #: Patterns of types that are refused, and why.
    reasons: ClassVar[Mapping[str, str]] = {}
    #: The schema of the temporary table; None for that of the table.
    temporary_schema: str | None = None
    #: What follows the columns of the temporary table; ``{key}`` stands for the key.
    temporary_options = ""
    #: Whether the planner has to be told how many rows are staged.
    analyzes = False
    #: Whether a query has to lock rows to see what was committed since the transaction began.
    locks_to_compare = False

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.key = ", ".join(layout.key)

    def prepare(self, connection: Any) -> None:
        """Prepare a new connection of the driver: transactions by hand, rows as tuples, UTF-8."""

    def begin(self, connection: Connection, waits: LockWaits) -> None:
        """Begin a transaction."""

    def read_columns(self, connection: Connection, name: TableName) -> list[Existing]:
        """Return the columns of a table; none if there is no such table."""
        raise NotImplementedError

    def check(self, connection: Connection, name: TableName) -> None:
        """Check what an upsert without a row does not find out: a load would fail, or write something else."""

    def bind(self, kind: Kind, value: Any, column_type: str) -> Any:
        """Return a value as the driver takes it: of a str, bool, float or None; times are ISO 8601 in UTC."""
        if kind == "money" and value is not None:
            return Decimal(str(value))
        return value

    def upsert(self, table: sa.Table, staged: Any, on_conflict: OnConflict) -> Any:
        """Return the statement that writes staged rows, unless the table has them already and newer."""
        key = self.layout.key
        statement = self.insert(table).from_select(list(self.layout.kinds), staged)
        if on_conflict == "ignore":
            return statement.on_conflict_do_nothing(index_elements=key)
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=key,
            set_={column: new[column] for column in self.layout.kinds if column not in key},
            where=self.layout.replaces(table.c, new),
        )

    def written(self, connection: Connection, upsert: Any, stale: Any) -> int:
        """Run an upsert, and return how many rows were inserted or updated."""
        return int(connection.execute(upsert, execution_options={"preserve_rowcount": True}).rowcount)

    def uri(self, hook: Any, name: TableName) -> str | None:
        """Return the asset of a table that was checked; None if the database has no form of assets."""
        return None


class PostgreSql(Database):
    """PostgreSQL 12 and later, through psycopg2 or psycopg 3."""

    dialects: ClassVar[Mapping[str, str]] = {"psycopg2": "postgresql+psycopg2", "psycopg": "postgresql+psycopg"}
    insert = staticmethod(postgresql.insert)
    kinds: ClassVar[Mapping[Kind, tuple[Any, Sequence[str]]]] = {
        "text": (sa.Text(), ["text", "character varying", "citext"]),
        "boolean": (sa.Boolean(), ["boolean"]),
        "integer": (sa.Integer(), ["integer", "bigint", "smallint", "numeric"]),
        "money": (sa.Numeric(), ["numeric", "double precision"]),
        # A time without a zone is in UTC.
        "time": (sa.DateTime(timezone=True), ["timestamp with time zone", "timestamp without time zone"]),
        "json": (postgresql.JSONB(), ["jsonb", "json", "text"]),
    }
    reasons: ClassVar[Mapping[str, str]] = {r"numeric\(\d+,(0|-\d+)\)": "rounds 0.75 to 1"}
    temporary_schema = "pg_temp"
    temporary_options = " ON COMMIT DROP"
    analyzes = True

    #: The columns of a table: name, type without its domains, whether a value has to be given.
    _COLUMNS = r"""
        WITH RECURSIVE columns AS (
            SELECT attnum, attname, atttypid, atttypmod, attnotnull AS is_needed,
                   atthasdef OR attidentity <> '' AS is_given
            FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped
        ), types AS (
            SELECT attnum, oid, atttypmod AS typmod, typbasetype, typtypmod, typnotnull, typdefault
            FROM columns JOIN pg_catalog.pg_type ON oid = atttypid
            UNION ALL
            SELECT attnum, base.oid, types.typtypmod, base.typbasetype, base.typtypmod, base.typnotnull, base.typdefault
            FROM types JOIN pg_catalog.pg_type AS base ON base.oid = types.typbasetype
        )
        SELECT attname, max(format_type(oid, typmod)) FILTER (WHERE typbasetype = 0),
               (is_needed OR bool_or(typnotnull)) AND NOT is_given AND count(typdefault) = 0
        FROM columns JOIN types USING (attnum) GROUP BY attnum, attname, is_needed, is_given
    """
    #: What a table is: its schema, whether it lacks partitions, whether its key is deferrable.
    _TABLE = """
        SELECT nspname,
               relkind = 'p' AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits WHERE inhparent = pg_class.oid),
               EXISTS (
                   SELECT 1 FROM pg_catalog.pg_index
                   WHERE indrelid = pg_class.oid AND indisunique AND NOT indimmediate AND :key = (
                       SELECT string_agg(attname, ', ' ORDER BY attname) FROM pg_catalog.pg_attribute
                       WHERE attrelid = indrelid AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1])
                   )
               )
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = to_regclass(:name)
    """
    _schema = ""

    def prepare(self, connection: Any) -> None:
        connection.autocommit = False
        if library_of(connection) == "psycopg2":
            connection.cursor_factory = None
        else:
            from psycopg.rows import tuple_row

            connection.row_factory = tuple_row

    def begin(self, connection: Connection, waits: LockWaits) -> None:
        """Speak UTF-8 and UTC until the transaction ends."""
        connection.exec_driver_sql("SET LOCAL client_encoding = 'UTF8'")
        connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")  # for columns without a time zone

    def read_columns(self, connection: Connection, name: TableName) -> list[Existing]:
        """Read them from the catalog, since the inspector does not see through domains."""
        if (connection.dialect.server_version_info or ()) < (12,):  # also Redshift, which says that it is 8.0
            raise RtiSmsConfigError(f"The server of the table {name} is older than PostgreSQL 12. {_UNSUPPORTED}")
        return [Existing(*row) for row in connection.execute(sa.text(self._COLUMNS), {"name": name.quoted})]

    def check(self, connection: Connection, name: TableName) -> None:
        names = {"name": name.quoted, "key": ", ".join(sorted(self.layout.key))}
        self._schema, lacks_partitions, is_deferrable = connection.execute(sa.text(self._TABLE), names).one()
        if lacks_partitions:
            raise RtiSmsInputError(f"The table {name} has no partitions: create those that the rows need.")
        if is_deferrable and not self.layout.only_updates:
            raise RtiSmsInputError(
                f"The table {name} has a unique key on {self.key} that is DEFERRABLE, with which ON CONFLICT does not "
                f"work: drop it, and add PRIMARY KEY ({self.key}) NOT DEFERRABLE."
            )

    def bind(self, kind: Kind, value: Any, column_type: str) -> Any:
        return to_strict_json(value) if kind == "json" and column_type != "text" else super().bind(kind, value, "")

    def uri(self, hook: Any, name: TableName) -> str:
        connection = hook.connection
        database = getattr(hook, "database", None) or connection.schema
        return f"postgres://{connection.host}:{connection.port or 5432}/{database}/{self._schema}/{name.name}"


class Sqlite(Database):
    """SQLite 3.24 and later."""

    dialects: ClassVar[Mapping[str, str]] = {"sqlite3": "sqlite"}
    insert = staticmethod(sqlite.insert)
    #: The affinities that keep each kind as it is.
    kinds: ClassVar[Mapping[Kind, tuple[Any, Sequence[str]]]] = {
        "text": (sa.Text(), ["TEXT", "BLOB"]),
        "boolean": (sa.Boolean(), ["NUMERIC", "INTEGER", "BLOB"]),
        "integer": (sa.Integer(), ["INTEGER", "NUMERIC", "BLOB"]),
        "money": (sa.Numeric(), ["NUMERIC", "REAL", "INTEGER", "BLOB"]),
        "time": (sa.Text(), ["TEXT", "NUMERIC", "BLOB"]),
        "json": (sa.Text(), ["TEXT", "BLOB"]),
    }
    temporary_schema = "temp"
    #: SQLite fills an INTEGER PRIMARY KEY itself.
    _COLUMNS = """
        SELECT lower(name), type, "notnull" AND dflt_value IS NULL AND NOT (pk AND upper(type) = 'INTEGER')
        FROM pragma_table_info(:name, :schema)
    """

    def prepare(self, connection: Any) -> None:
        connection.isolation_level = None
        connection.row_factory = None

    def begin(self, connection: Connection, waits: LockWaits) -> None:
        """Begin to write, which fails at once where the file cannot be written."""
        waits.run(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    def read_columns(self, connection: Connection, name: TableName) -> list[Existing]:
        rows = connection.execute(sa.text(self._COLUMNS), {"name": name.name, "schema": name.schema or "main"})
        return [Existing(column, _affinity(declared), bool(is_needed)) for column, declared, is_needed in rows]

    def bind(self, kind: Kind, value: Any, column_type: str) -> Any:
        return value  # SQLite has neither decimals nor times


class MySql(Database):
    """MySQL 8 and MariaDB, through mysqlclient, PyMySQL or mysql-connector-python."""

    dialects: ClassVar[Mapping[str, str]] = {
        "MySQLdb": "mysql+mysqldb",
        "pymysql": "mysql+pymysql",
        "mysql": "mysql+mysqlconnector",
    }
    insert = staticmethod(mysql.insert)
    key_type = sa.String(100)
    kinds: ClassVar[Mapping[Kind, tuple[Any, Sequence[str]]]] = {
        "text": (sa.Text(), ["varchar", "text", "char", "tinytext", "mediumtext", "longtext"]),
        "boolean": (sa.Boolean(), ["tinyint", "boolean", "smallint", "mediumint", "int", "bigint"]),
        "integer": (sa.Integer(), ["int", "bigint", "mediumint"]),
        "money": (sa.Numeric(38, 12), ["decimal with a scale", "double", "decimal"]),
        "time": (mysql.DATETIME(fsp=6), ["datetime"]),
        "json": (mysql.LONGTEXT(), ["longtext", "json", "mediumtext", "text"]),
    }
    reasons: ClassVar[Mapping[str, str]] = {
        r"decimal\(\d+,0\).*": "rounds 0.75 to 1",
        r"timestamp.*": "the server shifts by the time zone of each session",
        r".* in (?!utf8mb4)\w+": "cannot hold every character",
    }
    temporary_options = " (PRIMARY KEY ({key}))"  # which some servers demand of each table
    locks_to_compare = True
    _COLUMNS = """
        SELECT lower(column_name), column_type, character_set_name,
               is_nullable = 'NO' AND column_default IS NULL AND extra NOT LIKE '%auto_increment%'
        FROM information_schema.columns WHERE table_name = :name AND table_schema = coalesce(:schema, database())
    """
    _TABLE = """
        SELECT engine, (SELECT transactions FROM information_schema.engines AS e WHERE e.engine = t.engine)
        FROM information_schema.tables AS t WHERE table_name = :name AND table_schema = coalesce(:schema, database())
    """
    _KEYS = """
        SELECT lower(index_name), lower(column_name), sub_part FROM information_schema.statistics
        WHERE table_name = :name AND table_schema = coalesce(:schema, database()) AND non_unique = 0
    """

    def prepare(self, connection: Any) -> None:
        library = library_of(connection)
        if library == "mysql":
            connection.set_charset_collation("utf8mb4")
            connection.autocommit = False
            return
        connection.set_character_set("utf8mb4")
        connection.autocommit(False)
        connection.cursorclass = import_module(f"{library}.cursors").Cursor

    def begin(self, connection: Connection, waits: LockWaits) -> None:
        """Let the server refuse a value that does not fit, where it would cut or change it."""
        connection.exec_driver_sql("SET SESSION sql_mode = concat(@@sql_mode, ',STRICT_ALL_TABLES')")

    def read_columns(self, connection: Connection, name: TableName) -> list[Existing]:
        """Return the columns; a type of text with another character set than utf8mb4 names it."""
        columns = []
        for column, declared, charset, is_needed in connection.execute(sa.text(self._COLUMNS), name._asdict()):
            is_other = charset not in (None, "utf8mb4") and column not in _ASCII
            columns.append(Existing(column, f"{declared} in {charset}" if is_other else declared, bool(is_needed)))
        return columns

    def check(self, connection: Connection, name: TableName) -> None:
        """Check the engine and the keys: with ON DUPLICATE KEY UPDATE, any unique key decides what is replaced."""
        engine, transactions = connection.execute(sa.text(self._TABLE), name._asdict()).one()
        if transactions != "YES":
            raise RtiSmsInputError(
                f"The table {name} has the engine {engine or 'of a view'}, which has no transactions: a load that "
                "fails would leave a part of its rows. Use ALTER TABLE ... ENGINE=InnoDB, or name another table."
            )
        if self.layout.only_updates:
            return
        keys: dict[str, list[str]] = {}
        for key, column, prefix in connection.execute(sa.text(self._KEYS), name._asdict()):
            keys.setdefault(key, []).append(column if prefix is None else f"{column}({prefix})")
        wanted = set(self.layout.key)
        if wanted not in map(set, keys.values()):
            raise RtiSmsInputError(f"The table {name} has no unique key on {self.key} alone: add a primary key.")
        others = [
            key
            for key, parts in keys.items()
            if {*parts} != wanted and {part.partition("(")[0] for part in parts} <= self.layout.kinds.keys()
        ]
        if others:
            raise RtiSmsInputError(
                f"The table {name} has other unique keys on columns of records: {', '.join(others)}. A record would "
                "replace the row of another submission. Drop these keys, or name another table."
            )

    def bind(self, kind: Kind, value: Any, column_type: str) -> Any:
        if kind == "time" and value is not None:
            return value.replace("T", " ").removesuffix("+00:00")
        if kind == "json" and column_type == "json":
            return to_strict_json(value)
        return super().bind(kind, value, column_type)

    def upsert(self, table: sa.Table, staged: Any, on_conflict: OnConflict) -> Any:
        """Return INSERT ... ON DUPLICATE KEY UPDATE; the moment changes last, since the others depend on it."""
        key, moment = self.layout.key, self.layout.moment
        names = list(self.layout.kinds)
        statement = self.insert(table).from_select(names, staged)
        if on_conflict == "ignore":
            return statement.on_duplicate_key_update([(key[0], table.c[key[0]])])
        new = statement.inserted
        is_newer = self.layout.replaces(table.c, new)
        changed = sorted((one for one in names if one not in key), key=lambda one: one == moment)
        return statement.on_duplicate_key_update(
            [(one, sa.case((is_newer, new[one]), else_=table.c[one])) for one in changed]
        )

    def written(self, connection: Connection, upsert: Any, stale: Any) -> int:
        """Count before: the server counts an update as two rows, and one that changes nothing as none."""
        count = int(connection.execute(stale).scalar_one())
        connection.execute(upsert)
        return count


_DATABASES: dict[str, type[Database]] = {"PostgresHook": PostgreSql, "SqliteHook": Sqlite, "MySqlHook": MySql}


class SqlTable:
    """
    A table of rows of a layout. It may have other columns, which keep what they hold.

    :param hook: of the database. Its class is found by its name, so as not to import it.
    :param on_conflict: what to do with a row that the table has already: ``update`` it unless it is newer, or
        ``ignore`` the new one.
    """

    def __init__(self, hook: DbApiHook, name: TableName, layout: Layout, on_conflict: OnConflict) -> None:
        names = [one.__name__ for one in type(hook).__mro__]
        kind = next((_DATABASES[one] for one in names if one in _DATABASES), None)
        if kind is None:
            raise RtiSmsConfigError(f"The Connection of the table {name} has a {names[0]}. {_UNSUPPORTED}")
        self.hook = hook
        self.name = name
        self.layout = layout
        self.on_conflict: OnConflict = on_conflict
        self._database = kind(layout)
        self._types: dict[str, str] = {}
        self._opened: Engine | None = None
        self._table = sa.Table(
            quoted_name(name.name, quote=True),
            sa.MetaData(),
            *(self._column(one, kind) for one, kind in {**layout.kinds, **layout.others}.items()),
            schema=quoted_name(name.schema, quote=True) if name.schema else None,
            mysql_engine="InnoDB",
            mysql_charset="utf8mb4",
        )
        staging = "rtisms_staging_2" if name.name.lower() == "rtisms_staging" else "rtisms_staging"
        schema = self._database.temporary_schema or self._table.schema
        # Without types, so that values reach the server as they are bound; the temporary table has those of the table.
        self._staging = sa.Table(staging, sa.MetaData(), *(sa.Column(one) for one in layout.kinds), schema=schema)

    def __str__(self) -> str:
        return f"table {self.name}"

    def uri(self) -> str | None:
        """Return the asset of the table, once it is checked; None if its database has no form of assets."""
        return self._database.uri(self.hook, self.name)

    def check(self, *, create: bool) -> None:
        """Find out whether the table can take rows, and make it if it may be made. Nothing is written into it."""
        schema = (self.name.schema or "").lower()
        if schema in _TEMPORARY or schema.startswith("pg_temp_"):
            raise RtiSmsInputError(
                f"The table {self.name} is a temporary one, which disappears with its connection: name another schema."
            )
        existing = self._read_columns()
        if not existing and create:
            self._create()
            existing = self._read_columns()
            if not existing:
                raise RtiSmsInputError(
                    f"The table {self.name} was created, and another connection does not see it. Name its schema."
                )
        if not existing:
            raise RtiSmsInputError(
                f"The table {self.name} does not exist. Create it, or set create_table=True. Names are taken as they "
                "are, upper and lower case included."
            )
        self._check_columns(existing)

        def rehearse(connection: Connection, waits: LockWaits) -> None:
            self._database.check(connection, self.name)
            self._write(connection, waits, ())

        self._do("Checking", rehearse, commit=False)

    def load(self, json_lines: Iterable[bytes], *, commit: bool = True, lock_wait: float = math.inf) -> int:
        """
        Write records in one transaction, and return how many rows were inserted or updated. A failure changes none.

        :param commit: whether the rows stay.
        :param lock_wait: most seconds to wait for a lock.
        """

        def write(connection: Connection, waits: LockWaits) -> int:
            return self._write(connection, waits, json_lines)

        return self._do("Writing" if commit else "Checking", write, commit=commit, lock_wait=lock_wait)

    def read_sent(self, values: Mapping[str, Any]) -> dict[str, str | None]:
        """
        Return the submissions of the rows that have certain values, by their keys.

        :return: None for an uncertain message. What was not sent is left out.
        :raises RtiSmsInputError: a submission is none.
        """
        c = self._table.c
        having = (c[name].is_not_distinct_from(value) for name, value in values.items())
        is_sent = sa.or_(c.submission_id.is_not(None), c.outcome == SendOutcome.UNCERTAIN.value)
        query = sa.select(c[self.layout.key[0]], c.submission_id).where(is_sent, *having)
        found = self._do("Reading", lambda connection, _: connection.execute(query).all(), commit=False)
        return {key: None if one is None else self._check_id(one) for key, one in found}

    def read_open_ids(self, since: str) -> list[str]:
        """
        Return the submissions whose rows are not final.

        :param since: ISO 8601 in UTC; those that were registered, or else sent, before are left out.
        """
        query = sa.select(self._table.c.submission_id).where(*self._is_open(), self._is_since(since)).distinct()
        read = partial(self._do, "Reading", commit=False)
        found = read(lambda connection, _: connection.execute(query).scalars().all())
        return [self._check_id(one) for one in found]

    def count_open(self, since: str) -> tuple[int, int]:
        """Return how many submissions are not final: of those since a moment, and of those before."""
        ids, is_young = sa.func.count(self._table.c.submission_id.distinct()), self._is_since(since)
        young, old = (sa.select(ids).where(*self._is_open(), one) for one in (is_young, sa.not_(is_young)))
        read = partial(self._do, "Reading", commit=False)
        return read(lambda connection, _: (connection.scalar(young) or 0, connection.scalar(old) or 0))

    def _check_id(self, value: Any) -> str:
        return check_submission_id(value, f"A submission_id in the table {self.name}")

    def _is_open(self) -> tuple[Any, Any]:
        c = self._table.c
        return c.submission_id.is_not(None), sa.or_(c.is_final.is_(None), c.is_final == sa.false())

    def _is_since(self, moment: str) -> Any:
        c = self._table.c
        bound = sa.literal(self._database.bind("time", moment, ""), c.registered_at.type)
        epoch: Any = sa.literal_column("'1970-01-01 00:00:00'")  # so that a row without a time is too old
        return sa.func.coalesce(c.registered_at, c.sent_at, c.fetched_at, epoch) >= bound

    def _column(self, name: str, kind: Kind) -> sa.Column[Any]:
        is_key = name in self.layout.key
        is_indexed = not is_key and name == "submission_id"
        type_ = ((is_key or is_indexed) and self._database.key_type) or self._database.kinds[kind][0]
        is_needed = is_key or name in self.layout.required
        return sa.Column(name, type_, primary_key=is_key, autoincrement=False, nullable=not is_needed, index=is_indexed)

    def _create(self) -> None:
        try:
            self._do(
                "Creating",
                lambda connection, waits: waits.run(lambda: self._table.create(connection, checkfirst=False)),
            )
        except RtiSmsStorageError:
            if not self._read_columns():  # another task may have created it meanwhile
                raise

    def _read_columns(self) -> list[Existing]:
        read = self._database.read_columns
        return self._do("Checking", lambda connection, _: read(connection, self.name), commit=False)

    def _check_columns(self, existing: Sequence[Existing]) -> None:
        types = {one.name: one.type for one in existing}
        kinds = {**self.layout.kinds, **self.layout.others}
        missing = [column for column in kinds if column not in types]
        problems = [f"has no column {', '.join(missing)}"] if missing else []
        for column, kind in kinds.items():
            accepted = self._database.kinds[kind][1]
            given = types.get(column, accepted[0])
            reason = next((why for one, why in self._database.reasons.items() if re.fullmatch(one, given)), None)
            if reason or re.sub(r"\([^)]*\)", "", given).split(" unsigned")[0] not in accepted:
                why = f"{reason}, and which " if reason else ""
                wanted = "in utf8mb4 (ALTER TABLE ... CONVERT TO CHARACTER SET utf8mb4)"
                if reason is None or " in " not in given:
                    wanted = " or ".join(accepted[:2])
                problems.append(f"has {column} as {given or 'a column without a type'}, which {why}has to be {wanted}")
        if problems:
            raise RtiSmsInputError(
                f"The table {self.name} {', '.join(problems)}. Change the table (ALTER TABLE), or name a table that "
                "does not exist yet and set create_table=True."
            )
        left = [one.name for one in existing if one.is_needed and one.name not in self.layout.kinds]
        if left and not self.layout.only_updates:
            raise RtiSmsInputError(
                f"The table {self.name} has columns that records do not fill, and that must not be null: "
                f"{', '.join(left)}. Give them a default, or allow null."
            )
        self._types = types

    def _write(self, connection: Connection, waits: LockWaits, json_lines: Iterable[bytes]) -> int:
        """Write rows, and return how many were inserted or updated."""
        if self.layout.only_updates:
            return self._update(connection, waits, json_lines)
        table, staging, update = self._table, self._staging, self.on_conflict == "update"
        staged = connection.dialect.identifier_preparer.format_table(staging)
        nothing = sa.select(*(table.c[one] for one in self.layout.kinds)).where(sa.false()).compile(connection)
        options = self._database.temporary_options.format(key=self._database.key)
        create = f"CREATE TEMPORARY TABLE {staged}{options} AS {nothing}"
        waits.run(lambda: connection.exec_driver_sql(create))
        records = self._fill_staging(connection, json_lines)
        if records and self._database.analyzes:  # so that the comparison uses the key of the table
            connection.exec_driver_sql(f"ANALYZE {staged}")

        # Two loads that lock their rows in the same order cannot block each other.
        rows = sa.select(*staging.c).order_by(*(staging.c[one] for one in self.layout.key))
        upsert = self._database.upsert(table, rows, self.on_conflict)
        is_there = sa.and_(*(table.c[one] == staging.c[one] for one in self.layout.key))
        # A resumed fetch may be older than what another run has written.
        is_stale = sa.not_(self.layout.replaces(table.c, staging.c))
        stale = self._count_without(is_there & is_stale if update else is_there)
        written = waits.run(lambda: self._database.written(connection, upsert, stale))
        if update and (moment := self.layout.moment) in self.layout.kinds:
            is_there &= table.c[moment] >= staging.c[moment]
        kept = self._count_without(is_there)
        if self._database.locks_to_compare:
            kept = kept.with_for_update(read=True)
        if lost := waits.run(lambda: connection.execute(kept).scalar_one()):
            raise RtiSmsStorageError(
                f"{lost} of {records} records did not land in the table {self.name}, and the database reported no "
                "error. Check its triggers, rules and row security policies."
            )
        return written

    def _update(self, connection: Connection, waits: LockWaits, json_lines: Iterable[bytes]) -> int:
        """Update the rows that are there, and return how many records there were."""
        columns: list[sa.Column[Any]] = [
            sa.Column(one) for one in self.layout.kinds
        ]  # without types, as those of the staging table
        table = sa.Table(self._table.name, sa.MetaData(), *columns, schema=self._table.schema)
        new: dict[str, Any] = {one: sa.bindparam(f"new_{one}") for one in self.layout.kinds}
        # A final state is the last one, whatever the clocks of the workers say.
        was_open = sa.or_(table.c.is_final.is_(None), table.c.is_final == sa.false())
        is_final = new["is_final"] == sa.true()
        is_newer = self.layout.replaces(table.c, new)
        statement = (
            sa.update(table)
            .where(
                *(table.c[one] == new[one] for one in self.layout.key),
                sa.or_(sa.and_(was_open, is_newer), sa.and_(is_final, sa.or_(was_open, is_newer))),
            )
            .values({one: value for one, value in new.items() if one not in self.layout.key})
        )
        count = 0
        for rows in self._bound(json_lines) if json_lines else [[dict.fromkeys(new)]]:  # without lines, a rehearsal
            named = [{f"new_{one}": value for one, value in row.items()} for row in rows]
            waits.run(partial(connection.execute, statement, named))
            count += len(rows)
        return count

    def _fill_staging(self, connection: Connection, json_lines: Iterable[bytes]) -> int:
        """Write records into the temporary table, and return how many."""
        count = 0
        for rows in self._bound(json_lines):
            connection.execute(sa.insert(self._staging), rows)
            count += len(rows)
        return count

    def _bound(self, json_lines: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows in batches, with values as the driver takes them."""
        columns = [(one, kind, self._types.get(one, "")) for one, kind in self.layout.kinds.items()]
        bind = self._database.bind
        lines = iter(json_lines)
        while records := [json.loads(line) for line in islice(lines, BATCH)]:
            yield [{one: bind(kind, row[one], type_) for one, kind, type_ in columns} for row in records]

    def _count_without(self, condition: Any) -> Any:
        joined = self._staging.outerjoin(self._table, condition)
        return sa.select(sa.func.count()).select_from(joined).where(self._table.c[self.layout.key[0]].is_(None))

    def _do(
        self,
        action: str,
        work: Callable[[Connection, LockWaits], T],
        *,
        commit: bool = True,
        lock_wait: float = math.inf,
    ) -> T:
        """Do something in a transaction, and explain errors of the driver."""
        try:
            with self._engine().connect() as connection:
                waits = LockWaits(connection.connection.driver_connection, lock_wait)
                self._database.begin(connection, waits)
                result = work(connection, waits)
                if commit:
                    waits.run(connection.commit)
                return result
        except Exception as error:
            if isinstance(error, RtiSmsError) or not is_of_database(error):
                raise
            names = " ".join((*filter(None, self.name), *self.layout.kinds))
            key = self._database.key
            remedy = f"Add a unique key on {key} alone: ALTER TABLE ... ADD PRIMARY KEY ({key})"
            remedies = {**TABLE_REMEDIES, "key": f"{remedy}, or CREATE UNIQUE INDEX in SQLite."}
            failure = explain(f"{action} the table {self.name}", error, names, remedies)
        raise failure  # outside of the block, since a traceback would show the row in the driver's message

    def _engine(self) -> Engine:
        """Return an engine over the connections of the hook, which know about tokens and certificates."""
        if self._opened is None:
            driver = library_of(connection := self.hook.get_conn())
            connection.close()
            if driver not in self._database.dialects:
                raise RtiSmsConfigError(f"The driver {driver} of the table {self.name} is unknown. {_UNSUPPORTED}")
            self._opened = new_engine(self._database.dialects[driver], self._connect)
        return self._opened

    def _connect(self) -> Any:
        connection = self.hook.get_conn()
        self._database.prepare(connection)
        return connection


def new_engine(dialect: str, connect: Callable[[], Any]) -> Engine:
    """Return an engine that takes each connection from a function, and shows no values in its errors."""
    return sa.create_engine(f"{dialect}://", creator=connect, poolclass=NullPool, hide_parameters=True, future=True)


def open_table(
    hook: Any,
    name: Any,
    layout: Layout,
    on_conflict: Any = "update",
    *,
    create: bool = False,
    field_name: str = "table",
) -> SqlTable:
    """Return a table that can take rows; see :class:`SqlTable` and its ``check``."""
    if on_conflict not in ("update", "ignore"):
        raise RtiSmsInputError(f'on_conflict is {shape(on_conflict)}: use "update" or "ignore".')
    table = SqlTable(hook, parse_table_name(name, field_name), layout, on_conflict)
    table.check(create=create)
    return table


#: JSON that a column of JSON may refuse: NUL and lone surrogates in strings, words of JavaScript, huge numbers.
_UNSAFE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|NaN|Infinity|[eE][+-]?[0-9]{3}|[0-9]{1000}")


def to_strict_json(raw: str) -> str:
    """Return JSON that a column of JSON takes: the same, or else a JSON string that holds the text as it came."""
    if not _UNSAFE.search(raw):
        return raw
    try:
        plain = json.dumps(json.loads(raw), ensure_ascii=False, allow_nan=False)
        plain.encode()
        is_safe = "\\u0000" not in plain and not re.search(r"[eE][+-]?[0-9]{3}|[0-9]{1000}", raw)
    except ValueError:
        is_safe = False
    return raw if is_safe else json.dumps(raw)


def _affinity(declared: str) -> str:
    """Return the affinity of a declared type of SQLite (sqlite.org/datatype3.html, section 3.1)."""
    declared = declared.upper()
    affinities = {"INT": "INTEGER", "CHAR|CLOB|TEXT": "TEXT", "BLOB": "BLOB", "REAL|FLOA|DOUB": "REAL"}
    found = next((affinity for words, affinity in affinities.items() if re.search(words, declared)), None)
    return found or ("NUMERIC" if declared and declared != "ANY" else "BLOB")
