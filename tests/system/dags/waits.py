"""DAGs for test_waits_for_real.py: waits in a real triggerer."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor

WAIT = {"poke_interval": 0.5, "timeout": 300, "missing_ok_for": 0, "deferrable": True}

with DAG("partial_success", schedule=None, params={"waits": [{"submission_ids": ["1"], "min_delivered": 1}]}):

    @task
    def waits(params=None) -> list[dict[str, Any]]:
        """Return the arguments of each wait."""
        return params["waits"]

    @task(trigger_rule="all_done")
    def count_final(params=None, ti=None) -> list[int]:
        """Return how many records each failed wait has pushed, as a task does that acts on them."""
        indexes = range(len(params["waits"]))
        pushed = (ti.xcom_pull(task_ids="wait", key="records", map_indexes=index) for index in indexes)
        return [len(records or ()) for records in pushed]

    wait = RtiSmsDeliverySensor.partial(task_id="wait", **WAIT).expand_kwargs(waits())
    wait >> count_final()
