"""
The code blocks of the README and of the pages in docs/. All of them are run by tests.

The HTML comment above a block names its test. A block of plain ``text`` needs no test. A block with the test ``output``
is the output of the script before it.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- test: (?P<test>\S+) -->\n *)?```(?P<language>[^\n]*)\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
TESTS = {
    *("install", "connection", "extras", "dag", "script", "sandbox-script", "output", "sandbox"),
    *("sandbox-connection", "pytest", "make", "cli", "preview", "doctor", "doctor-cli", "deadline", "storm"),
    *("approval", "airflow", "dag-3.0", "dag-3.2", "dag-3.3", "report", "report-script", "view", "ledger-table"),
    "first-run",
}
#: Of blocks without a test: what a program has printed, and what is for Prometheus and statsd_exporter.
OTHER_LANGUAGES = {"text", "promql", "yaml"}
SANDBOX_PORT = "8099"
"""The port in the documents. The tests replace it with a free one."""


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
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_script(block: Block, folder: Path) -> str:
    """Run a script of a block in this process, which has loaded Airflow, and return its output."""
    (folder / "script.py").write_text(block.code)
    with redirect_stdout(StringIO()) as output:
        runpy.run_path(str(folder / "script.py"), run_name="__main__")
    return output.getvalue()


def check_script(block: Block, folder: Path) -> None:
    """Run a script, and check that it prints what the page says."""
    output = run_script(block, folder)
    after = BLOCKS[BLOCKS.index(block) + 1 :][:1]
    if after and after[0].test == "output":
        assert after[0].code in output
    else:
        assert output
