"""
Run every code block of the README and of the pages in docs/.

The HTML comment above a block names its test. A block of plain ``text`` needs no test. A block with the test ``output``
is the output of the script before it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_2_PLUS, AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.hooks.connection import settings_from_connection
from airflow_provider_rtisms.sandbox import Sandbox
from scripts.servers import free_port
from tests.system.conftest import FinishedRun, RunDag, load_dag

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- test: (?P<test>\S+) -->\n *)?```(?P<language>[^\n]*)\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
#: Blocks that need a version of Airflow, and whether it is installed.
IS_INSTALLED = {"dag-3.0": AIRFLOW_V_3_0_PLUS, "dag-3.3": AIRFLOW_V_3_3_PLUS}
TESTS = {
    *("install", "connection", "extras", "dag", "hook", "script", "sandbox-script", "output", "sandbox"),
    *("sandbox-connection", "pytest", "make", "cli", "preview", "doctor", "doctor-cli", "deadline", "storm"),
    *("approval", "airflow", *IS_INSTALLED),
}
#: Of blocks without a test: what a program has printed, and what is for Prometheus and statsd_exporter.
OTHER_LANGUAGES = {"text", "promql", "yaml"}
SANDBOX_PORT = "8099"
"""The port in the documents. The tests replace it with a free one."""
RunBlock = Callable[[str], FinishedRun]


@dataclass(frozen=True)
class Block:
    """One fenced block: its location, the name of its test, its language and its code."""

    location: str
    test: str | None
    language: str
    code: str

    @property
    def document(self) -> str:
        """The name of its file."""
        return self.location.partition(":")[0]


def read_blocks(document: Path) -> Iterator[Block]:
    """Yield the blocks of a document, without the indentation that a list adds."""
    text = document.read_text()
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        yield Block(f"{document.name}:{line}", match["test"], match["language"], code)


BLOCKS = [block for document in DOCUMENTS for block in read_blocks(document)]


def blocks(*tests: str, document: str | None = None) -> list[Block]:
    """Return the blocks of some tests, in the order of the documents."""
    return [block for block in BLOCKS if block.test in tests and document in (None, block.document)]


def each_block(*tests: str) -> pytest.MarkDecorator:
    """Run a test once for each such block, with the location of the block as the id."""
    return pytest.mark.parametrize("block", [pytest.param(block, id=block.location) for block in blocks(*tests)])


def bash(code: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a block as a person would, with the programs of this environment first on PATH."""
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
    unnamed = [block for block in BLOCKS if block.test not in TESTS and block.language not in OTHER_LANGUAGES]
    assert [block.location for block in unnamed] == []
    assert {block.test for block in BLOCKS if block.test} == TESTS
    opened = sum(len(re.findall(r"^ *```\S", document.read_text(), re.MULTILINE)) for document in DOCUMENTS)
    assert len(BLOCKS) == opened


@each_block("install")
def test_install_blocks(block: Block, built_wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    from_here = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(built_wheel.parent),
        "PIP_NO_DEPS": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    bash(f'PATH="{python.parent}:$PATH"\n{block.code}', from_here)
    found = bash(f"cd /; '{python}' -c 'import airflow_provider_rtisms; print(airflow_provider_rtisms.__file__)'")
    assert found.startswith(str(tmp_path))


@pytest.fixture(scope="module")
def built_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    return next(folder.glob("*.whl"))


@each_block("connection")
def test_connection_blocks(block: Block, airflow_database: Path, tmp_path: Path) -> None:
    """All ways to write the Connection give the same Connection."""
    forget = "airflow connections delete rtisms_default >/dev/null 2>&1 || true"
    show = "airflow connections get rtisms_default --output json"
    if "connections add" in block.code:  # the others must not find it in the database
        output = bash(f"{forget}\n{block.code}\n{show}\n{forget}", cwd=tmp_path)
    else:
        output = bash(f"{block.code}\n{show}", cwd=tmp_path)
    fields, _ = json.JSONDecoder().raw_decode(output[output.rindex("[{") + 1 :])
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
    block = blocks("dag", document="README.md")[0]
    assert len([line for line in block.code.splitlines() if line]) < 15
    run = run_block(block.code)
    assert run.xcom("details")["status"] == "DELIVERED"
    assert run.xcom("wait") == [run.xcom("details")]


@each_block("hook")
def test_hook_blocks(block: Block, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    output = run_script(block, tmp_path)
    assert "DELIVERED\n" in output
    assert "'operator_name': 'Entel Pcs'" in output


@each_block("script", "sandbox-script")
def test_scripts_print_what_the_page_says(block: Block, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    env = {"SANDBOX_URL": rtisms_sandbox.url} if block.test == "sandbox-script" else {}
    output = run_script(block, tmp_path, env)
    after = BLOCKS[BLOCKS.index(block) + 1 :][:1]
    if after and after[0].test == "output":
        assert after[0].code in output
    else:
        assert output


def test_every_output_follows_a_script() -> None:
    for before, block in pairwise(BLOCKS):
        assert block.test != "output" or before.test in ("script", "sandbox-script"), block.location


def run_script(block: Block, folder: Path, env: Mapping[str, str] | None = None) -> str:
    (folder / "script.py").write_text(block.code)
    return bash("python script.py", env, cwd=folder)


@each_block("sandbox")
def test_sandbox_blocks(block: Block) -> None:
    ask = "from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook; print(RtiSmsHook().test_connection())"
    (connection,) = blocks("sandbox-connection", document=block.document)
    port = str(free_port())
    with running(block.code.replace(SANDBOX_PORT, port)) as process:
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}"
        assert f"http://127.0.0.1:{SANDBOX_PORT}" in connection.code
        assert "the balance is 457.00" in bash(f'{connection.code.replace(SANDBOX_PORT, port)}\npython -c "{ask}"')


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
    assert bash(block.code).startswith("1 messages, 1 parts, at most 1 each\ncharset 1 (GSM_7BIT): 1 messages\n")


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
    tests = len(re.findall(r"^def test_", block.code, re.MULTILINE))
    assert re.search(f"^{tests} passed", bash("python -m pytest -q -p no:cacheprovider", cwd=tmp_path), re.MULTILINE)


@each_block("make")
def test_make_blocks(block: Block) -> None:
    """``make help`` lists the targets. CI runs ``make test``, and with it the targets of a release and test_demo."""
    targets = block.code.removeprefix("make ").split()
    assert set(targets) <= set(re.findall(r"^  make (\S+)", bash("make help", cwd=ROOT), re.MULTILINE))
