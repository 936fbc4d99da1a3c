"""Partial success: one table of cases for a wait in the worker and for a deferred wait."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors import delivery_polling
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from airflow_provider_rtisms.waiting.delivery_wait import check_min_delivered, needed_deliveries

pytestmark = pytest.mark.usefixtures("quick_retries")

UNKNOWN_ID = "999999"


class Pushes:
    """What a task pushes to XCom."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def wait(sensor: RtiSmsDeliverySensor, context: Any) -> Any:
    """Wait to the end, in the worker or in the triggerer."""
    try:
        return sensor.execute(context)
    except TaskDeferred as deferral:
        path, arguments = deferral.trigger.serialize()
        assert path.endswith("RtiSmsDeliveryTrigger")
        trigger = RtiSmsDeliveryTrigger(**arguments)

    async def fire() -> Any:
        return [event.payload async for event in trigger.run()]

    (payload,) = asyncio.run(fire())
    resumed = RtiSmsDeliverySensor(**sensor.arguments)  # type: ignore[attr-defined]
    return resumed.execute_complete(context, payload)


def new_sensor(ids: list[str], **options: Any) -> RtiSmsDeliverySensor:
    defaults = {"task_id": "wait", "poke_interval": 0.05, "timeout": 20, "missing_ok_for": 0}
    arguments = {"submission_ids": ids, **defaults, **options}
    sensor = RtiSmsDeliverySensor(**arguments)
    sensor.__dict__["arguments"] = arguments
    return sensor


def submissions(sandbox: Sandbox, statuses: str) -> list[str]:
    """Add submissions: D delivered, R rejected, U unknown but final, S open for ever, ? unknown to the API."""
    names = {"D": "DELIVERED", "R": "REJECTED", "U": "UNKNOWN"}
    ids = []
    for letter in statuses:
        if letter == "?":
            ids.append(UNKNOWN_ID)
        elif letter == "S":
            ids.append(sandbox.add_submission("SENT"))
        else:
            ids.append(sandbox.add_submission(names[letter], pending_for=0, sent_for=0))
    return ids


@pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "deferred"])
@pytest.mark.parametrize(
    ("statuses", "min_delivered", "is_enough"),
    [
        ("DDD", 3, True),
        ("DDR", 2, True),
        ("DDR", 3, False),
        ("DRR", 1, True),
        ("RRR", 1, False),
        ("DDU", 2, True),
        ("DDU", 3, False),
        ("D" * 19 + "R", 0.95, True),
        ("D" * 18 + "RR", 0.95, False),
        ("DDD", 1.0, True),
        ("DDR", 1.0, False),
        ("DD?", 2, True),
        ("DD?", 3, False),
        ("DDDDDRRS", 7, False),  # it fails although one is still open
    ],
)
def test_enough_deliveries(
    rtisms_sandbox: Sandbox, statuses: str, min_delivered: float, is_enough: bool, deferrable: bool
) -> None:
    ids = submissions(rtisms_sandbox, statuses)
    final = [one for one, letter in zip(ids, statuses, strict=True) if letter in "DRU"]
    context = {"ti": Pushes()}
    sensor = new_sensor(ids, min_delivered=min_delivered, deferrable=deferrable)
    if is_enough:
        assert [record["submission_id"] for record in wait(sensor, context)] == final
        assert context["ti"].pushed == {}
        return
    with pytest.raises(AirflowFailException, match="min_delivered can no longer be reached"):
        wait(sensor, context)
    assert [record["submission_id"] for record in context["ti"].pushed["records"]] == final


@pytest.mark.parametrize("deferrable", [False, True], ids=["poke", "deferred"])
def test_all_have_to_be_final_even_if_enough_are_delivered(rtisms_sandbox: Sandbox, deferrable: bool) -> None:
    ids = submissions(rtisms_sandbox, "DDS")
    context = {"ti": Pushes()}
    sensor = new_sensor(ids, min_delivered=2, deferrable=deferrable, timeout=1)
    with pytest.raises(AirflowSensorTimeout, match="imed out"):
        wait(sensor, context)
    assert [record["status"] for record in context["ti"].pushed["records"]] == ["DELIVERED"] * 2


def test_a_failed_delivery_without_min_delivered_pushes_its_records_too(rtisms_sandbox: Sandbox) -> None:
    context = {"ti": Pushes()}
    with pytest.raises(AirflowFailException, match="fail_on"):
        wait(new_sensor(submissions(rtisms_sandbox, "DR")), context)
    assert [record["status"] for record in context["ti"].pushed["records"]] == ["DELIVERED", "REJECTED"]


def test_a_wait_that_is_skipped_pushes_its_records_too(rtisms_sandbox: Sandbox) -> None:
    context = {"ti": Pushes()}
    with pytest.raises(AirflowSkipException):
        wait(new_sensor(submissions(rtisms_sandbox, "R"), min_delivered=1, soft_fail=True), context)
    assert len(context["ti"].pushed["records"]) == 1


def test_too_many_records_are_not_pushed(rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_polling, "MAX_RECORDS_IN_DATABASE", 1)
    context = {"ti": Pushes()}
    with pytest.raises(AirflowFailException):
        wait(new_sensor(submissions(rtisms_sandbox, "RR"), min_delivered=1), context)
    assert context["ti"].pushed == {}


def test_arguments_of_a_trigger_from_before_still_work(rtisms_sandbox: Sandbox) -> None:
    """A trigger that was stored by a release without ``min_delivered``."""
    (done,) = submissions(rtisms_sandbox, "D")
    _, arguments = RtiSmsDeliveryTrigger(
        rtisms_conn_id="rtisms_default",
        submission_ids=[done],
        poke_interval=0.1,
        deadline=time.time() + 20,
        missing_until=0,
        fail_on=(),
    ).serialize()
    del arguments["min_delivered"]

    async def fire() -> Any:
        return [event.payload async for event in RtiSmsDeliveryTrigger(**arguments).run()]

    (payload,) = asyncio.run(fire())
    assert payload["outcome"] == "finished"


@pytest.mark.parametrize("value", [0, -1, 0.0, 1.5, -0.5, True, "2", float("nan"), []])
def test_a_number_that_makes_no_sense_is_refused(rtisms_sandbox: Sandbox, value: Any) -> None:
    with pytest.raises(AirflowFailException, match="min_delivered"):
        new_sensor(["1"], min_delivered=value).execute({})
    assert rtisms_sandbox.state().requests == {}


def test_more_than_there_are_is_refused_at_once(rtisms_sandbox: Sandbox) -> None:
    with pytest.raises(AirflowFailException, match="only 1 submissions"):
        new_sensor(["1"], min_delivered=2).execute({})
    assert rtisms_sandbox.state().requests == {}


@pytest.mark.parametrize(
    ("min_delivered", "total", "needed"),
    [(None, 9, 0), (3, 3, 3), (0.95, 20, 19), (0.95, 21, 20), (0.5, 3, 2), (1.0, 7, 7), (0.1, 1, 1), (0.7, 10, 7)],
)
def test_a_share_is_rounded_up(min_delivered: float | None, total: int, needed: int) -> None:
    assert needed_deliveries(check_min_delivered(min_delivered), total) == needed


def test_a_count_above_the_total_is_an_input_error() -> None:
    with pytest.raises(RtiSmsInputError):
        needed_deliveries(4, 3)
