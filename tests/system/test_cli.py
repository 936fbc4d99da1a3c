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
from tests.patience import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.outer_minors,
    pytest.mark.system,
    pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="commands of providers are from Airflow 3.2 on"),
]


def airflow(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=PATIENCE, check=False)


def test_balance_and_get(rtisms_sandbox: Sandbox, airflow_database: Path) -> None:
    submission_id = rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0)
    done = airflow("rtisms", "get", submission_id, "--output", "json")
    assert json.loads(done.stdout)[0]["status"] == "DELIVERED", done.stderr
    airflow("connections", "add", "stored", "--conn-json", rtisms_sandbox.connection_json())
    done = airflow("rtisms", "balance", "--conn-id", "stored", "--output", "json")
    assert json.loads(done.stdout) == [{"balance": "457.00"}], done.stderr


def test_doctor(rtisms_sandbox: Sandbox, airflow_database: Path) -> None:
    done = airflow("rtisms", "doctor", "--json", "--submission-id", "4193366853543393")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {check["name"]: check["outcome"] for check in json.loads(done.stdout)["checks"]}
    assert outcomes["submission"] == "ok"
    assert set(outcomes.values()) == {"ok", "skipped"}
    rtisms_sandbox.rotate_secret("another")
    done = airflow("rtisms", "doctor", "--conn-id", "rtisms_default")
    assert done.returncode == 1
    assert "failed   authentication" in done.stdout


def test_an_error_is_one_line(rtisms_sandbox: Sandbox, airflow_database: Path) -> None:
    done = airflow("rtisms", "get", "1")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("get_sms 1: the server returned HTTP 404")


def test_preview_shows_texts_and_sends_nothing(rtisms_sandbox: Sandbox, airflow_database: Path, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name\nAna\nŁukasz\n")
    options = ("--text", "Hola {name}", "--rows", str(tmp_path / "people.csv"))
    lines = [
        "2 messages, 2 parts, at most 1 each",
        "charset 1 (GSM_7BIT): 1 messages",
        "charset 6 (UCS_2): 1 messages",
        "Ł (U+0141) is not in GSM 7-bit: 1 messages",
        'message 1: 8 characters, 1 parts, charset 1: "Hola Ana"',
        'message 2: 11 characters, 1 parts, charset 6: "Hola Łukasz"',
    ]
    done = airflow("rtisms", "preview", *options)
    assert done.stdout.splitlines() == lines, done.stderr
    module = [sys.executable, "-m", "airflow_provider_rtisms.preview", *options]
    assert subprocess.run(module, capture_output=True, text=True, check=True).stdout.splitlines() == lines
    done = airflow("rtisms", "preview", "--text", "Hola {nmae}", "--rows", str(tmp_path / "people.csv"))
    assert (done.returncode, "has no column 'nmae' (text)" in done.stderr) == (1, True)
    assert rtisms_sandbox.state().requests == {}
