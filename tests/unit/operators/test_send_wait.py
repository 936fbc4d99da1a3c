"""Partial success of sends that wait: one table of cases for a wait in the worker and in the triggerer."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from airflow_provider_rtisms import waiting
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from tests.partial_success import CASES
from tests.patience import PATIENCE, with_more_time
from tests.unit.attempts import Pushes

pytestmark = [pytest.mark.usefixtures("quick_retries"), pytest.mark.slow, pytest.mark.outer_minors]

#: The last three digits of numbers to which the sandbox delivers, or does not, by the letters of a case.
DIGITS = {"D": "100", "R": "001", "U": "008", "S": "004"}
SENT_CASES = [case for case in CASES if "?" not in case.statuses]
in_both_places = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def numbers(statuses: str) -> list[str]:
    return [f"+569000{position:02}{DIGITS[letter.upper()]}" for position, letter in enumerate(statuses)]


def send(context: Any, recipients: list[str], **options: Any) -> Any:
    """Send and wait to the end; a task that resumes is another object in another process."""
    what = {"recipients": recipients, "text": "hola", "sender": "96000"}
    wait = {"wait_for_delivery": True, "poke_interval": 0.1, "timeout": PATIENCE}
    arguments = {"task_id": "send", **what, **wait, **options}
    try:
        return RtiSmsSendOperator(**arguments).execute(context)
    except TaskDeferred as deferral:
        _, kwargs = deferral.trigger.serialize()
        (event,) = asyncio.run(fire(RtiSmsDeliveryTrigger(**kwargs)))
        return RtiSmsSendOperator(**arguments).execute_complete(context, event)


async def fire(trigger: RtiSmsDeliveryTrigger) -> list[Any]:
    return [event.payload async for event in trigger.run()]


@in_both_places
@pytest.mark.parametrize(("statuses", "options"), [("DR", {}), ("R", {"min_delivered": 1})])
def test_a_failed_wait_pushes_its_records(
    rtisms_sandbox: Sandbox, statuses: str, options: dict[str, Any], deferrable: bool
) -> None:
    context = {"ti": Pushes()}
    with pytest.raises(AirflowFailException) as caught:
        send(context, numbers(statuses), deferrable=deferrable, **options)
    assert re.search(r"[0-9] \(recipients\[[01]\] \*\*\*001\) REJECTED", str(caught.value))
    assert "REJECTED means that the vendor or the network refused the message" in str(caught.value)
    assert "REJECTED" in [record["status"] for record in context["ti"].pushed["records"]]


@in_both_places
def test_a_wait_that_times_out_pushes_its_records(rtisms_sandbox: Sandbox, deferrable: bool) -> None:
    def attempt(seconds: float) -> list[str]:
        context = {"ti": Pushes()}
        with pytest.raises(AirflowSensorTimeout):
            send(context, numbers("DS"), deferrable=deferrable, timeout=4 * seconds, min_delivered=1)
        return [record["status"] for record in context["ti"].pushed.get("records", [])]

    assert with_more_time(attempt, was_enough=lambda statuses: statuses) == ["DELIVERED"]


@in_both_places
def test_large_waits_push_none(rtisms_sandbox: Sandbox, deferrable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_RECORDS_IN_DATABASE", 1)
    context = {"ti": Pushes()}
    with pytest.raises(AirflowFailException, match="needs 2 of 2"):
        send(context, numbers("DR"), deferrable=deferrable, min_delivered=2)
    assert "records" not in context["ti"].pushed
    assert len(send(context, numbers("DDR"), deferrable=deferrable, min_delivered=2)) == 3


@in_both_places
def test_a_share_is_of_all_messages(rtisms_sandbox: Sandbox, deferrable: bool) -> None:
    """The response to one of two requests is lost. Its messages have no submission id, and may not be delivered."""
    options: dict[str, Any] = {"on_uncertain": "skip", "chunk_size": 2, "deferrable": deferrable}
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
    context = {"ti": Pushes()}
    with pytest.raises(AirflowFailException, match=r"needs 3 of 4 messages, and at most 2 .*no submission id"):
        send(context, numbers("DDDD"), min_delivered=0.75, **options)
    assert rtisms_sandbox.state().requests.get("GET sms") is None, "it failed before the first poll"

    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
    assert len(send(context, numbers("DDDD"), min_delivered=0.5, **options)) == 2
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
    assert len(send(context, numbers("DDDD"), min_delivered=2, **options)) == 2
