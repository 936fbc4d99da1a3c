"""Waits that begin in the triggerer: what the scheduler gets, what the trigger checks, and where a worker begins."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, TaskDeferred, task
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.start import RtiSmsDeliveryStartTrigger
from tests.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("quick_retries")
needs_airflow_3_3 = pytest.mark.skipif(
    not AIRFLOW_V_3_3_PLUS, reason="waits begin in the triggerer from Airflow 3.3 on"
)

START = {"deferrable": True, "start_from_trigger": True}


def new_sensor(submission_ids: Any = "1", **arguments: Any) -> RtiSmsDeliverySensor:
    return RtiSmsDeliverySensor(**{"task_id": "wait", "submission_ids": submission_ids, **START, **arguments})


def new_trigger(submission_ids: Any, **arguments: Any) -> RtiSmsDeliveryStartTrigger:
    defaults = {
        "rtisms_conn_id": "rtisms_default",
        "fail_on": ["REJECTED"],
        "min_delivered": None,
        "missing_ok_for": 0,
        "poke_interval": 0.1,
        "max_poke_interval": None,
        "timeout": PATIENCE,
    }
    trigger = RtiSmsDeliveryStartTrigger(**{"submission_ids": submission_ids, **defaults, **arguments})
    trigger.trigger_id = 7  # the triggerer sets it
    return trigger


async def fire(trigger: RtiSmsDeliveryStartTrigger) -> dict[str, Any]:
    (event,) = [event async for event in trigger.run()]
    return dict(event.payload)


def kwargs_of(sensor: Any) -> dict[str, Any]:
    """Return the arguments of the trigger, as they come back out of the serialized DAG."""
    assert sensor.start_from_trigger
    assert sensor.start_trigger_args.next_method == "execute_complete"
    kwargs = sensor.start_trigger_args.trigger_kwargs
    assert json.loads(json.dumps(kwargs)) == kwargs
    RtiSmsDeliveryStartTrigger(**kwargs)
    return dict(kwargs)


@needs_airflow_3_3
class TestArguments:
    def test_are_those_of_the_sensor(self) -> None:
        sensor = new_sensor(
            ["1", 2],
            rtisms_conn_id="{{ params.conn }}",
            fail_on=("EXPIRED",),
            min_delivered=0.5,
            missing_ok_for=timedelta(seconds=3),
            poke_interval=timedelta(seconds=7),
            timeout=100,
            exponential_backoff=True,
            max_wait=50,
        )
        assert kwargs_of(sensor) == {
            "submission_ids": '["1", 2]',
            "rtisms_conn_id": "{{ params.conn }}",
            "fail_on": ["EXPIRED"],
            "min_delivered": 0.5,
            "missing_ok_for": 3.0,
            "poke_interval": 7.0,
            "max_poke_interval": 50.0,
            "timeout": 100.0,
        }
        assert sensor.start_trigger_args.timeout == timedelta(seconds=100)

    def test_an_execution_timeout_ends_the_wait(self) -> None:
        assert kwargs_of(new_sensor(timeout=100, execution_timeout=timedelta(seconds=30)))["timeout"] == 30

    def test_templates_and_outputs_are_left_to_the_triggerer(self) -> None:
        with DAG("waits", schedule=None) as dag:

            @task
            def ids() -> list[str]:
                return ["1"]

            templated = new_sensor("{{ params.ids }}", task_id="templated")
            listed = new_sensor(["{{ params.id }}", "2"], task_id="listed")
            output = new_sensor(ids(), task_id="output")
        assert kwargs_of(templated)["submission_ids"] == "{{ params.ids }}"
        assert kwargs_of(listed)["submission_ids"] == ["{{ params.id }}", "2"]
        assert "output_of('ids', 'return_value')" in kwargs_of(output)["submission_ids"]
        assert output.upstream_task_ids == {"ids"}
        assert dag.dag_id == "waits"

    def test_mapped_waits_get_theirs_by_their_index(self) -> None:
        with DAG("waits", schedule=None, default_args={"poke_interval": 7, "fail_on": ["EXPIRED"]}):

            @task
            def ids() -> list[str]:
                return ["1"]

            partial = RtiSmsDeliverySensor.partial(task_id="literal", timeout=100, **START)
            literal = partial.expand(submission_ids=[["1", "2"], "3", {"submission_id": "4"}])
            output = RtiSmsDeliverySensor.partial(task_id="output", **START).expand(submission_ids=ids())
        assert "task.expand_input.value['submission_ids'][ti.map_index]" in kwargs_of(literal)["submission_ids"]
        kwargs = kwargs_of(output)
        assert "output_of('ids', 'return_value')[ti.map_index]" in kwargs["submission_ids"]
        assert (kwargs["poke_interval"], kwargs["fail_on"], kwargs["missing_ok_for"]) == (7, ["EXPIRED"], 60)
        assert kwargs["timeout"] == 7 * 24 * 3600
        assert literal.start_trigger_args.timeout == timedelta(seconds=100)


def not_deferrable() -> Any:
    return new_sensor(deferrable=False)


def not_json() -> Any:
    return new_sensor(missing_ok_for=print)


def pull_of_all() -> Any:
    return new_sensor("{{ ti.xcom_pull('ids') }}")


class TestInAWorker:
    """Where a wait cannot begin in the triggerer, it begins in a worker, as usual, and one log line says why."""

    @needs_airflow_3_3
    @pytest.mark.parametrize(
        ("new", "why"),
        [
            (not_deferrable, "start_from_trigger needs deferrable=True"),
            (not_json, "missing_ok_for is a value of type builtin_function_or_method, which only a worker can resolve"),
            (pull_of_all, "the template of submission_ids has an xcom_pull without map_indexes=None"),
        ],
    )
    def test_arguments_that_only_a_worker_can_resolve(self, new: Callable[[], Any], why: str) -> None:
        sensor = new()
        assert not sensor.start_from_trigger
        assert sensor._why_in_worker == why

    @needs_airflow_3_3
    def test_outputs_of_mapped_tasks(self) -> None:
        with DAG("waits", schedule=None):

            @task
            def ids(x: int) -> str:
                return str(x)

            mapped = ids.expand(x=[1, 2])
            sensor = new_sensor(mapped, task_id="all")
            each = RtiSmsDeliverySensor.partial(task_id="each", **START).expand(submission_ids=mapped)
            zipped = RtiSmsDeliverySensor.partial(task_id="kwargs", **START).expand_kwargs([{"submission_ids": "1"}])
            poking = RtiSmsDeliverySensor.partial(task_id="poking", start_from_trigger=True).expand(
                submission_ids=["1"]
            )
        assert sensor._why_in_worker == "the task ids is mapped"
        assert not any(one.start_from_trigger for one in (sensor, each, zipped, poking))
        assert not any(one.start_trigger_args for one in (sensor, each, zipped, poking))

    @pytest.mark.skipif(AIRFLOW_V_3_3_PLUS, reason="it begins in the triggerer there")
    def test_older_versions_of_airflow(self, rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
        waiting = rtisms_sandbox.add_submission("SENT")
        sensor = new_sensor(waiting)
        assert (sensor.start_from_trigger, sensor.start_trigger_args) == (False, None)
        with pytest.raises(TaskDeferred):
            sensor.execute({})
        assert "begins in this worker and not in the triggerer: it needs Airflow 3.3 or later" in logged()

    @needs_airflow_3_3
    def test_it_says_so(self, rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
        waiting = rtisms_sandbox.add_submission("SENT")
        with pytest.raises(TaskDeferred):
            new_sensor(waiting).execute({})
        assert logged().count("begins in this worker and not in the triggerer: it is a run of dag.test()") == 1


@pytest.mark.parametrize(
    ("submission_ids", "arguments"),
    [
        ("nonsense", {}),
        ("None", {}),
        ('["1", null]', {}),
        ("[1, 2", {}),
        ("['1', '2']", {"min_delivered": 3}),
        ("['1', '2']", {"min_delivered": 0}),
        ("1", {"fail_on": ["SENT"]}),
        ("1", {"missing_ok_for": "soon"}),
    ],
)
def test_bad_input_fails_as_it_does_in_a_worker(
    rtisms_sandbox: Sandbox, submission_ids: str, arguments: dict[str, Any]
) -> None:
    event = asyncio.run(fire(new_trigger(submission_ids, **arguments)))
    assert event["outcome"] == "failed"
    with pytest.raises(AirflowFailException) as in_worker:
        RtiSmsDeliverySensor(task_id="wait", submission_ids=submission_ids, **arguments).execute({})
    assert event["message"] == str(in_worker.value)
    with pytest.raises(AirflowFailException) as resumed:
        RtiSmsDeliverySensor(task_id="wait", submission_ids=submission_ids, **arguments).execute_complete({}, event)
    assert str(resumed.value) == event["message"]
    assert rtisms_sandbox.state().requests == {}


class Pulls:
    """A task instance whose pulls take a while, in another thread as it were."""

    dag_id, run_id, try_number, map_index = "waits", "run", 1, 0
    count = 0

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: None) -> Any:
        Pulls.count += 1
        return [[str(number), str(number + 1)] for number in range(0, 400, 2)]


class TestTrigger:
    @needs_airflow_3_3
    def test_mapped_waits_share_what_an_upstream_task_returned(self, rtisms_sandbox: Sandbox) -> None:
        """A pull for each of a thousand waits, at the same time, can block the triggerer of Airflow for ever."""
        Pulls.count = 0
        pulled = "{% set ids = output_of('ids', 'return_value')[ti.map_index] %}{{ ids }}"

        async def main() -> list[RtiSmsDeliveryStartTrigger]:
            triggers = []
            for index in range(200):
                trigger = new_trigger(pulled, timeout=0.1)
                trigger.template_fields = ("submission_ids",)
                ti = Pulls()
                ti.map_index = index
                trigger.render_template_fields({"ti": ti})
                triggers.append(trigger)
            await asyncio.gather(*map(fire, triggers))
            return triggers

        triggers = asyncio.run(main())
        assert Pulls.count == 1
        assert [trigger.submission_ids for trigger in triggers] == [f"['{2 * n}', '{2 * n + 1}']" for n in range(200)]

    def test_begins_and_ends_without_a_pause(self, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """No worker has deferred, so there is nothing to wait for: neither for the first poll nor for the event."""
        monkeypatch.setattr("airflow_provider_rtisms.triggers.polling.DEFERRAL_GRACE", 3600)
        done = rtisms_sandbox.add_submission(pending_for=0, sent_for=0)
        event = asyncio.run(fire(new_trigger(f"['{done}']", poke_interval=3600)))
        assert [record["submission_id"] for record in event["records"]] == [done]

    def test_takes_records_as_templates_render_them(self, rtisms_sandbox: Sandbox) -> None:
        done = rtisms_sandbox.add_submission(pending_for=0, sent_for=0)
        sent = [{"outcome": "submitted", "submission_id": done}, {"outcome": "refused", "submission_id": None}]
        event = asyncio.run(fire(new_trigger(str(sent), min_delivered=0.5)))
        assert event["outcome"] == "finished"
        event = asyncio.run(fire(new_trigger(str(sent), min_delivered=1.0)))
        assert "needs 2 of 2 messages" in event["message"]

    def test_its_time_counts_from_the_deferral_after_a_restart_too(self, rtisms_sandbox: Sandbox) -> None:
        waiting = rtisms_sandbox.add_submission("SENT")
        trigger = new_trigger(waiting, timeout=3600)
        began = time.time()
        trigger.timeout_after = datetime.now(UTC) + timedelta(seconds=6)  # Airflow ends the deferral then
        event = asyncio.run(fire(trigger))
        assert event["outcome"] == "timeout"
        assert time.time() - began > 0.9
        trigger = new_trigger("999999", timeout=3600, missing_ok_for=60)
        trigger.timeout_after = datetime.now(UTC) + timedelta(seconds=3600 - 61)
        assert "unknown to the API" in asyncio.run(fire(trigger))["message"]

    def test_a_large_wait_has_a_small_event(self, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airflow_provider_rtisms.triggers.start.MAX_RECORDS_IN_DATABASE", 1)
        ids = [rtisms_sandbox.add_submission(pending_for=0, sent_for=0) for _ in range(2)]
        assert asyncio.run(fire(new_trigger(str(ids)))) == {"version": 1, "outcome": "finished", "records": []}

    def test_arguments_of_another_version_are_refused(self) -> None:
        assert "(from_the_future)" in asyncio.run(fire(new_trigger("1", from_the_future=1)))["message"]

    def test_every_argument_is_kept(self) -> None:
        trigger = new_trigger("1", is_execution_timeout=True)
        path, arguments = trigger.serialize()
        assert path == "airflow_provider_rtisms.triggers.start.RtiSmsDeliveryStartTrigger"
        code = RtiSmsDeliveryStartTrigger.__init__.__code__
        assert set(arguments) == set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
