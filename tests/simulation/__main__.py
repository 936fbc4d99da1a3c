"""Run histories from a shell: ``python -m tests.simulation 1000000``, or one: ``python -m tests.simulation 17..17``."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.simulation.history import Result, run_history, simulated

#: Seeds that a worker gets at a time.
BATCH = 250
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


def describe_failure(result: Result) -> str:
    """Say what did not hold in a history, and how to see the whole of it."""
    shown = "\n  ".join(result.failures[:5])
    replay = f"make simulate SEEDS={result.seed}..{result.seed}"
    return f"Seed {result.seed} ({result.kind}) failed. See all of it with: {replay}\n  {shown}"


def play(seeds: range) -> Iterable[Result]:
    """Run one history with all that happens in it, or many on all cores."""
    if len(seeds) == 1:
        with simulated():
            result = run_history(seeds[0], is_traced=True)
        print(*result.lines or [], sep="\n")
        yield result
        return
    with multiprocessing.Pool() as pool:
        for results in pool.imap_unordered(run_batch, [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]):
            yield from results


def main(argument: str) -> int:
    """Run histories, and print how many there were of each kind. Return 1 if something did not hold."""
    rows: dict[str, Counter[str]] = {}
    for result in play(parse_seeds(argument)):
        counts = (1, result.steps, result.faults.total(), result.cancellations, result.kills, bool(result.failures))
        for kind in (result.kind, "all"):
            rows.setdefault(kind, Counter()).update(dict(zip(COLUMNS, counts, strict=True)))
        if result.failures:
            print(describe_failure(result), flush=True)
    print("kind".ljust(10), *(name.rjust(14) for name in COLUMNS))
    for kind in [*sorted(rows.keys() - {"all"}), "all"]:
        print(kind.ljust(10), *(f"{rows[kind][name]:14,}" for name in COLUMNS))
    return int(rows["all"]["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
