"""``airflow rtisms`` in a shell, with a Connection in the environment and one in the database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_2_PLUS

from airflow_provider_rtisms.sandbox import Sandbox

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="commands of providers are from Airflow 3.2 on"),
]


def airflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=120, check=False)


def test_balance_and_get(rtisms_sandbox: Sandbox, airflow_database: Path) -> None:
    submission_id = rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0)
    done = airflow("rtisms", "get", submission_id, "--output", "json")
    assert json.loads(done.stdout)[0]["status"] == "DELIVERED", done.stderr
    airflow("connections", "add", "stored", "--conn-json", rtisms_sandbox.connection_json())
    done = airflow("rtisms", "balance", "--conn-id", "stored", "--output", "json")
    assert json.loads(done.stdout) == [{"balance": "457.00"}], done.stderr


def test_an_error_is_one_line(rtisms_sandbox: Sandbox, airflow_database: Path) -> None:
    done = airflow("rtisms", "get", "1")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("get_sms 1: the server returned HTTP 404")
