"""Which errors of databases are permanent, without a server; tests/system/test_databases.py has the servers."""

from __future__ import annotations

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsTransientError
from airflow_provider_rtisms.sql.databases import Fault, explain, fault_of

#: SQLSTATEs of PostgreSQL and of ODBC, error numbers of MySQL and MariaDB (their manuals list them).
CODES: list[tuple[Fault, str, str]] = [
    ("passing", "psycopg", "08006 25P03 26000 40001 40P01 53300 55006 55P03 57014 57P01 58030 72000 HV000 XX000"),
    ("passing", "psycopg2", "40001 55P03"),
    ("passing", "MySQLdb", "1021 1040 1205 1213 1317 1927 1969 2003 2006 2013 3024 4031"),
    ("passing", "mysql", "1040 1205 1213 2006 2013"),
    ("passing", "aiomysql", "1205"),
    ("passing", "pyodbc", "08S01 HYT00"),
    ("statement", "psycopg", "3F000 42601 42P01"),
    ("statement", "pyodbc", "42S02"),
    ("statement", "MySQLdb", "1046 1054 1064 1146 1305 1318"),
    ("key", "psycopg", "42P10"),
    ("rights", "psycopg", "42501"),
    ("rights", "MySQLdb", "1142 1143 1227"),
    ("rights", "pymysql", "1142"),
    ("login", "psycopg", "28P01 3D000"),
    ("login", "MySQLdb", "1044 1045 1049 1698 2054 2059"),
    ("read-only", "psycopg", "25006"),
    ("read-only", "MySQLdb", "1290 1792 1836"),
    ("read-only", "pymysql", "1290"),
    ("values", "psycopg", "21000 22P02"),
    ("values", "MySQLdb", "1264 1265 1292 1366 1406 1411"),
    ("constraint", "psycopg2", "23505"),
    ("constraint", "MySQLdb", "1048 1062 1452 1644 3819 4025"),
    ("unknown", "psycopg", "P0001"),
]


def error_of(library: str, code: str, message: str = "it was +56912345678") -> Exception:
    """Return an OperationalError of a driver, as mysqlclient raises it for permanent faults too."""
    module = {"__module__": f"{library}.errors"}
    kind = type("OperationalError", (type("Error", (Exception,), module),), module)
    if library.startswith("psycopg"):
        error = kind(message)
        setattr(error, "sqlstate" if library == "psycopg" else "pgcode", code)
        return error
    return kind(int(code) if code.isdecimal() else code, message) if code else kind(message)


@pytest.mark.parametrize(("fault", "library", "codes"), CODES)
def test_the_code_says_what_is_at_fault_and_only_what_passes_may_be_retried(
    fault: Fault, library: str, codes: str
) -> None:
    for code in codes.split():
        error = error_of(library, code)
        assert fault_of(error) == fault, code
        explained = explain("The query", error, "SELECT 1")
        assert isinstance(explained, RtiSmsTransientError) is (fault == "passing")
        assert code in str(explained)
        assert "12345678" not in str(explained)


def test_an_error_without_a_code_passes() -> None:
    assert fault_of(error_of("oracledb", "")) == "passing"


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
    text = str(explain("The query", error_of("psycopg", "42601", message), statement))
    assert text.partition("42601: ")[2].partition("). ")[0] == shown


def test_a_string_of_mysql_may_stand_in_double_quotes() -> None:
    error = error_of("MySQLdb", "1064", "near 'Ana FRM b'")
    assert "1064: near '*** FRM b')" in str(explain("The query", error, r'SELECT "it\"s Ana" FRM b'))
