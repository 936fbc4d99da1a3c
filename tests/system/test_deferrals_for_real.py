"""How deferrals end in a whole Airflow: by the execution_timeout, by a crash, and when allowed hours begin."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.dag_run import DagRun
from tests.system.conftest import NUMBERS

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only"),
]


def finish(airflow: AirflowDeployment, sandbox: SandboxProcess, dag_id: str) -> tuple[DagRun, dict[str, Any], bool]:
    """Run waits for what is never final. Return their task instances at the end, and whether all of them deferred."""
    run = airflow.trigger(dag_id, params={"id": sandbox.add_submission("SENT")})
    states: dict[str, list[str]] = {}
    for change in run.changes():
        states.setdefault(change["task_id"], []).append(change["state"])
    tasks = {task["task_id"]: task for task in run.task_instances()}
    assert {task["state"] for task in tasks.values()} == {"failed"}, run.failure_log()
    return run, tasks, all("deferred" in seen for seen in states.values())


def test_the_execution_timeout_ends_a_deferral(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    """The tasks would wait for an hour. The sensors have soft_fail, which does not skip that."""
    for seconds in (20, 240):  # a very slow machine defers nothing in 20 s
        sandbox.reset()
        run, tasks, all_deferred = finish(airflow, sandbox, f"execution_timeouts_{seconds}")
        if all_deferred:
            break
    assert all_deferred
    log = run.failure_log(1000)  # on a slow machine Airflow's own end can come before that of the trigger
    assert log.count("AirflowTaskTimeout: ") >= len(tasks) == 3, log
    for task in tasks.values():
        start, end = (datetime.fromisoformat(task[name]) for name in ("start_date", "end_date"))
        assert (end - start).total_seconds() > seconds - 3
    state = sandbox.state()
    assert [message.recipient for message in state.messages] == ["+56900000004"], "it was sent once"
    assert state.requests["GET balance"] > 1


def test_a_trigger_that_crashes_fails_a_sensor_with_soft_fail(
    airflow: AirflowDeployment, sandbox: SandboxProcess
) -> None:
    _, tasks, all_deferred = finish(airflow, sandbox, "soft_fails")
    assert all_deferred
    assert tasks.keys() == {"crash", "refused"}
    airflow.check()  # the triggerer has survived both
    # Airflow goes on to count a refused trigger as running, and SQLite gives its id to a later one, which never starts.
    airflow.kill("triggerer")
    airflow.start("triggerer")


@pytest.mark.slow
@pytest.mark.hours
@pytest.mark.timeout(3600)  # the hours begin after two to three minutes
def test_sends_wait_for_their_hours(airflow: AirflowDeployment, sandbox: SandboxProcess) -> None:
    """One task waits in the triggerer, and one is rescheduled: it is no sensor, and Airflow heeds the time anyway."""
    for minutes in (3, 20):  # a very slow machine begins after the first hours have begun
        sandbox.reset()
        start = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=minutes)
        (airflow.home / "dags" / "hours.txt").write_text(f"{start:%H:%M} {start + timedelta(hours=2):%H:%M}")
        run = airflow.trigger("allowed_hours")
        states: dict[str, list[str]] = {"in_triggerer": [], "rescheduled": []}
        for change in run.changes(timeout=1800):
            states[change["task_id"]].append(change["state"])
            if change["state"] in ("deferred", "up_for_reschedule"):
                assert "POST sms" not in sandbox.state().requests
        assert run.state() == "success", run.failure_log()
        if "deferred" in states["in_triggerer"] and "up_for_reschedule" in states["rescheduled"]:
            break
    assert states["in_triggerer"].count("deferred") == 1
    assert states["rescheduled"].count("up_for_reschedule") == 1
    received = Counter((message.text, message.recipient) for message in sandbox.state().messages)
    assert received == {(name, number): 1 for name in states for number in NUMBERS}
