"""Waits for the chaos tests: one deferrable sensor for each list of ids in the run's params."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor


@dag(schedule=None, params={"waits": [["1"]]})
def deferred_waits() -> None:
    @task
    def waits(params: dict[str, list[list[str]]]) -> list[list[str]]:
        return params["waits"]

    RtiSmsDeliverySensor.partial(
        task_id="wait", rtisms_conn_id="rtisms_stored", poke_interval=1, timeout=600, deferrable=True
    ).expand(submission_ids=waits())


deferred_waits()
