"""``start_from_trigger`` is not used any more: DAGs that give it, and waits that an earlier release has stored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.exceptions import AirflowProviderDeprecationWarning
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from airflow_provider_rtisms.triggers.start import RtiSmsDeliveryStartTrigger
from tests.unit.upgrades.stored_forms import fire

WAIT: dict[str, Any] = {"task_id": "wait", "deferrable": True}


def test_a_worker_begins_the_wait_and_a_warning_says_what_to_do(rtisms_sandbox: Sandbox) -> None:
    waiting = rtisms_sandbox.add_submission("SENT")
    with pytest.warns(AirflowProviderDeprecationWarning, match="remove it. With deferrable=True"):
        sensor = RtiSmsDeliverySensor(**WAIT, submission_ids=waiting, start_from_trigger=True)
    assert not sensor.start_from_trigger
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({})
    assert isinstance(deferred.value.trigger, RtiSmsDeliveryTrigger)


def test_mapped_waits_begin_in_workers_too() -> None:
    with DAG("waits", schedule=None), pytest.warns(AirflowProviderDeprecationWarning, match="instead of mapping"):
        mapped = RtiSmsDeliverySensor.partial(**WAIT, start_from_trigger=True).expand(submission_ids=["1", "2"])
    assert not mapped.start_from_trigger
    assert "start_from_trigger" not in mapped.partial_kwargs


def test_a_stored_wait_begins_again_in_a_worker(rtisms_sandbox: Sandbox) -> None:
    """Its trigger has templates as the DAG has them, which the worker renders."""
    arguments = {"submission_ids": "{{ params.ids }}", "timeout": 3600.0, "from_an_older_release": 1}
    trigger = RtiSmsDeliveryStartTrigger(**arguments)
    assert trigger.serialize() == ("airflow_provider_rtisms.triggers.start.RtiSmsDeliveryStartTrigger", arguments)
    trigger.render_template_fields({})
    event = asyncio.run(fire(trigger))

    waiting = rtisms_sandbox.add_submission("DELIVERED", pending_for=60)
    sensor = RtiSmsDeliverySensor(**WAIT, submission_ids=waiting)
    with pytest.raises(TaskDeferred):
        sensor.resume_execution("execute_complete", {"event": event}, {})
    rtisms_sandbox.add_submission("DELIVERED", submission_id=waiting, pending_for=0, sent_for=0)
    (record,) = sensor.resume_execution("execute_complete", {"event": event}, {})
    assert (record["submission_id"], record["status"]) == (waiting, "DELIVERED")
