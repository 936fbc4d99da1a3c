"""The doctor with a Connection of Airflow, on every supported version: ``python -m`` and ``--conn-id``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.outer_minors]


def doctor(conn_id: str) -> tuple[int, dict[str, str]]:
    command = [sys.executable, "-m", "airflow_provider_rtisms.doctor", "--conn-id", conn_id, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, {check["name"]: check["outcome"] for check in json.loads(done.stdout)["checks"]}


def test_a_connection(rtisms_sandbox: Sandbox) -> None:
    assert "AIRFLOW_CONN_RTISMS_DEFAULT" in os.environ
    status, outcomes = doctor("rtisms_default")
    assert status == 0
    assert outcomes["balance"] == "ok"


def test_no_such_connection() -> None:
    status, outcomes = doctor("rtisms_nowhere")
    assert status == 1
    assert outcomes["settings"] == "failed"
