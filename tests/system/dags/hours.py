"""A DAG for test_deferrals_for_real.py: sends that wait for their hours, which the test writes to a file."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator

file = Path(__file__).with_name("hours.txt")
hours = file.read_text().split() if file.exists() else ["00:00", "00:01"]

with DAG("allowed_hours", schedule=None):
    for name, deferrable in (("in_triggerer", True), ("rescheduled", False)):
        RtiSmsSendOperator(
            task_id=name,
            recipients="{{ var.json.sms_recipients }}",
            text=name,
            sender="96000",
            allowed_hours=hours,
            timezone="UTC",
            deferrable=deferrable,
        )
