"""A database of one file, and the Connection that leads to it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest


class SqliteFile:
    def __init__(self, path: Path, conn_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("airflow.providers.sqlite", reason="the SQLite provider is not installed")
        self.path = path
        fields = {"conn_type": "sqlite", "host": str(path)}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    def do(self, sql: str, *parameters: Any) -> list[Any]:
        """Run a statement, and return its rows."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, parameters).fetchall()

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.do(sql, *parameters)]

    def fill(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        """Replace all rows."""
        self.do(f"DELETE FROM {table}")  # noqa: S608
        for row in rows:
            self.do(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)  # noqa: S608
