"""Which errors of databases are permanent, without a server; tests/system/test_databases.py has the servers."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsTransientError
from airflow_provider_rtisms.sql.databases import explain

PASSING = [
    *(("psycopg.errors", state) for state in ["40P01", "40001", "55P03", "53300", "57P01", "57014", "08006"]),
    *(("MySQLdb", number) for number in [1205, 1213, 2006, 2013, 2003, 1040, 1927]),
    *(("mysql.connector.errors", number) for number in [1205, 1213, 2006, 2013, 1040]),
    ("pyodbc", "08S01"),
    ("pyodbc", "HYT00"),
    ("oracledb.exceptions", None),
]
PERMANENT = [
    *(("psycopg.errors", state) for state in ["25006", "42601", "42P01", "42501", "22P02", "23505", "28P01", "P0001"]),
    *(("MySQLdb", number) for number in [1290, 1064, 1146, 1054, 1142, 1044, 1045, 1366, 1062, 1644]),
    *(("pymysql.err", number) for number in [1290, 1142]),
    ("pyodbc", "42S02"),
]


def error_of(module: str, code: Any) -> Exception:
    """Return an OperationalError of a driver, as mysqlclient raises it for permanent faults too."""
    base = type("Error", (Exception,), {"__module__": module})
    made = type("OperationalError", (base,), {"__module__": module})
    if module.startswith("psycopg"):
        error: Exception = made("it was +56912345678")
        error.sqlstate = code  # type: ignore[attr-defined]
        return error
    return made(code, "it was +56912345678") if code else made("it was +56912345678")


@pytest.mark.parametrize(("module", "code"), PASSING)
def test_what_passes_may_be_retried(module: str, code: Any) -> None:
    error = explain("The query", error_of(module, code), "SELECT 1")
    assert isinstance(error, RtiSmsTransientError)
    assert "12345678" not in str(error)


@pytest.mark.parametrize(("module", "code"), PERMANENT)
def test_what_stays_is_not_retried(module: str, code: Any) -> None:
    error = explain("The query", error_of(module, code), "SELECT 1")
    assert not isinstance(error, RtiSmsTransientError)
    assert str(code) in str(error)
    assert "12345678" not in str(error)


@pytest.mark.parametrize(
    ("statement", "message", "shown"),
    [
        ("SELECT nmae FROM people", 'column "nmae" does not exist', 'column "nmae" does not exist'),
        ("SELECT a FROM b", 'column "secret" of b\nLINE 1: secret', 'column "***" of b'),
        ("SELECT a FRM b WHERE c = 'Ana'", "syntax error at or near \"'Ana'\"", "syntax error at or near \"'***'\""),
        ("SELECT 'it''s Ana' FRM b", "near 'Ana' FRM b", "near '***' FRM b"),
        (r"SELECT 'it\'s Ana' FRM b", "near 's Ana' FRM b", "near '***"),
        ("SELECT a -- don't\n FRM b WHERE c = 'Ana'", "near Ana b", "near *** b"),
        ("SELECT $x$Ana$x$ FRM b", "near Ana FRM", "near *** FRM"),
        ("SELECT 56912345678 FRM b", "near 56912345678 FRM", "near *** FRM"),
        ("SELECT a FRM b", "near \N{PILE OF POO} \x1b[31m 12/34/2026 FRM", "near *** FRM"),
    ],
)
def test_a_message_has_only_words_of_the_server_and_names_of_the_statement(
    statement: str, message: str, shown: str
) -> None:
    error = error_of("psycopg.errors", "42601")
    error.args = (message,)
    text = str(explain("The query", error, statement)).partition("42601: ")[2].partition("). ")[0]
    assert text == shown
