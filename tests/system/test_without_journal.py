"""Sending in a whole Airflow 3.0, 3.1 or 3.2, which keeps no task state: docs/sending-once-details.md, "All cases"."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from airflow.providers.common.compat.version_compat import (
    AIRFLOW_V_3_0_PLUS,
    AIRFLOW_V_3_1_PLUS,
    AIRFLOW_V_3_2_PLUS,
    AIRFLOW_V_3_3_PLUS,
)

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.dag_run import DagRun
from tests.documents import ROOT, blocks

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.slow,
    pytest.mark.skipif(
        not AIRFLOW_V_3_0_PLUS or AIRFLOW_V_3_3_PLUS, reason="test_sending_for_real.py is about Airflow 3.3"
    ),
]

NUMBERS = [f"+569000001{number:02}" for number in range(24)]
DAG = f"""
from datetime import timedelta

from airflow.sdk import DAG
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator

ledger = {{"results_table": "ledger", "results_conn_id": "shop", "create_table": True}}
timeout = {{"execution_timeout": timedelta(seconds=10)}}
wait = {{"wait_for_delivery": True, "poke_interval": 0.5, "timeout": 3}}
for name, arguments in {{"plain": {{}}, "ledger": ledger, "timeout": timeout, "wait": wait}}.items():
    with DAG(name, schedule=None):
        RtiSmsSendOperator(
            task_id="send", recipients={NUMBERS}, text="x", sender="96000", chunk_size=6, retries=1,
            retry_delay=timedelta(0), **arguments,
        )
"""
LATE = Fault("late_response", path="sms", method="POST", seconds=3600)


@pytest.fixture(scope="module")
def api() -> Iterator[SandboxProcess]:
    with SandboxProcess(balance="1000", pending_for=0, sent_for=0) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def deployment(
    api: SandboxProcess, new_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowDeployment]:
    folder = tmp_path_factory.mktemp("without_journal")
    (folder / "without_journal.py").write_text(DAG)
    env = {
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_CONN_SHOP": json.dumps({"conn_type": "sqlite", "host": str(folder / "shop.db")}),
    }
    settings = {
        "API_AUTH__JWT_ISSUER": "airflow",  # Airflow 3.0 needs one, with the PyJWT of today
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    }
    (folder / "in_hook_page.py").write_text(blocks("dag-3.2")[0].code)
    connections = {"rtisms_default": json.loads(api.connection_json())}
    files = sorted(folder.glob("*.py"))[0 if AIRFLOW_V_3_2_PLUS else 1 :]
    with AirflowDeployment(
        files, env=env, settings=settings, database=new_database, connections=connections
    ) as deployment:
        yield deployment


@pytest.fixture
def airflow(deployment: AirflowDeployment, api: SandboxProcess) -> AirflowDeployment:
    deployment.recover()
    api.reset(balance="1000", pending_for=0, sent_for=0)
    return deployment


def requests_per_number(api: SandboxProcess) -> Counter[int]:
    """Return how many numbers got how many SMS."""
    return Counter(Counter(message.recipient for message in api.state().messages).values())


def clear(run: DagRun) -> None:
    body = {"dry_run": False, "dag_run_id": run.run_id, "task_ids": ["send"], "only_failed": False}
    run.airflow.call("POST", f"dags/{run.dag_id}/clearTaskInstances", json=body)


def start(airflow: AirflowDeployment, api: SandboxProcess, dag_id: str) -> DagRun:
    """Start a run whose first request has a response, and whose three others have none."""
    api.set_faults(Fault("late_response", path="sms", method="POST", seconds=0, times=1), LATE)
    run = airflow.trigger(dag_id)
    airflow.wait_until(lambda: len(api.state().messages) == len(NUMBERS), what="all messages")
    return run


def kill(run: DagRun, api: SandboxProcess, *, worker: bool) -> None:
    """Kill the process of the task, and maybe its supervisor before, and let the API respond from now on."""
    pid = run.task_instances()[0]["pid"]
    if worker:
        psutil.Process(psutil.Process(pid).ppid()).kill()
    os.kill(pid, signal.SIGKILL)
    api.set_faults()


def tries(run: DagRun) -> int:
    return int(run.task_instances()[0]["try_number"])


@pytest.mark.parametrize("worker", [True, False])
def test_a_retry_after_a_kill_sends_to_all_again(airflow: AirflowDeployment, api: SandboxProcess, worker: bool) -> None:
    run = start(airflow, api, "plain")
    kill(run, api, worker=worker)
    is_retried = worker or AIRFLOW_V_3_1_PLUS  # 3.0 fails a task whose process has died
    expected = ("success", 2, {2: 24}) if is_retried else ("failed", 1, {1: 24})
    assert (run.finish(), tries(run), requests_per_number(api)) == expected, run.failure_log(60)


def test_sigterm_does_not_stop_a_send(airflow: AirflowDeployment, api: SandboxProcess) -> None:
    """Airflow's supervisor kills a task that goes on."""
    run = start(airflow, api, "plain")
    os.kill(run.task_instances()[0]["pid"], signal.SIGTERM)
    assert (run.finish(), tries(run), requests_per_number(api)) == ("failed", 1, {1: 24})
    assert "no complete response within 30 s" in run.failure_log(60)


def test_a_clear_sends_to_all_again_and_so_does_another_run(airflow: AirflowDeployment, api: SandboxProcess) -> None:
    run = airflow.trigger("plain")
    assert run.finish() == "success"
    clear(run)
    assert run.finish() == "success"
    assert requests_per_number(api) == {2: 24}
    assert airflow.trigger("plain").finish() == "success"
    assert requests_per_number(api) == {3: 24}


@pytest.mark.parametrize(
    ("dag_id", "fault", "sent"),
    [
        pytest.param("plain", Fault("lost_response", path="sms", method="POST", times=1), {1: 24}, id="uncertain"),
        pytest.param("wait", None, {1: 24}, id="a wait that fails"),
        pytest.param("timeout", LATE, {1: 24}, id="execution_timeout"),
    ],
)
def test_after_a_failure_nothing_is_sent_again(
    airflow: AirflowDeployment, api: SandboxProcess, dag_id: str, fault: Fault | None, sent: dict[int, int]
) -> None:
    if fault is LATE:
        run = start(airflow, api, dag_id)
    else:
        api.set_timing(pending_for=3600, sent_for=0)
        api.set_faults(*([] if fault is None else [fault]))
        run = airflow.trigger(dag_id)
    assert run.finish() == "failed"
    assert (tries(run), requests_per_number(api)) == (1, sent)


def test_a_transient_error_after_a_request_is_not_retried(airflow: AirflowDeployment, api: SandboxProcess) -> None:
    later = Fault("error", path="sms", method="POST", statuses=(429,), retry_after=0)
    api.set_faults(Fault("late_response", path="sms", method="POST", seconds=0, times=1), later)
    run = airflow.trigger("plain")
    assert run.finish() == "failed"
    assert (tries(run), requests_per_number(api)) == (1, {1: 6})


@pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="Airflow 3.2 is the first with async tasks")
def test_an_async_task_uses_the_hook(airflow: AirflowDeployment, api: SandboxProcess) -> None:
    run = airflow.trigger("with_the_asyncio_client")
    assert run.finish() == "success"
    assert [record["status"] for record in run.xcom("fetch")] == ["DELIVERED", "REJECTED"]


def test_the_ledger_remembers(airflow: AirflowDeployment, api: SandboxProcess) -> None:
    run = airflow.trigger("ledger")
    assert run.finish() == "success"
    first = run.xcom("send")
    clear(run)
    assert run.finish() == "success"
    assert (run.xcom("send"), tries(run)) == (first, 2)
    assert requests_per_number(api) == {1: 24}


def test_the_ledger_remembers_after_a_kill_what_it_has(airflow: AirflowDeployment, api: SandboxProcess) -> None:
    """That is what had a response two seconds before."""
    api.set_faults(
        Fault("late_response", path="sms", method="POST", seconds=0, times=1),
        Fault("late_response", path="sms", method="POST", seconds=3, times=1),
        LATE,
    )
    run = airflow.trigger("ledger")
    airflow.wait_until(lambda: len(api.state().messages) == len(NUMBERS), what="all messages")
    kill(run, api, worker=False)
    if run.finish() == "failed":
        assert not AIRFLOW_V_3_1_PLUS
        clear(run)
        assert run.finish() == "success"
    assert requests_per_number(api) in ({1: 6, 2: 18}, {2: 24})
