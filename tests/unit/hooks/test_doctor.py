"""The doctor with a Connection of Airflow, on every supported version: ``python -m`` and ``--conn-id``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.hostile import response
from tests.patience import PATIENCE
from tests.unit.conftest import Serve

pytestmark = [pytest.mark.slow, pytest.mark.outer_minors]


def test_a_connection_that_leads_elsewhere_is_named(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"conn_type": "rtisms", "login": "me", "password": "s3cret", "host": serve(response(b"", 404)).url}
    monkeypatch.setenv("AIRFLOW_CONN_MY_SMS", json.dumps(fields))
    command = [sys.executable, "-m", "airflow_provider_rtisms.doctor", "--conn-id", "my_sms"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    wrong, _ = done.stdout.splitlines()
    assert wrong.endswith("this is not the RTI SMS API: check Base URL (Host) of the Connection my_sms.")
