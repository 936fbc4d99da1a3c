"""
Show which tests each target of the Makefile runs, and fail if a test runs in no target.

    python -m scripts.test_plan test-bare test-airflow-3.3 test-airflow-2.11

The script collects the tests as each target does, with the command that ``make --dry-run`` prints. A test that is
skipped by its marks does not count. As a plugin of pytest it writes down what pytest has collected.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ["-p", "scripts.test_plan"]
COLLECT = [
    *PLUGIN,
    *("--collect-only", "-qq", "--randomly-dont-reorganize"),
    *("-p", "no:cacheprovider", "--numprocesses", "0"),
]
ALL_TESTS = [sys.executable, "-m", "pytest", "tests", "-m", ""]
"""Collects all tests in this environment. The empty option overrides the marks that pyproject.toml leaves out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the plugin."""
    parser.addoption("--plan-file", type=Path, help="the file to write the ids of the collected tests to")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the ids of the tests, each with whether its marks let it run."""
    file: Path | None = session.config.getoption("--plan-file")
    if file is not None:
        file.write_text(json.dumps({item.nodeid: not _is_skipped(item) for item in session.items}))


def _is_skipped(item: pytest.Item) -> bool:
    if item.get_closest_marker("skip"):
        return True
    return any(mark.args and mark.args[0] for mark in item.iter_markers("skipif"))


def main() -> None:
    """Print the plan. Exit with 1 if a test runs in no target."""
    targets = sys.argv[1:]
    commands = [command_of(target) for target in targets]
    with ThreadPoolExecutor(2) as executor:
        everything, *collected = executor.map(collect, [ALL_TESTS, *commands])
    planned = dict(zip(targets, collected, strict=True))
    tests = {test for some in (everything, *collected) for test in some}
    runs = {target: {test for test, is_run in some.items() if is_run} for target, some in planned.items()}
    print(table(tests, runs))
    if lost := sorted(tests.difference(*runs.values())):
        sys.exit("\n".join(["", f"{len(lost)} tests run in no target:", *lost]))


def command_of(target: str) -> list[str]:
    """
    Return the command with which a target runs pytest.

    :raises ValueError: if the target runs pytest never, or more than once.
    """
    make = ["make", "--dry-run", "--no-print-directory", target]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line for line in printed.replace("\\\n", " ").splitlines() if " -m pytest " in line]
    if len(lines) != 1:
        raise ValueError(f"make {target} runs pytest {len(lines)} times, not once:\n{printed}")
    return shlex.split(lines[0])


def collect(command: Sequence[str]) -> dict[str, bool]:
    """
    Collect the tests of a command.

    :param command: it runs pytest.
    :return: whether the marks of a test let it run, by the id of the test. A module that fails to import has no tests.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        options = [*COLLECT, "--continue-on-collection-errors", "--plan-file", str(file)]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
        if not file.exists():
            raise RuntimeError(f"{shlex.join(command)} collected nothing:\n{done.stdout}{done.stderr}")
        return dict(json.loads(file.read_text()))


def table(tests: Iterable[str], runs: Mapping[str, Iterable[str]]) -> str:
    """Return a table of how many tests of each folder or system test module run in each target."""
    columns = {"all tests": Counter(map(_row, tests))}
    columns |= {target: Counter(map(_row, some)) for target, some in runs.items()}
    rows = [["", *columns]]
    for name in sorted(columns["all tests"]):
        rows.append([name, *(str(column[name] or "-") for column in columns.values())])
    rows.append(["sum", *(str(column.total()) for column in columns.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _row(test: str) -> str:
    """Return the row of a test: ``tests/unit/api`` or ``tests/system/test_cli.py``."""
    return "/".join(test.partition("::")[0].split("/")[:3])


if __name__ == "__main__":
    main()
