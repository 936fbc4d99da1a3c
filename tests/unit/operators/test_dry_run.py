"""Dry runs: they read, check and count as the task does, and leave no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.sandbox import Sandbox
from tests.unit.operators.test_exclusions import FIRST, database, send_query
from tests.unit.operators.test_send_messages import Context, people, send
from tests.unit.sqlite_file import SqliteFile

__all__ = ["database"]

COUNTS: dict[str, Any] = {
    "messages": 3,
    "excluded": 1,
    "parts_total": 2,
    "max_parts": 1,
    "charsets": {"1": 2},
    "forces_ucs2": {},
}
COUNTS |= {"completed": 0}


def test_it_counts_and_sends_nothing(
    rtisms_sandbox: Sandbox, context: Context, tmp_path: Path, logged: Callable[[], str]
) -> None:
    (tmp_path / "list.csv").write_text(f"phone\n{FIRST}\n")
    out = tmp_path / "results.csv"
    files = {"exclude_path": str(tmp_path / "list.csv"), "output_path": str(out)}
    found = send(people(3), dry_run=True, price="0.035", **files).execute(context)
    assert found == {**COUNTS, "cost": "0.070"}
    assert json.loads(json.dumps(found))["cost"] == "0.070"
    assert "2 of 3 messages would go out" in logged()
    assert "Invoice" not in logged()
    assert rtisms_sandbox.state().requests == {}
    assert context["task_state_store"] == {}
    assert context["ti"].pushed == {}
    assert not out.exists()


def test_a_query(rtisms_sandbox: Sandbox, database: SqliteFile) -> None:
    database.fill("opted_out", [(FIRST,)])
    found = send_query(dry_run=True, results_table="sent", create_table=True, wait_for_delivery=True).execute({})
    assert found == {**COUNTS, "cost": None}
    assert database.rows("SELECT name FROM sqlite_master") == [("people",), ("opted_out",)]
    assert rtisms_sandbox.state().requests == {}


def test_it_does_not_wait_for_the_allowed_hours(rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = {"allowed_hours": ("00:00", "00:01"), "timezone": "UTC", "deferrable": True}
    assert send(people(3), dry_run=True, **hours).execute({})["messages"] == 3


@pytest.mark.parametrize("price", ["cheap", -1])
def test_a_price_that_is_none_is_refused(rtisms_sandbox: Sandbox, price: Any) -> None:
    """What else a task refuses, a dry run refuses too: see the table in test_send_messages.py."""
    with pytest.raises(AirflowFailException, match="price"):
        send(people(3), dry_run=True, price=price).execute({})
    assert rtisms_sandbox.state().requests == {}


def test_airflows_own_dry_run_still_renders() -> None:
    """``BaseOperator.dry_run`` is a method: ``airflow tasks test --dry-run`` calls it."""
    assert "dry_run" not in vars(send(people(1), dry_run=True))
