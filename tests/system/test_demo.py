"""``make demo``: what the README promises of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

pytestmark = [
    pytest.mark.system,
    pytest.mark.deployment,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only"),
]


def test_the_demo_shows_delivered_submissions(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.demo", "--output", str(tmp_path / "records")]
    temporary = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=temporary, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wait_for_delivery: deferred" in done.stdout
    (file,) = (tmp_path / "records").iterdir()
    records = json.loads(file.read_text())
    assert [record["status"] for record in records] == ["DELIVERED"] * 4
    rows = [line for line in done.stdout.splitlines() if "DELIVERED" in line]
    assert [row.split()[0] for row in rows] == [record["submission_id"] for record in records]
    assert [one.name for one in tmp_path.iterdir()] == ["records"], "the demo left files behind"
