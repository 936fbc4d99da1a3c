"""Run the code blocks of the documents that need Airflow; tests/unit has the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import Connection
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_2_PLUS, AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.hooks.connection import settings_from_connection
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Sandbox
from tests.documents import Block, bash, blocks, check_script, each_block
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
