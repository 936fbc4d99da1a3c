"""Which tests ``scripts.mutants`` asks about a change: those that run the changed line, the quickest first."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scripts.mutant_forks import Forks
from scripts.mutations import Mutant

PACKAGE = "airflow_provider_rtisms"
#: Loaded once, before the forks. Nothing of this package is among them, since each fork loads its own copy.
LIBRARIES = [
    "aiohttp",
    "aiolimiter",
    "hypothesis",
    "pytest",
    "requests",
    "tenacity",
    "trustme",
    "xml.etree.ElementTree",
]
#: The same, where there is an Airflow.
AIRFLOW_LIBRARIES = [
    "airflow.models.connection",
    "airflow.providers.common.compat.lineage.hook",
    "airflow.providers.common.compat.sdk",
    "fsspec.implementations.memory",
    "pyarrow.parquet",
]
OPTIONS = ["-q", "--no-header", "--tb=no", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider"]


def tests_of(files: Iterable[Path]) -> list[str]:
    """
    Return the tests of the rooms in which files lie: tests/unit mirrors the package.

    :param files: relative to the root of the repository.
    """
    found = set()
    for file in files:
        room, *inner = file.relative_to(PACKAGE).parts
        found.add(f"tests/unit/{room}" if inner else f"tests/unit/test_{room}")
    return sorted(one for one in found if Path(one).exists())


def load_libraries() -> None:
    """Load what the tests need, once for all forks. Airflow is among that if this interpreter has it."""
    importlib.import_module("tests.conftest")  # its environment has to be there before Airflow
    has_airflow = importlib.util.find_spec("airflow") is not None
    for name in [*LIBRARIES, *(AIRFLOW_LIBRARIES if has_airflow else ())]:
        importlib.import_module(name)
    for name in [one for one in sys.modules if one.partition(".")[0] == PACKAGE]:  # Airflow asks its providers
        del sys.modules[name]


@dataclass
class CoverageMap:
    """
    Which tests run which lines.

    :param seconds: how long each test takes, by node id.
    :param tests: node ids by file and line.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    tests: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))

    def tests_for(self, mutant: Mutant, budget: float) -> list[str]:
        """
        Return the tests to ask, the quickest first: those of the module's own test file, and quick ones of others.

        :param mutant: whose line they run.
        :param budget: seconds that the tests of other files may take.
        """
        own = f"test_{Path(mutant.path).stem}"
        found: set[str] = set()
        for line in mutant.lines:
            found |= self.tests.get((mutant.path, line), set())
        chosen: list[str] = []
        left = budget
        for one in sorted(found, key=lambda one: (own not in one, self.seconds[one], one)):
            if own not in one:
                left -= self.seconds[one]
            if left < 0:
                break
            chosen.append(one)
        return sorted(chosen, key=lambda one: (self.seconds[one], one))


class Recorder:
    """A pytest plugin that records which lines each test runs."""

    def __init__(self) -> None:
        import coverage

        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=[f"{PACKAGE}/*"])
        self._coverage.start()
        self.seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Count what runs from now on for a test."""
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add the time that a part of a test took."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:
            self._failed.add(report.nodeid)

    def result(self) -> tuple[dict[str, float], dict[tuple[str, int], set[str]]]:
        """Return the seconds of each test that passed, and the tests of each line."""
        self._coverage.stop()
        data = self._coverage.get_data()
        lines: dict[tuple[str, int], set[str]] = {}
        for name in data.measured_files():
            path = os.path.relpath(name)
            for line, tests in data.contexts_by_lineno(name).items():
                # What runs while the file is imported concerns all of its tests.
                lines[path, line] = (set(self.seconds) if "" in tests else set(tests)) - self._failed
        return {one: seconds for one, seconds in self.seconds.items() if one not in self._failed}, lines


class Chooser:
    """
    A pytest plugin that runs some tests only, in a given order.

    :param nodeids: which.
    """

    def __init__(self, nodeids: Sequence[str]) -> None:
        self._order = {nodeid: position for position, nodeid in enumerate(nodeids)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Drop all other tests."""
        items[:] = sorted((one for one in items if one.nodeid in self._order), key=lambda one: self._order[one.nodeid])


def run_pytest(plugin: Any, paths: Sequence[str], *options: str) -> int:
    """
    Run pytest in this process, quietly and the same way each time.

    :param plugin: an object with hooks of pytest.
    :param paths: files or folders of tests.
    :param options: for this run alone.
    :return: the exit status.
    """
    import hypothesis
    import pytest

    hypothesis.settings.register_profile(
        "mutants",
        max_examples=40,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutants")
    return int(pytest.main([*OPTIONS, *options, *paths], plugins=[plugin]))


def record_all(forks: Forks, tests: Sequence[str], folder: Path) -> CoverageMap:
    """
    Run all tests once, one process for each file, and note which lines they run.

    :param forks: runs the processes.
    :param tests: files or folders of tests.
    :param folder: for temporary files.
    """
    files = [
        one for path in tests for one in (sorted(Path(path).rglob("test_*.py")) if Path(path).is_dir() else [path])
    ]
    results = {str(path): folder / f"{number}.pickle" for number, path in enumerate(files)}
    jobs = ((path, partial(_record, path, to), 600.0) for path, to in results.items())
    covered = CoverageMap()
    for path, status in forks.run(iter(jobs)):
        if status:
            print(f"{path}: not all of its tests pass here (status {status}); those are left out", file=sys.stderr)
        if not results[path].exists():
            continue
        seconds, lines = pickle.loads(results[path].read_bytes())  # noqa: S301
        covered.seconds.update(seconds)
        for line, nodeids in lines.items():
            covered.tests[line] |= nodeids
    return covered


def _record(path: str, result: Path) -> int:
    recorder = Recorder()
    status = run_pytest(recorder, [path])
    result.write_bytes(pickle.dumps(recorder.result()))
    return status
