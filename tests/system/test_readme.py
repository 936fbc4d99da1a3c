"""Every code block of the README, executed."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import Connection
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.hooks.rtisms import settings_from_connection
from airflow_provider_rtisms.sandbox import Sandbox
from tests.system.conftest import RunDag

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:<!-- test: (?P<test>\S+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)
BLOCKS = [(match["test"], match["code"]) for match in BLOCK.finditer((ROOT / "README.md").read_text())]


def blocks(test: str) -> list[str]:
    return [code for name, code in BLOCKS if name == test]


def bash(code: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a block as a person would, with this environment's programs first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", code],
        env={**os.environ, "PATH": path, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_names_its_test() -> None:
    tested = {"install", "connection", "dag", "hook", "sandbox", "sandbox-connection", "pytest", "make"}
    assert {name for name, _ in BLOCKS} == tested


def test_install_blocks(tmp_path: Path) -> None:
    (code,) = blocks("install")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    from_here = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_NO_DEPS": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    bash(f'PATH="{python.parent}:$PATH"\n{code}', from_here)
    found = bash(f"cd /; '{python}' -c 'import airflow_provider_rtisms; print(airflow_provider_rtisms.__file__)'")
    assert found.startswith(str(tmp_path))


@pytest.mark.parametrize("code", blocks("connection"))
def test_connection_blocks(code: str, airflow_database: Path) -> None:
    """Each way of writing the Connection gives the same one."""
    if "connections add" in code:
        code = f"airflow connections delete rtisms_default >/dev/null 2>&1 || true\n{code}"
    told = bash(f"{code}\nairflow connections get rtisms_default --output json")
    (fields,) = json.loads(told[told.rindex("[{") :])
    settings = settings_from_connection(
        Connection(
            conn_id="rtisms_default",
            conn_type=fields["conn_type"],
            login=fields["login"],
            password=fields["password"],
            host=fields["host"] or None,
            extra=json.dumps(fields["extra_dejson"]),
        )
    )
    assert fields["conn_type"] == "rtisms"
    assert settings == ApiSettings(client_id="my-client-id", client_secret="my-client-secret", timeout=10)


def test_dag_blocks(run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    (code,) = blocks("dag")
    assert len([line for line in code.splitlines() if line]) < 15
    if not AIRFLOW_V_3_0_PLUS:
        code = code.replace("from airflow.sdk import dag", "from airflow.decorators import dag")
    code = code.replace("\nsms_outcome()", "\nresult = sms_outcome()")
    (tmp_path / "sms_outcome.py").write_text(code)
    run = run_dag(runpy.run_path(str(tmp_path / "sms_outcome.py"))["result"])
    assert run.state == "success"
    assert run.xcom("details")["status"] == "DELIVERED"
    assert run.xcom("wait") == [run.xcom("details")]


def test_hook_blocks(rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    (code,) = blocks("hook")
    (tmp_path / "notebook.py").write_text(code)
    told = bash("python notebook.py", cwd=tmp_path)
    assert "DELIVERED\n" in told
    assert "'operator_name': 'Entel Pcs'" in told


def test_sandbox_blocks() -> None:
    (code,) = blocks("sandbox")
    (connection,) = blocks("sandbox-connection")
    process = subprocess.Popen(
        ["bash", "-c", f"exec {code.replace('python', sys.executable, 1)}"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "http://127.0.0.1:8099"
        ask = "from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook; print(RtiSmsHook().test_connection())"
        assert "the balance is 457.00" in bash(f'{connection}\npython -c "{ask}"')
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def test_pytest_blocks(tmp_path: Path, airflow_database: Path) -> None:
    (code,) = blocks("pytest")
    (tmp_path / "test_mine.py").write_text(code)
    assert "1 passed" in bash("python -m pytest -q -p no:cacheprovider", cwd=tmp_path)


def test_make_blocks() -> None:
    """The targets exist; CI runs ``make test``, and this suite with it, so they are not run from within."""
    for code in blocks("make"):
        assert bash(code.replace("make ", "make --dry-run "), cwd=ROOT)
