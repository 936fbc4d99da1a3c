"""Run histories from a shell: ``python -m tests.simulation 1000000``, or one: ``python -m tests.simulation 17..17``."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.simulation.history import Result, run_history, simulated

#: Seeds that a worker gets at a time.
BATCH = 250
#: Seconds between two progress lines.
PROGRESS_INTERVAL = 5.0
COLUMNS = ("histories", "steps", "faults", "cancellations", "kills", "failed")


def parse_seeds(text: str) -> range:
    """
    Return the seeds of a command line.

    :param text: how many, from 0 on; or the first and the last one, such as ``17..18``.
    """
    first, dots, last = text.partition("..")
    return range(int(first), int(last) + 1) if dots else range(int(first))


def run_batch(seeds: Sequence[int]) -> list[Result]:
    """Run some histories in this process."""
    with simulated():
        return [run_history(seed) for seed in seeds]


class Summary:
    """What many histories were, by their kind."""

    def __init__(self) -> None:
        self.rows: dict[str, Counter[str]] = {}
        self.faults: Counter[str] = Counter()

    def add(self, result: Result) -> None:
        """Add one history, and print what did not hold in it."""
        row = {
            "histories": 1,
            "steps": result.steps,
            "faults": result.faults.total(),
            "cancellations": result.cancellations,
            "kills": result.kills,
            "failed": bool(result.failures),
        }
        for kind in (result.kind, "all"):
            self.rows.setdefault(kind, Counter()).update(row)
        self.faults.update(result.faults)
        if result.failures:
            print(describe_failure(result), flush=True)

    @property
    def total(self) -> Counter[str]:
        """The sums over all kinds."""
        return self.rows.get("all", Counter())

    def __str__(self) -> str:
        """Return a table."""
        kinds = [*sorted(self.rows.keys() - {"all"}), "all"]
        lines = ["".join(["kind".ljust(10), *(name.rjust(15) for name in COLUMNS)])]
        lines += ["".join([kind.ljust(10), *(f"{self.rows[kind][name]:15,}" for name in COLUMNS)]) for kind in kinds]
        faults = ", ".join(f"{kind} {count:,}" for kind, count in self.faults.most_common())
        return "\n".join([*lines, f"Faults: {faults}"])


def describe_failure(result: Result) -> str:
    """Say what did not hold in a history, and how to see the whole of it."""
    shown = "\n  ".join(result.failures[:5])
    replay = f"make simulate SEEDS={result.seed}..{result.seed}"
    return f"Seed {result.seed} ({result.kind}) failed. See all of it with: {replay}\n  {shown}"


def main(argument: str) -> int:
    """Run histories, and print what they were. Return 1 if something did not hold."""
    seeds = parse_seeds(argument)
    summary = Summary()
    if len(seeds) == 1:
        with simulated():
            result = run_history(seeds[0], is_traced=True)
        print(*result.lines or [], sep="\n")
        summary.add(result)
    else:
        _run_many(seeds, summary)
    print(summary)
    return int(summary.total["failed"] > 0)


def _run_many(seeds: range, summary: Summary) -> None:
    began = reported = time.monotonic()
    batches = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    with multiprocessing.Pool() as pool:
        for results in pool.imap_unordered(run_batch, batches):
            for result in results:
                summary.add(result)
            if time.monotonic() > reported + PROGRESS_INTERVAL:
                reported = time.monotonic()
                done, failed = summary.total["histories"], summary.total["failed"]
                rate = done / (reported - began)
                print(f"{done:,} of {len(seeds):,} histories, {rate:,.0f} a second, {failed} failed", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
