"""Which arguments may be names of template files, and which are names of files that a task reads itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_rtisms.api.values.secret import reveal
from airflow_provider_rtisms.operators.rtisms import (
    RtiSmsBulkGetDetailsOperator,
    RtiSmsGetBalanceOperator,
    RtiSmsGetDetailsOperator,
)
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor, RtiSmsDeliverySensor

SEND = {"recipients": "+56900000000", "text": "Hi", "sender": "96000"}
SQL = {"sql": "SELECT 1", "sql_conn_id": "people", "recipient_column": "phone", "text": "Hi"}
BULK = {"output_path": "out.csv"}


@pytest.fixture
def dag(tmp_path: Path) -> DAG:
    """A DAG that finds template files in a folder."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return DAG("templates", schedule=None, start_date=start, template_searchpath=[str(tmp_path)])


def rendered(operator: Any, field: str) -> str:
    operator.resolve_template_files()
    operator.render_template_fields({"dag": operator.dag, "word": "late", "params": {}})
    return str(reveal(getattr(operator, field)))


@pytest.mark.parametrize("name", ["ids.txt", "ids.sql", "ids.csv", "ids.jsonl", "ids.{{ word }}.txt"])
@pytest.mark.parametrize("field", ["submission_ids_path", "output_path", "missing_path"])
def test_files_that_a_bulk_fetch_reads_and_writes_are_no_templates(
    dag: DAG, tmp_path: Path, field: str, name: str
) -> None:
    (tmp_path / name).write_text("{{ broken")
    arguments = {"submission_ids_path": "other.csv", **BULK, field: name}
    operator = RtiSmsBulkGetDetailsOperator(task_id="task", dag=dag, **arguments)
    assert rendered(operator, field) == name.replace("{{ word }}", "late")


@pytest.mark.parametrize(
    "operator",
    [
        RtiSmsGetDetailsOperator(task_id="get", submission_id="1"),
        RtiSmsGetBalanceOperator(task_id="balance"),
        RtiSmsBulkGetDetailsOperator(task_id="bulk", submission_ids=["1"]),
        RtiSmsDeliverySensor(task_id="wait", submission_ids=["1"]),
        RtiSmsBalanceSensor(task_id="balance", minimum=1),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_operators_without_texts_read_no_template_files(operator: Any) -> None:
    assert tuple(operator.template_ext) == ()
