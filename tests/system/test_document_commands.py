"""Run the shell commands of the documents that need Airflow. A module of its own, since a module has one worker."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_2_PLUS

from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Sandbox
from scripts.servers import free_port
from tests.documents import BLOCKS, SANDBOX_PORT, TESTS, Block, bash, blocks, each_block
from tests.system.test_documents import VARIABLE, exported, for_airflow_2

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.outer_minors]


@each_block("sandbox")
def test_sandbox_blocks(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    (connection,) = blocks("sandbox-connection", document=block.document)
    port = str(free_port())
    with running(block.code.replace(SANDBOX_PORT, port)) as process:
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}"
        assert f"http://127.0.0.1:{SANDBOX_PORT}" in connection.code
        monkeypatch.setenv(VARIABLE, exported(connection.code.replace(SANDBOX_PORT, port)))
        assert "the balance is 457.00" in RtiSmsHook().test_connection()[1]


@pytest.mark.parametrize("document", ["quick-start.md" if AIRFLOW_V_3_2_PLUS else "README.md"])
def test_a_fresh_airflow_runs_the_page_line_by_line(document: str, tmp_path: Path) -> None:
    """As somebody does who has never run Airflow: an empty HOME, and no settings but those of the page."""
    dags = tmp_path / "airflow" / "dags"
    dags.mkdir(parents=True)
    code = {block.test: block.code for block in blocks(*TESTS, document=document)}
    dag = for_airflow_2(code["dag"])
    (dags / f"{dag.splitlines()[-1].removesuffix('()')}.py").write_text(dag)
    (tmp_path / "script.py").write_text(code["script"])
    port = str(free_port())
    steps = (code["sandbox-connection"], code.get("doctor", ""), "python script.py", code["first-run"])
    clean = "unset ${!AIRFLOW*}; export HOME=$PWD\n"
    with running(code["sandbox"].replace(SANDBOX_PORT, port)) as process:
        process.stdout.readline()
        output = bash(clean + "\n".join(steps).replace(SANDBOX_PORT, port), cwd=tmp_path)
    assert code["output"] in output
    for promised in code_after(document, "first-run").splitlines():
        assert promised in output


def code_after(document: str, test: str) -> str:
    """Return what a page shows as the output of the commands of a test."""
    of_page = [block for block in BLOCKS if block.document == document]
    return next(after.code for before, after in pairwise(of_page) if before.test == test)


@contextmanager
def running(code: str) -> Iterator[Any]:
    process = subprocess.Popen(
        ["bash", "-c", f"exec {code.replace('python', sys.executable, 1)}"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


@pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="commands of providers are from Airflow 3.2 on")
@each_block("cli")
def test_cli_blocks(block: Block, rtisms_sandbox: Sandbox, airflow_database: Path) -> None:
    output = bash(block.code)
    assert "457.00" in output
    assert '"status": "DELIVERED"' in output


@pytest.mark.skipif(not AIRFLOW_V_3_2_PLUS, reason="commands of providers are from Airflow 3.2 on")
@each_block("preview")
def test_preview_blocks(block: Block, airflow_database: Path) -> None:
    assert bash(block.code).startswith("1 message, 1 part\ncharset 1 (GSM 7-bit): 1 message\n")


@each_block("airflow")
def test_blocks_of_airflow_commands(block: Block, airflow_database: Path) -> None:
    assert "rtisms" in bash(f"{block.code}\nairflow pools list")


@each_block("doctor", "doctor-cli")
def test_doctor_blocks(block: Block, rtisms_sandbox: Sandbox, airflow_database: Path) -> None:
    if block.test == "doctor-cli" and not AIRFLOW_V_3_2_PLUS:
        pytest.skip("commands of providers are from Airflow 3.2 on")
    assert bash(block.code.replace(f"http://127.0.0.1:{SANDBOX_PORT}", rtisms_sandbox.url)).endswith(
        "Nothing failed.\n"
    )


@each_block("pytest")
def test_pytest_blocks(block: Block, tmp_path: Path, airflow_database: Path) -> None:
    (tmp_path / "test_mine.py").write_text(block.code)
    for number, dag in enumerate(blocks("dag", document=block.document)):
        (airflow_database.parent / "dags" / f"dag_{number}.py").write_text(dag.code)
    tests = len(re.findall(r"^def test_", block.code, re.MULTILINE))
    assert re.search(f"^{tests} passed", bash("python -m pytest -q -p no:cacheprovider", cwd=tmp_path), re.MULTILINE)
