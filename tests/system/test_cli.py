"""``airflow rtisms`` in a shell, where it fails; the blocks of the documents run its commands with success."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_2_PLUS

from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE


@pytest.mark.slow
@pytest.mark.outer_minors
@pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="commands of providers are from Airflow 3.2 on")
def test_an_error_is_one_line(rtisms_sandbox: Sandbox, airflow_database: object) -> None:
    command = [sys.executable, "-m", "airflow", "rtisms", "get", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("get_sms 1: the server returned HTTP 404")
