"""The code blocks of the documents that need no Airflow; tests/system has the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from itertools import pairwise
from pathlib import Path

import pytest

from airflow_provider_rtisms.sandbox import Sandbox
from tests.documents import (
    BLOCKS,
    DOCUMENTS,
    OTHER_LANGUAGES,
    ROOT,
    TESTS,
    Block,
    bash,
    check_script,
    each_block,
    read_blocks,
)

pytestmark = pytest.mark.slow


def test_every_block_names_its_test() -> None:
    unnamed = [block for block in BLOCKS if block.test not in TESTS and block.language not in OTHER_LANGUAGES]
    assert [block.location for block in unnamed] == []
    assert {block.test for block in BLOCKS if block.test} == TESTS
    opened = sum(len(re.findall(r"^ *```\S", document.read_text(), re.MULTILINE)) for document in DOCUMENTS)
    assert len(BLOCKS) == opened


@pytest.mark.parametrize(
    ("spanish", "english"), [("README.md", "README.md"), ("quick-start.md", "docs/quick-start.md")]
)
def test_the_spanish_pages_have_the_blocks_of_the_english_ones(spanish: str, english: str) -> None:
    """So the tests run them too. The headings are as many, so that no section is missing."""
    pages = [ROOT / "docs" / "es" / spanish, ROOT / english]
    ours, theirs = ([(block.test, block.language, block.code) for block in read_blocks(page)] for page in pages)
    assert ours == theirs
    assert len({page.read_text().count("\n## ") for page in pages}) == 1


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


@each_block("sandbox-script")
def test_scripts_print_what_the_page_says(
    block: Block, rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_URL", rtisms_sandbox.url)
    check_script(block, tmp_path)


def test_every_output_follows_a_script() -> None:
    for before, block in pairwise(BLOCKS):
        assert block.test != "output" or before.test in ("script", "sandbox-script"), block.location


@each_block("make")
def test_make_blocks(block: Block) -> None:
    """``make help`` lists the targets. CI runs ``make test``, and with it the targets of a release and test_demo."""
    targets = block.code.removeprefix("make ").split()
    assert set(targets) <= set(re.findall(r"^  make (\S+)", bash("make help", cwd=ROOT), re.MULTILINE))
