"""A query as messages, with a stand-in for the driver of a database: cursors, connections, and what errors may say."""

from __future__ import annotations

import sys
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_rtisms.api.errors import RtiSmsInputError, RtiSmsTransientError
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.sql.rows import query_ids, query_messages
from airflow_provider_rtisms.tables import Row

DbApiHook = pytest.importorskip(
    "airflow.providers.common.sql.hooks.sql", reason="the package for databases is not installed"
).DbApiHook

NUMBERS = [f"+56900000{number:03}" for number in range(100, 2600)]


class SSCursor:
    """What MySQL's drivers call the cursor that leaves the rows on the server."""


class Connection:
    """
    A connection of a driver that gives one column, and knows it only after the first row, as psycopg2 does.

    :param rows: what the query returns.
    :param error: what the query raises.
    """

    def __init__(self, rows: list[Any], error: Exception | None = None) -> None:
        self.rows = rows
        self.error = error
        self.description: Any = None
        self.executed: tuple[Any, ...] = ()
        self.cursors: list[Any] = []
        self.most_fetched = 0
        self.closed = 0

    def cursor(self, *arguments: Any, **named: Any) -> Connection:
        self.cursors.append((*arguments, *named.items()))
        return self

    def execute(self, *arguments: Any) -> None:
        self.executed = arguments
        if self.error is not None:
            raise self.error

    def fetchmany(self, size: int) -> list[Any]:
        self.description = [("phone",)]
        batch, self.rows = self.rows[:size], self.rows[size:]
        self.most_fetched = max(self.most_fetched, len(batch))
        return batch

    def close(self) -> None:
        self.closed += 1


def messages(monkeypatch: pytest.MonkeyPatch, connection: Connection, parameters: Any = None) -> list[Row]:
    hook = DbApiHook.__new__(DbApiHook)
    monkeypatch.setattr(hook, "get_conn", lambda: connection)
    monkeypatch.setattr(BaseHook, "get_hook", lambda *_: hook)
    rows = query_messages("db", "SELECT phone FROM people", Secret(parameters), recipient_column="phone", text="hola")
    return list(rows)


@pytest.mark.parametrize("form", [lambda number: (number,), lambda number: {"phone": number}])
def test_rows_come_in_batches_and_the_connection_is_closed(monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    connection = Connection([form(number) for number in NUMBERS])
    rows = messages(monkeypatch, connection)
    assert [row.values.get_secret_value()["recipient"] for row in rows] == NUMBERS
    assert [rows[0].position, rows[-1].position] == ["row 1", "row 2500"]
    assert connection.most_fetched < len(NUMBERS)
    assert connection.closed == 2  # the cursor and the connection


def ids(monkeypatch: pytest.MonkeyPatch, *values: Any) -> list[str]:
    hook = DbApiHook.__new__(DbApiHook)
    monkeypatch.setattr(hook, "get_conn", lambda: Connection([(value,) for value in values]))
    return list(query_ids(hook, "SELECT id FROM sent", Secret(None), None))


def test_ids_of_a_numeric_column(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids(monkeypatch, Decimal(7), Decimal("8.00"), Decimal("9E+3"), 10, " 11 ") == ["7", "8", "9000", "10", "11"]


@pytest.mark.parametrize("value", ["1E+300000", "1.5", "NaN"])
def test_a_number_that_is_no_id_is_refused_by_its_row(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(RtiSmsInputError, match=r"^row 2 of the query is a value of type Decimal: use"):
        ids(monkeypatch, 1, Decimal(value))


@pytest.mark.parametrize(
    ("driver", "cursor"),
    [
        ("psycopg2.extensions", (("name", "rtisms"),)),
        ("psycopg", (("name", "rtisms"),)),
        ("pymysql.connections", (SSCursor,)),
        ("MySQLdb.connections", (SSCursor,)),
        ("sqlite3", ()),
    ],
)
def test_rows_stay_on_the_server_where_the_driver_can_do_that(
    monkeypatch: pytest.MonkeyPatch, driver: str, cursor: tuple[Any, ...]
) -> None:
    cursors = ModuleType(f"{driver.partition('.')[0]}.cursors")
    cursors.SSCursor = SSCursor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, cursors.__name__, cursors)
    connection = type("Connection", (Connection,), {"__module__": driver})([])
    messages(monkeypatch, connection)
    assert connection.cursors[-1] == cursor


def test_an_error_of_the_database_shows_no_value_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection([], RuntimeError("Key (phone)=(+56900000110) exists"))
    with pytest.raises(RtiSmsTransientError) as caught:
        messages(monkeypatch, connection, ["s3cret parameter"])
    assert str(caught.value).startswith("The query failed (RuntimeError). This may be temporary")
    assert caught.value.__context__ is None
    frame, local_variables = caught.value.__traceback__, ""
    while frame is not None:
        is_ours = "airflow_provider_rtisms/sql" in frame.tb_frame.f_code.co_filename
        local_variables += repr(frame.tb_frame.f_locals) if is_ours else ""
        frame = frame.tb_next
    assert local_variables
    assert "s3cret parameter" not in local_variables
    assert connection.closed == 2
