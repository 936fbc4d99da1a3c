"""
What an older release has stored is understood, or refused with a clear error. It is never misread.

Tasks are deferred, journals are open and part files lie around while people upgrade. So a worker or a triggerer of this
release meets forms of any release before it, and of later ones.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSensorTimeout
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from packaging.version import Version

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.models import Submission
from airflow_provider_rtisms.bulk.fetch import Part
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sending.journal import NOT_SENT, UNCERTAIN, MemoryStore, SendJournal
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor, RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from tests.unit.attempts import AssetStore, TaskStore
from tests.unit.upgrades.stored_forms import (
    CLIENT_SECRET,
    DONE,
    IDS,
    NEWEST,
    OPEN_ID,
    SAMPLES,
    SENT,
    balance_watcher,
    delivery_trigger,
    fire,
    stored_forms,
)

try:
    from airflow.serialization.serialized_objects import DagSerialization as Serialized
except ImportError:  # before Airflow 3.2
    from airflow.serialization.serialized_objects import SerializedDAG as Serialized

pytestmark = pytest.mark.usefixtures("quick_retries")

Sample = dict[str, Any]


@pytest.fixture(params=sorted(SAMPLES))
def sample(request: pytest.FixtureRequest) -> Sample:
    """What a release stores. An older sample may have only what differs."""
    return copy.deepcopy({**SAMPLES[NEWEST], **SAMPLES[request.param]})


def event_of(sample: Sample, name: str) -> Any:
    return sample["events"][name]


def test_this_release_stores_what_the_newest_sample_shows(rtisms_sandbox: Sandbox) -> None:
    """If this is red, a stored form has changed: see stored_forms.py."""
    assert Version(NEWEST) <= Version(__version__)
    assert stored_forms(rtisms_sandbox) == SAMPLES[NEWEST]


class TestTriggers:
    @pytest.mark.parametrize("name", SAMPLES[NEWEST]["triggers"])
    def test_arguments_are_understood(self, rtisms_sandbox: Sandbox, sample: Sample, name: str) -> None:
        path, arguments = sample["triggers"][name]
        module, _, kind = path.rpartition(".")
        trigger = getattr(importlib.import_module(module), kind)(**arguments)
        assert arguments.items() <= trigger.serialize()[1].items()
        for one in IDS:
            rtisms_sandbox.add_submission("DELIVERED", submission_id=one, pending_for=0, sent_for=0)
        event = asyncio.run(fire(trigger))
        begins_again = kind == "RtiSmsDeliveryStartTrigger"
        assert event.get("outcome", "finished") == ("begin_again" if begins_again else "finished")

    def test_arguments_from_before_later_ones_were_added_are_understood(self, rtisms_sandbox: Sandbox) -> None:
        """The required arguments alone: a trigger from before ``finished``, ``with_records``, ``quota`` and so on."""
        _, arguments = delivery_trigger().serialize()
        required = ("rtisms_conn_id", "submission_ids", "poke_interval", "deadline", "missing_until", "fail_on")
        for status in ("DELIVERED", "REJECTED"):
            for one in IDS:
                rtisms_sandbox.add_submission(status, submission_id=one, pending_for=0, sent_for=0)
            event = asyncio.run(fire(RtiSmsDeliveryTrigger(**{name: arguments[name] for name in required})))
            assert event["outcome"] == ("finished" if status == "DELIVERED" else "failed")
            assert [record["submission_id"] for record in event["records"]] == IDS


class TestEvents:
    def test_those_that_finish_a_wait_are_understood(self, rtisms_sandbox: Sandbox, sample: Sample) -> None:
        rtisms_sandbox.add_submission("DELIVERED", submission_id=IDS[0], pending_for=0, sent_for=0)
        sensor = RtiSmsDeliverySensor(task_id="wait", submission_ids=IDS[:1])
        assert sensor.execute_complete({}, event_of(sample, "delivery finished")) == [DONE]
        send = RtiSmsSendOperator(task_id="send", recipients="+56900000100", text="hola")
        assert send.execute_complete({}, event_of(sample, "delivery finished")) == [DONE]
        for task, name in ((send, "large"), (sensor, "large, without ids")):
            (record,) = task.execute_complete({}, event_of(sample, f"delivery finished, {name}"))
            assert record["submission_id"] == IDS[0]
        balance = RtiSmsBalanceSensor(task_id="wait", minimum="100")
        assert balance.execute_complete({}, event_of(sample, "balance finished")) == "457.00"
        assert event_of(sample, "balance fall") == {"balance": "457.00", "threshold": "500"}

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("delivery failed", AirflowFailException),
            ("delivery timeout", AirflowSensorTimeout),
            ("delivery timeout, large", AirflowSensorTimeout),
        ],
    )
    @pytest.mark.parametrize(
        "new_task",
        [
            lambda: RtiSmsDeliverySensor(task_id="wait", submission_ids=IDS),
            lambda: RtiSmsSendOperator(task_id="send", recipients="+56900000100", text="hola"),
        ],
        ids=["sensor", "send"],
    )
    def test_those_that_fail_it_are_understood(
        self, sample: Sample, name: str, error: type[Exception], new_task: Callable[[], Any]
    ) -> None:
        with pytest.raises(error, match="what happened"):
            new_task().execute_complete({}, event_of(sample, name))


class TestJournal:
    def test_it_is_understood(self, sample: Sample) -> None:
        store = MemoryStore(sample["journal"])
        journal = SendJournal(store, CLIENT_SECRET)
        expected: dict[str, Submission] = {key: result or UNCERTAIN for key, result in SENT.items()}
        expected |= {"begun": UNCERTAIN, "another": NOT_SENT}
        assert {key: journal.status_of(journal.digest(key)) for key in expected} == expected
        journal.begin([journal.digest("later")])
        expected |= {"later": UNCERTAIN}
        journal = SendJournal(store, CLIENT_SECRET)
        assert {key: journal.status_of(journal.digest(key)) for key in expected} == expected

    @pytest.mark.parametrize("key", ["rtisms_send", "rtisms_send_0", "rtisms_send_1"])
    def test_another_version_is_refused(self, sample: Sample, key: str) -> None:
        store = MemoryStore(sample["journal"])
        (store.get(key) or store["rtisms_send"]["begun"][key.removeprefix("rtisms_send_")])["version"] += 1
        with pytest.raises(RtiSmsConfigError, match="this release of airflow-provider-rtisms cannot read"):
            SendJournal(store, CLIENT_SECRET)


def resumed(path: Path) -> list[str]:
    found: list[str] = []
    with closing(Part(path.with_name("details.jsonl"), "d1")) as part:
        part.resume(lambda line: not found.append(json.loads(line)["submission_id"]))  # type: ignore[func-returns-value]
    return found


class TestPartFiles:
    def test_they_are_understood(self, sample: Sample, tmp_path: Path) -> None:
        path = tmp_path / "details.jsonl.d1.part"
        path.write_text(sample["part"])
        assert resumed(path) == [DONE["submission_id"]]

    @pytest.mark.parametrize(("old", "new"), [('"rtisms_part": 1', '"rtisms_part": 2'), ('"cost"', '"price"')])
    def test_another_version_is_fetched_again(
        self, sample: Sample, tmp_path: Path, old: str, new: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "details.jsonl.d1.part"
        path.write_text(sample["part"].replace(old, new))
        assert resumed(path) == []
        assert "was written by another version, or is damaged. Its submissions are fetched again" in caplog.text


class TestStores:
    def test_a_rescheduled_sensor_does_not_poll_what_is_final(self, rtisms_sandbox: Sandbox, sample: Sample) -> None:
        rtisms_sandbox.add_submission("DELIVERED", submission_id=OPEN_ID, pending_for=0, sent_for=0)
        sensor = RtiSmsDeliverySensor(task_id="wait", submission_ids=IDS, mode="reschedule")
        store = TaskStore(sample["rescheduled"])
        done = sensor.poke({"task_state_store": store})  # type: ignore[typeddict-item]
        assert [record["submission_id"] for record in done.xcom_value] == IDS
        assert set(rtisms_sandbox.state().requests_by_id) == {OPEN_ID}

    def test_a_fall_that_was_reported_is_not_reported_again(self, rtisms_sandbox: Sandbox, sample: Sample) -> None:
        def polls() -> int:
            return rtisms_sandbox.state().requests["GET balance"]

        async def watch_for_three_polls() -> None:
            before = polls()
            watching = asyncio.create_task(fire(balance_watcher(AssetStore(sample["watcher"]))))
            while not watching.done() and polls() < before + 3:  # noqa: ASYNC110  # the server counts them
                await asyncio.sleep(0.01)
            assert not watching.done()
            watching.cancel()

        assert asyncio.run(fire(balance_watcher(AssetStore())))["balance"] == "457.00"
        asyncio.run(watch_for_three_polls())


def test_a_stored_dag_that_names_the_former_link_loads() -> None:
    """Release 0.1.0 had a link to RealTime's panel. The scheduler and the API server read the DAG from the database."""
    with DAG("linked", schedule=None) as dag:
        RtiSmsSendOperator(task_id="send", recipients="+56900000100", text="hi", sender="96000")
    stored = Serialized.to_dict(dag)
    (task,) = stored["dag"]["tasks"]
    task["__var"]["_operator_extra_links"] = (
        {"RTI SMS panel": "_link_RtiSmsPanelLink"}
        if AIRFLOW_V_3_0_PLUS
        else [{"airflow_provider_rtisms.links.rtisms.RtiSmsPanelLink": {}}]
    )
    loaded = Serialized.from_dict(json.loads(json.dumps(stored)))
    assert loaded.get_task("send").task_type == "RtiSmsSendOperator"
