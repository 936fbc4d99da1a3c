"""The ``execution_timeout`` of a task that is deferred: the sensors, and the send that waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sensors.rtisms import DEFERRAL_TIMEOUTS, RtiSmsBalanceSensor, RtiSmsDeliverySensor
from tests.patience import with_more_time
from tests.unit.attempts import Pushes, TaskStore

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]

#: The sandbox knows no submission 1, and never delivers to the number.
KINDS: dict[str, Callable[..., Any]] = {
    "delivery": lambda **arguments: RtiSmsDeliverySensor(
        task_id="wait", submission_ids="1", missing_ok_for=3600, **arguments
    ),
    "balance": lambda **arguments: RtiSmsBalanceSensor(task_id="wait", minimum=1000, **arguments),
    "send": lambda **arguments: RtiSmsSendOperator(
        task_id="send", recipients="+56900000004", text="hola", sender="96000", wait_for_delivery=True, **arguments
    ),
}
SENSORS = ("delivery", "balance")
needs_airflow_3_3 = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the journal of a send is new in 3.3")


def new_task(kind: str, **arguments: Any) -> Any:
    return KINDS[kind](**{"deferrable": True, "poke_interval": 0.1, "timeout": 3600, **arguments})


def running_for(seconds: float = 0.0) -> dict[str, Any]:
    """Return the context of a task that started some seconds ago, on Airflow 3.3."""
    ti = Pushes()
    ti.start_date = datetime.now(UTC) - timedelta(seconds=seconds)
    return {"ti": ti, "task": SimpleNamespace(do_xcom_push=True), "task_state_store": TaskStore()}


def defer(task: Any, context: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    return deferred.value


def end(task: Any, context: Any) -> None:
    """Let a task defer, run its trigger, and resume it."""
    deferred = defer(task, context)

    async def fire() -> Any:
        path, kwargs = deferred.trigger.serialize()
        assert path.endswith(type(deferred.trigger).__name__)
        return (await anext(type(deferred.trigger)(**kwargs).run())).payload

    task.resume_execution(deferred.method_name, {"event": asyncio.run(fire())}, context)


@pytest.mark.parametrize("kind", [*SENSORS, pytest.param("send", marks=needs_airflow_3_3)])
class TestEveryDeferral:
    @pytest.mark.parametrize(
        ("limit", "running", "left", "is_execution_timeout"), [(1000, 400, 600, True), (4000, 300, 3600, None)]
    )
    def test_the_smaller_of_it_and_the_timeout_limits_the_deferral(
        self, rtisms_sandbox: Sandbox, kind: str, limit: int, running: int, left: int, is_execution_timeout: bool | None
    ) -> None:
        context = running_for(running)
        deferred = defer(new_task(kind, execution_timeout=timedelta(seconds=limit)), context)
        assert left - 120 < deferred.timeout.total_seconds() <= left
        assert deferred.trigger.serialize()[1].get("is_execution_timeout") is is_execution_timeout
        if is_execution_timeout:
            assert deferred.trigger.deadline - context["ti"].start_date.timestamp() == pytest.approx(limit - 5)

    def test_it_ends_as_a_task_that_does_not_defer(self, rtisms_sandbox: Sandbox, kind: str) -> None:
        def attempt(seconds: float) -> tuple[str, Any]:
            context = running_for()
            with pytest.raises(AirflowTaskTimeout) as caught:
                end(new_task(kind, execution_timeout=timedelta(seconds=4 * seconds)), context)
            return str(caught.value), context["ti"].pushed.get("records")

        message, records = with_more_time(attempt, was_enough=lambda result: "before it could defer" not in result[0])
        assert message.startswith("The execution_timeout of the task has passed. Timed out: ")
        assert records == (None if kind == "balance" else [])

    def test_a_timeout_ends_as_before(self, rtisms_sandbox: Sandbox, kind: str) -> None:
        with pytest.raises(AirflowSensorTimeout, match=r"^Timed out: "):
            end(new_task(kind, timeout=2, execution_timeout=timedelta(seconds=600)), running_for())

    def test_it_may_be_over_already(self, rtisms_sandbox: Sandbox, kind: str) -> None:
        with pytest.raises(AirflowTaskTimeout):
            new_task(kind, execution_timeout=timedelta(seconds=10)).execute(running_for(11))

    def test_it_counts_from_now_outside_of_a_task(self, rtisms_sandbox: Sandbox, kind: str) -> None:
        before = time.time()
        task = new_task(kind, execution_timeout=timedelta(seconds=50))
        deferred = defer(task, {"task_state_store": TaskStore()})
        assert before + 45 <= deferred.trigger.deadline <= time.time() + 45

    @pytest.mark.parametrize("error", DEFERRAL_TIMEOUTS)
    @pytest.mark.parametrize(
        ("execution_timeout", "expected"), [(3600, AirflowTaskTimeout), (3601, AirflowSensorTimeout)]
    )
    def test_airflow_may_end_it_while_no_triggerer_runs(
        self, kind: str, error: str, execution_timeout: int, expected: type[BaseException]
    ) -> None:
        task = new_task(kind, execution_timeout=timedelta(seconds=execution_timeout))
        with pytest.raises(expected):
            task.resume_execution("__fail__", {"error": error}, running_for())


@pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("kind", SENSORS)
class TestSensors:
    def test_it_is_never_skipped(self, rtisms_sandbox: Sandbox, kind: str, flag: str) -> None:
        with pytest.raises(AirflowTaskTimeout):
            end(new_task(kind, execution_timeout=timedelta(seconds=2), **{flag: True}), running_for())
        with pytest.raises(AirflowTaskTimeout):
            new_task(kind, execution_timeout=timedelta(seconds=2), **{flag: True}).resume_execution(
                "__fail__", {"error": DEFERRAL_TIMEOUTS[0]}, running_for()
            )

    def test_nor_where_it_ends_a_poll(
        self, rtisms_sandbox: Sandbox, kind: str, flag: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def alarm(*_: Any) -> None:
            raise AirflowTaskTimeout("Timeout, PID: 7")  # as the handler of Airflow's signal does

        for deferrable in (False, True):
            sensor = new_task(kind, deferrable=deferrable, **{flag: True})
            monkeypatch.setattr(sensor, "poke", alarm)
            with pytest.raises(AirflowTaskTimeout, match="PID: 7"):
                sensor.execute(running_for())

    def test_a_timeout_is(self, rtisms_sandbox: Sandbox, kind: str, flag: str) -> None:
        arguments = {"timeout": 2, "execution_timeout": timedelta(seconds=600), flag: True}
        with pytest.raises(AirflowSkipException, match="Timed out: "):
            end(new_task(kind, **arguments), running_for(0.5))


class TestSend:
    @needs_airflow_3_3
    def test_the_time_of_the_send_counts(self, rtisms_sandbox: Sandbox) -> None:
        """The ``timeout`` counts from the end of the send, and the ``execution_timeout`` from the start of the task."""
        rtisms_sandbox.set_faults(Fault("latency", seconds=1.5, path="sms", times=1))
        task = new_task("send", timeout=3600, execution_timeout=timedelta(seconds=3601))
        assert defer(task, running_for()).trigger.is_execution_timeout

    def test_without_a_journal_it_is_not_retried(self, rtisms_sandbox: Sandbox) -> None:
        context = running_for()
        del context["task_state_store"]
        with pytest.raises(AirflowFailException, match=r"execution_timeout .* not retried, since a retry sends"):
            end(new_task("send", execution_timeout=timedelta(seconds=2)), context)
