"""Alerts of tasks that Airflow itself runs, with its Variables. More is in test_sending_for_real.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_rtisms.sandbox import Sandbox
from tests.system.conftest import RunDag, load_dag
from tests.system.test_documents import blocks, for_airflow_2

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.outer_minors]


def test_one_sms_stands_for_many_failing_tasks(run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    """The DAG of the page, with tasks that fail. ``dag.test()`` of Airflow 3 does not call the callback of the DAG."""
    (block,) = blocks("storm")
    code = for_airflow_2(block.code).replace("print(", "raise ValueError(").replace("dag.dag_id", "'one key'")
    code = code.replace(", on_failure_callback=run_failed", "")
    six_fail = code.replace("range(24)", "range(6)")
    one_fails = code.replace("range(24)", "range(1)").replace("=task_failed", "=run_failed").replace("many", "more")
    assert run_dag(load_dag(six_fail, tmp_path)).state == "failed"
    assert run_dag(load_dag(one_fails, tmp_path)).state == "failed"
    first, second = (message.text for message in rtisms_sandbox.state().messages)
    assert first == "load failed"
    assert second.endswith(" failed (+5 since the last SMS)")
