"""Partial success of the sensor: one table of cases for a wait in the worker, in pieces, and in the triggerer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_provider_rtisms import waiting
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from tests.partial_success import CASES, Case, add_submissions, final_ids
from tests.patience import PATIENCE
from tests.unit.attempts import Pushes, TaskStore

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

pytestmark = [pytest.mark.usefixtures("quick_retries"), pytest.mark.slow, pytest.mark.outer_minors]

#: How each mode waits, and a limit that makes a wait a large one: its trigger gets the open ids only, and the task
#: fetches the records once more when it resumes.
MODES: dict[str, tuple[dict[str, Any], str]] = {
    "poke": ({"mode": "poke"}, ""),
    "reschedule": ({"mode": "reschedule"}, ""),
    "deferred": ({"deferrable": True}, ""),
    "too many for a trigger": ({"deferrable": True}, "MAX_RECORDS_IN_TRIGGER"),
    "too many for the database": ({"deferrable": True}, "MAX_RECORDS_IN_DATABASE"),
}
needs_airflow_3 = pytest.mark.skipif(
    not AIRFLOW_V_3_0_PLUS, reason="Airflow 2 asks its database for the first reschedule; tests/system has one"
)


@pytest.fixture(params=[pytest.param(one, marks=[needs_airflow_3] * (one == "reschedule")) for one in MODES])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if limit := MODES[request.param][1]:
        monkeypatch.setattr(waiting, limit, 0)
    return str(request.param)


class TaskInstance(Pushes):
    """A task instance as far as a rescheduled sensor needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.start_date = datetime.now(UTC)

    def get_first_reschedule_date(self, context: Any) -> datetime:
        return self.start_date


def new_context() -> dict[str, Any]:
    return {"ti": TaskInstance(), "task_state_store": TaskStore()}


def wait(mode: str, context: Any, ids: Any, **options: Any) -> Any:
    """Wait to the end. Each poke of a rescheduled sensor, and each end of a deferred one, has a process of its own."""
    defaults = {"task_id": "wait", "poke_interval": 0.05, "timeout": PATIENCE, "missing_ok_for": 0}
    arguments = {"submission_ids": ids, **defaults, **MODES[mode][0], **options}
    while True:
        try:
            return RtiSmsDeliverySensor(**arguments).execute(context)
        except AirflowRescheduleException:
            assert mode == "reschedule"
        except TaskDeferred as deferral:
            assert MODES[mode][0] == {"deferrable": True}
            _, kwargs = deferral.trigger.serialize()
            (event,) = asyncio.run(fire(RtiSmsDeliveryTrigger(**kwargs)))
            return RtiSmsDeliverySensor(**arguments).execute_complete(context, event)


async def fire(trigger: RtiSmsDeliveryTrigger) -> list[Any]:
    return [event.payload async for event in trigger.run()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.statuses[-5:]} {case.min_delivered}")
def test_enough_deliveries(rtisms_sandbox: Sandbox, case: Case, mode: str) -> None:
    ids = add_submissions(rtisms_sandbox, case.statuses)
    context = new_context()
    if case.is_enough:
        records = wait(mode, context, ids, min_delivered=case.min_delivered)
        assert {record["submission_id"] for record in records} == final_ids(case, ids)
        assert context["ti"].pushed == {}
        return
    with pytest.raises(AirflowFailException, match=f"min_delivered can no longer be reached.* of {len(ids)} messages"):
        wait(mode, context, ids, min_delivered=case.min_delivered)
    pushed = {record["submission_id"] for record in context["ti"].pushed.get("records", [])}
    assert bool(pushed) is (mode != "too many for the database"), "many records stay out of Airflow's database"
    assert pushed <= final_ids(case, ids)


@pytest.mark.parametrize(
    ("statuses", "options", "error", "named", "pushed"),
    [
        ("DDS", {"min_delivered": 2, "timeout": 1}, AirflowSensorTimeout, "imed out", ["DELIVERED"] * 2),
        ("Dr", {}, AirflowFailException, "fail_on", ["DELIVERED", "REJECTED"]),
        ("R", {"min_delivered": 1, "soft_fail": True}, AirflowSkipException, None, ["REJECTED"]),
    ],
    ids=["open ones time out", "without min_delivered", "skipped"],
)
def test_a_wait_that_does_not_succeed_pushes_what_it_knows(
    rtisms_sandbox: Sandbox, mode: str, statuses: str, options: Any, error: Any, named: str | None, pushed: list[str]
) -> None:
    context = new_context()
    with pytest.raises(error, match=named):
        wait(mode, context, add_submissions(rtisms_sandbox, statuses), **options)
    records = context["ti"].pushed.get("records", [])
    assert [record["status"] for record in records] == pushed * (mode != "too many for the database")


def test_a_share_counts_entries_without_an_id_too(rtisms_sandbox: Sandbox, mode: str) -> None:
    """A send returns such records for messages that have no submission."""
    sent = [{"submission_id": one} for one in add_submissions(rtisms_sandbox, "Dd")]
    not_sent = {"outcome": "uncertain", "submission_id": None}
    assert len(wait(mode, new_context(), [*sent, not_sent], min_delivered=0.6)) == 2
    with pytest.raises(AirflowFailException, match=r"needs 3 of 3 messages, and at most 2 .*no submission id"):
        wait(mode, new_context(), [*sent, not_sent], min_delivered=0.7)


def test_an_unknown_id_within_its_time_of_grace_is_waited_for(rtisms_sandbox: Sandbox, mode: str) -> None:
    ids = add_submissions(rtisms_sandbox, "d?")
    assert len(wait(mode, new_context(), ids, min_delivered=1, missing_ok_for=1)) == 1


@pytest.mark.parametrize(("value", "named"), [(2, "only 1 message"), (1.5, "min_delivered is "), (0, "1 or more")])
def test_a_number_that_makes_no_sense_is_refused_at_once(rtisms_sandbox: Sandbox, value: Any, named: str) -> None:
    with pytest.raises(AirflowFailException, match=named):
        wait("poke", {}, ["1"], min_delivered=value)
    assert rtisms_sandbox.state().requests == {}
