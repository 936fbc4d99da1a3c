"""A client secret that is rotated while a sensor pokes."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from tests.patience import PATIENCE


@pytest.fixture
def sensor(rtisms_sandbox: Sandbox) -> RtiSmsDeliverySensor:
    submission_id = rtisms_sandbox.add_submission("SENT")
    sensor = RtiSmsDeliverySensor(task_id="wait", submission_ids=submission_id, poke_interval=0.1, timeout=PATIENCE)
    assert not sensor.poke({})
    rtisms_sandbox.rotate_secret("a new secret")
    rtisms_sandbox.revoke_tokens()
    return sensor


def test_the_new_secret_is_read_from_the_connection(
    sensor: RtiSmsDeliverySensor, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", rtisms_sandbox.connection_json())
    assert not sensor.poke({}), "the poke that meets the old secret only reads the Connection again"
    rtisms_sandbox.add_submission(submission_id=sensor.submission_ids, pending_for=0, sent_for=0)
    assert sensor.execute({})[0]["status"] == "DELIVERED"


def test_a_secret_that_stays_wrong_fails_the_wait(sensor: RtiSmsDeliverySensor, rtisms_sandbox: Sandbox) -> None:
    asked = rtisms_sandbox.state().requests["POST auth"]
    with pytest.raises(AirflowFailException, match="client secret"):
        sensor.poke({})
    assert rtisms_sandbox.state().requests["POST auth"] == asked + 1
