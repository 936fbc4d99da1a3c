"""
Change the code one place at a time, and count how many changes a test notices.

    python -m scripts.mutants airflow_provider_rtisms/api airflow_provider_rtisms/sending
    python -m scripts.mutants --sample 200 --seed 1

Each changed copy is a mutant. A test that fails kills it. A mutant that survives shows a line that the tests do not
check, unless it means the same as the original: those are listed with a reason in ``mutants-equivalent.txt``.
Only the tests that run the changed line are asked, in a fork of a process that has loaded the libraries already.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

from scripts.mutations import Mutant, compile_mutant, mutants_of

PACKAGE = "airflow_provider_rtisms"
SOURCES = [f"{PACKAGE}/{name}" for name in ("api", "sending", "waiting", "bulk")]
TESTS = ["tests/unit/api", "tests/unit/sending", "tests/unit/waiting", "tests/unit/bulk", "tests/unit/test_imports.py"]
EQUIVALENTS = Path(__file__).with_name("mutants-equivalent.txt")
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
OPTIONS = ["-q", "-x", "--no-header", "--tb=no", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider"]
#: Seconds: tests of a mutant are chosen, the quickest first, until they take as long as this.
TEST_BUDGET = 6.0


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
        Return the tests to ask: those of the module's own test file, then the quickest.

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
        return chosen


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


class MutantFinder(MetaPathFinder):
    """
    Import the mutant in place of its module.

    :param mutant: which.
    """

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the mutant's spec for its module, and nothing for all others."""
        if fullname != self._mutant.module:
            return None
        mutant = self._mutant

        class Loader(SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return compile_mutant(mutant)

        return spec_from_file_location(fullname, mutant.path, loader=Loader(fullname, mutant.path))


def run_pytest(plugin: Any, paths: Sequence[str]) -> int:
    """Run pytest in this process, quietly and the same way each time."""
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
    return int(pytest.main([*OPTIONS, *paths], plugins=[plugin]))


def record(path: str, result: Path) -> int:
    """Run the tests of a file, and write down which lines they run."""
    recorder = Recorder()
    OPTIONS.remove("-x")
    run_pytest(recorder, [path])
    result.write_bytes(pickle.dumps(recorder.result()))
    return 0


def try_mutant(mutant: Mutant, nodeids: Sequence[str]) -> int:
    """Return 0 if all tests pass, so that the mutant survives."""
    sys.meta_path.insert(0, MutantFinder(mutant))
    importlib.import_module(mutant.module)  # before pytest puts its own finder first
    return run_pytest(Chooser(nodeids), sorted({one.partition("::")[0] for one in nodeids}))


class Forks:
    """
    Run functions in forks of this process, some at a time.

    :param most: how many at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[int, tuple[Any, float]] = {}

    def run(self, jobs: Iterator[tuple[Any, Callable[[], int], float]]) -> Iterator[tuple[Any, int]]:
        """
        Run jobs.

        :param jobs: a key, a function, and the seconds after which its process is killed.
        :return: keys with exit statuses, as they end; -1 where the process was killed or crashed.
        """
        for key, function, seconds in jobs:
            while len(self._running) >= self._most:
                yield from self._reap()
            pid = os.fork()
            if pid == 0:
                self._work(function)
            self._running[pid] = (key, time.monotonic() + seconds)
        while self._running:
            yield from self._reap()

    def _reap(self) -> Iterator[tuple[Any, int]]:
        time.sleep(0.01)
        for pid, (key, deadline) in list(self._running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done and time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                done = pid
            if done:
                del self._running[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # servers that the tests have started
                yield key, os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1

    @staticmethod
    def _work(function: Callable[[], int]) -> None:
        status = 99
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            status = function()
        finally:
            os._exit(status)


def record_all(forks: Forks, tests: Sequence[str], folder: Path) -> CoverageMap:
    """Run all tests once, one process for each file."""
    files = [
        one for path in tests for one in (sorted(Path(path).rglob("test_*.py")) if Path(path).is_dir() else [path])
    ]
    results = {str(path): folder / f"{number}.pickle" for number, path in enumerate(files)}
    jobs = ((path, partial(record, path, to), 600.0) for path, to in results.items())
    covered = CoverageMap()
    for path, _ in forks.run(iter(jobs)):
        if not results[path].exists():
            print(f"{path}: its tests could not be run here, so they are left out", file=sys.stderr)
            continue
        seconds, lines = pickle.loads(results[path].read_bytes())  # noqa: S301
        covered.seconds.update(seconds)
        for line, nodeids in lines.items():
            covered.tests[line] |= nodeids
    return covered


def read_equivalents() -> set[str]:
    """Return the mutants that are known to mean the same as the original."""
    lines = EQUIVALENTS.read_text(encoding="utf-8").splitlines() if EQUIVALENTS.exists() else []
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def main() -> int:
    """Run the mutants, and print the score of each file and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=SOURCES, help="files or folders to change")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="files or folders of tests")
    parser.add_argument("--sample", type=int, default=0, help="how many mutants, picked at random; 0 for all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--budget", type=float, default=TEST_BUDGET, help="seconds of tests for each mutant")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    options = parser.parse_args()

    files = sorted(
        {file for path in options.paths for file in (Path(path).rglob("*.py") if Path(path).is_dir() else [Path(path)])}
    )
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    if options.sample and options.sample < len(mutants):
        mutants = sorted(random.Random(options.seed).sample(mutants, options.sample), key=mutants.index)  # noqa: S311
    equivalents = read_equivalents()
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        for name in LIBRARIES:
            importlib.import_module(name)
        forks = Forks(options.jobs)
        began = time.monotonic()
        covered = record_all(forks, options.tests, folder)
        print(
            f"{len(covered.seconds)} tests recorded in {time.monotonic() - began:.0f} s; {len(mutants)} mutants",
            flush=True,
        )

        def jobs() -> Iterator[tuple[Mutant, Callable[[], int], float]]:
            for mutant in mutants:
                if str(mutant) in equivalents:
                    continue
                nodeids = covered.tests_for(mutant, options.budget)
                seconds = 20.0 + 5 * sum(covered.seconds[one] for one in nodeids)
                yield mutant, partial(try_mutant, mutant, nodeids), seconds

        survivors: list[Mutant] = []
        killed: Counter[str] = Counter()
        for number, (mutant, status) in enumerate(forks.run(jobs()), 1):
            if number % 100 == 0:
                print(f"{number} mutants in {time.monotonic() - began:.0f} s, now {mutant.path}", flush=True)
            if status in (0, 5):  # all passed, or there was none to run
                survivors.append(mutant)
                print(f"survived: {mutant}", flush=True)
            else:
                killed[mutant.path] += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _report(mutants, killed, survivors, equivalents)
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


def _report(mutants: list[Mutant], killed: Counter[str], survivors: list[Mutant], equivalents: set[str]) -> None:
    same = Counter(mutant.path for mutant in mutants if str(mutant) in equivalents)
    survived = Counter(mutant.path for mutant in survivors)
    print(f"\n{'killed':>7} {'survived':>9} {'equivalent':>11} {'score':>7}  file")
    for path in sorted({mutant.path for mutant in mutants}):
        _print_row(killed[path], survived[path], same[path], path)
    _print_row(killed.total(), survived.total(), same.total(), "all")


def _print_row(killed: int, survived: int, same: int, name: str) -> None:
    score = f"{100 * killed / (killed + survived):.1f} %" if killed + survived else "-"
    print(f"{killed:7} {survived:9} {same:11} {score:>7}  {name}")


if __name__ == "__main__":
    sys.exit(main())
