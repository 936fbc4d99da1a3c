"""DAGs for test_waits_for_real.py."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from tests.partial_success import CASES

WAIT: dict[str, Any] = {"poke_interval": 0.5, "timeout": 600, "missing_ok_for": 0, "deferrable": True}

with DAG("partial_success", schedule=None, params={"ids": []}):
    waits = [
        RtiSmsDeliverySensor(
            task_id=f"wait_{index}",
            submission_ids=f"{{{{ params.ids[{index}] }}}}",
            min_delivered=case.min_delivered,
            **WAIT,
        )
        for index, case in enumerate(CASES)
    ]

    @task(trigger_rule="all_done")
    def final(ti=None) -> list[list[str]]:
        """Return the ids in the records that each failed wait has pushed, as a task does that acts on them."""
        pushed = [ti.xcom_pull(task_ids=wait.task_id, key="records") or [] for wait in waits]
        return [[record["submission_id"] for record in records] for records in pushed]

    waits >> final()

with DAG("bad_input", schedule=None, params={"ids": "nonsense"}):
    RtiSmsDeliverySensor(task_id="wait", submission_ids="{{ params.ids }}", retries=2, **WAIT)
