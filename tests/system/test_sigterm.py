"""A task that gets SIGTERM while it sends, on Airflow 2, which has no store that remembers what was sent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from tests.patience import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.skipif(AIRFLOW_V_3_0_PLUS, reason="Airflow 3 ends a task by other means, and remembers from 3.3 on"),
]

NUMBERS = [f"+569000001{number:02}" for number in range(24)]
DAG = f"""
from datetime import datetime

from airflow import DAG
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator

with DAG("terminated", schedule=None, start_date=datetime(2026, 1, 1)):
    RtiSmsSendOperator(task_id="send", recipients={NUMBERS}, text="x", sender="96000", chunk_size=6, retries=2)
"""


def test_it_fails_without_a_retry_and_nobody_is_texted_twice(new_database: Path, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "terminated.py").write_text(DAG)
    with SandboxProcess() as sandbox:
        late = Fault("late_response", path="sms", method="POST", seconds=3600)
        sandbox.set_faults(replace(late, times=1, seconds=0), late)  # the others leave when the first one is accepted
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
            "AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json(),
        }

        def airflow(*arguments: str) -> str:
            command = [sys.executable, "-m", "airflow", *arguments]
            return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

        shutil.copy(new_database, tmp_path / "airflow.db")
        airflow("dags", "reserialize")
        airflow("dags", "trigger", "terminated", "--run-id", "run")
        command = [sys.executable, "-m", "airflow", "tasks", "run", "terminated", "send", "run", "--local"]
        with subprocess.Popen([*command, "--ignore-all-dependencies"], env=environment) as worker:
            wait_until(lambda: len(sandbox.state().messages) == len(NUMBERS), "the messages")
            worker.send_signal(signal.SIGTERM)  # before the responses come
        received = Counter(message.recipient for message in sandbox.state().messages)
        assert airflow("tasks", "state", "terminated", "send", "run").split()[-1] == "failed"  # not up_for_retry
    assert received == dict.fromkeys(NUMBERS, 1)
