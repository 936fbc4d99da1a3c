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
    pytest.mark.demo,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="scripts.airflow_deployment starts Airflow 3.3 only"),
]


def demo(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.demo", "--output", str(folder / "records")]
    environment = {**os.environ, "TMPDIR": str(folder), **env}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_demo_shows_delivered_submissions(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wait_for_delivery: deferred" in done.stdout
    (file,) = (tmp_path / "records").iterdir()
    records = json.loads(file.read_text())
    assert [record["status"] for record in records] == ["DELIVERED"] * 4
    rows = [line for line in done.stdout.splitlines() if "DELIVERED" in line]
    assert [row.split()[0] for row in rows] == [record["submission_id"] for record in records]
    assert [one.name for one in tmp_path.iterdir()] == ["records"], "the demo left files behind"


def test_if_airflow_does_not_start_the_demo_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "airflow_local_settings.py").write_text("raise RuntimeError('this Airflow cannot start')")
    done = demo(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "\nThe demo failed. airflow db migrate failed with exit code 1.\n--- db-migrate.log ---" in done.stderr
    assert done.stderr.rstrip().endswith("this Airflow cannot start")
    assert "demo.py" not in done.stderr, "a traceback of the demo"
