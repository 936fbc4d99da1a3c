"""
Change the code one place at a time, and count how many changes a test notices.

    python -m scripts.mutants airflow_provider_rtisms/api airflow_provider_rtisms/sending
    python -m scripts.mutants --sample 200 --seed 1

Each changed copy is a mutant. A test that fails kills it. A mutant that survives shows a line that the tests do not
check, unless it means the same as the original: those are listed with a reason in ``mutants-equivalent.txt``.
Only the tests of the same room that run the changed line are asked, in a fork of a process that has loaded the
libraries already. The tests of some rooms need Airflow, so run this with an interpreter that has it.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

from scripts.mutant_forks import TIMED_OUT, Forks
from scripts.mutant_tests import PACKAGE, Chooser, load_libraries, record_all, run_pytest, tests_of
from scripts.mutations import Mutant, compile_mutant, mutants_of

ROOMS = ("api", "sending", "waiting", "bulk", "hooks", "operators", "sensors", "triggers", "transfers", "notifications")
SOURCES = [f"{PACKAGE}/{name}" for name in ROOMS]
EQUIVALENTS = Path(__file__).with_name("mutants-equivalent.txt")
#: Seconds: tests of a mutant are chosen, the quickest first, until they take as long as this.
TEST_BUDGET = 6.0


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


def try_mutant(mutant: Mutant, nodeids: Sequence[str]) -> int:
    """Return 0 if all tests pass, or if there are none, so that the mutant survives."""
    if not nodeids:
        return 0
    sys.meta_path.insert(0, MutantFinder(mutant))
    importlib.import_module(mutant.module)  # before pytest puts its own finder first
    return run_pytest(Chooser(nodeids), sorted({one.partition("::")[0] for one in nodeids}), "-x")


def read_equivalents() -> set[str]:
    """Return the mutants that are known to mean the same as the original."""
    lines = EQUIVALENTS.read_text(encoding="utf-8").splitlines() if EQUIVALENTS.exists() else []
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def main() -> int:
    """Run the mutants, and print the score of each file and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=SOURCES, help="files or folders to change")
    parser.add_argument("--tests", nargs="+", help="files or folders of tests; default those of the same rooms")
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
        load_libraries()
        gc.freeze()  # else each fork copies the memory of all libraries when it collects garbage
        forks = Forks(options.jobs)
        began = time.monotonic()
        covered = record_all(forks, options.tests or tests_of(files), folder)
        print(
            f"{len(covered.seconds)} tests recorded in {time.monotonic() - began:.0f} s; {len(mutants)} mutants",
            flush=True,
        )

        def jobs() -> Iterator[tuple[Mutant, Callable[[], int], float]]:
            for mutant in mutants:
                if str(mutant) in equivalents:
                    continue
                nodeids = covered.tests_for(mutant, options.budget)
                seconds = 15.0 + 5 * sum(covered.seconds[one] for one in nodeids)
                yield mutant, partial(try_mutant, mutant, nodeids), seconds

        survivors: list[Mutant] = []
        killed: Counter[str] = Counter()
        late = 0
        for number, (mutant, status) in enumerate(forks.run(jobs()), 1):
            if number % 100 == 0:
                print(f"{number} mutants in {time.monotonic() - began:.0f} s, now {mutant.path}", flush=True)
            if status in (0, 5):  # all passed, or there was none to run
                survivors.append(mutant)
                print(f"survived: {mutant}", flush=True)
            else:
                killed[mutant.path] += 1
                late += status == TIMED_OUT
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _report(mutants, killed, survivors, equivalents)
    print(f"{time.monotonic() - began:.0f} s; {late} of the killed ones took too long, which a busy machine does too")
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
