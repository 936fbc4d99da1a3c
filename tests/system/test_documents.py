"""Run the code blocks of the documents that need Airflow; tests/unit has the others."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_2_PLUS, AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.hooks.connection import settings_from_connection
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Sandbox
from scripts.servers import free_port
from tests.documents import BLOCKS, SANDBOX_PORT, TESTS, Block, bash, blocks, check_script, each_block
from tests.system.conftest import FinishedRun, RunDag, load_dag

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.outer_minors]

#: Blocks that need a version of Airflow, and whether it is installed.
IS_INSTALLED = {"dag-3.0": AIRFLOW_V_3_0_PLUS, "dag-3.2": AIRFLOW_V_3_2_PLUS, "dag-3.3": AIRFLOW_V_3_3_PLUS}
VARIABLE = "AIRFLOW_CONN_RTISMS_DEFAULT"
RunBlock = Callable[[str], FinishedRun]


@each_block("connection")
def test_connection_blocks(block: Block, new_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways to write the Connection give the same Connection."""
    if block.code.startswith(f"export {VARIABLE}"):
        monkeypatch.setenv(VARIABLE, exported(block.code))
        settings = RtiSmsHook().get_settings()
    else:
        shutil.copy(new_database, tmp_path / "airflow.db")
        show = "airflow connections get rtisms_default --output json"
        output = bash(f"{block.code}\n{show}", {"AIRFLOW_HOME": str(tmp_path)}, cwd=tmp_path)
        fields, _ = json.JSONDecoder().raw_decode(output[output.rindex("[{") + 1 :])
        names = ("conn_type", "login", "password")
        settings = settings_from_connection(
            Connection(
                conn_id="rtisms_default",
                host=fields["host"] or None,
                extra=json.dumps(fields["extra_dejson"]),
                **{name: fields[name] for name in names},
            )
        )
        assert fields["conn_type"] == "rtisms"
    assert settings == ApiSettings(client_id="my-client-id", client_secret="my-client-secret", timeout=10)


def exported(code: str) -> str:
    """Return the Connection that a block exports."""
    return bash(f'{code}\nprintf %s "${VARIABLE}"')


@each_block("extras")
def test_extras_blocks(block: Block) -> None:
    extras = json.loads(block.code)
    settings = settings_from_connection(
        Connection(conn_id="rtisms_default", conn_type="rtisms", login="id", password="secret", extra=block.code)
    )
    assert {name: getattr(settings, name) for name in extras} == extras


@pytest.fixture
def run_block(run_dag: RunDag, rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunBlock:
    """Run the DAG of a block. The last line of the block creates the DAG."""

    warehouse = {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(warehouse))

    def run(code: str) -> FinishedRun:
        return run_dag(load_dag(for_airflow_2(code), tmp_path))

    return run


def for_airflow_2(code: str) -> str:
    """Return a DAG file with the import of Airflow 2, if that is installed."""
    return code if AIRFLOW_V_3_0_PLUS else code.replace("from airflow.sdk import", "from airflow.decorators import")


@each_block("dag", *IS_INSTALLED)
def test_dag_blocks(block: Block, run_block: RunBlock) -> None:
    if not IS_INSTALLED.get(block.test or "", True):
        pytest.skip("the block needs a later version of Airflow")
    assert run_block(block.code).state == "success"


def test_the_first_dag_of_the_readme(run_block: RunBlock) -> None:
    (block,) = blocks("dag", document="README.md")
    assert len([line for line in block.code.splitlines() if line]) < 15
    run = run_block(block.code)
    assert [record["status"] for record in run.xcom("remind")] == ["DELIVERED"] * 2


@each_block("script")
def test_scripts_print_what_the_page_says(block: Block, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    check_script(block, tmp_path)


@each_block("sandbox")
def test_sandbox_blocks(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    (connection,) = blocks("sandbox-connection", document=block.document)
    port = str(free_port())
    with running(block.code.replace(SANDBOX_PORT, port)) as process:
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}"
        assert f"http://127.0.0.1:{SANDBOX_PORT}" in connection.code
        monkeypatch.setenv(VARIABLE, exported(connection.code.replace(SANDBOX_PORT, port)))
        assert "the balance is 457.00" in RtiSmsHook().test_connection()[1]


@pytest.mark.parametrize("document", [block.document for block in blocks("first-run")])
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
