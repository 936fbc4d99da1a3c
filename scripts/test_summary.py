"""
Say what the tests of a make target have shown: how many passed where, what was skipped, and what runs elsewhere.

    python -m scripts.test_summary .build/results --left-out "the middle minors: make test-all"

Each run of pytest has left a JUnit file in the folder, which is named after its target.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def main() -> None:
    """Print a table. Exit with 1 if a test failed, or if no test ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("results", type=Path, help="the folder with the JUnit files")
    parser.add_argument("--left-out", action="append", default=[], help="what does not run here, and where it does")
    options = parser.parse_args()
    rows = [["", "passed", "skipped", "failed", "seconds"]]
    skipped: Counter[str] = Counter()
    bad = 0
    files = sorted(options.results.glob("*.xml"), key=lambda file: file.stat().st_mtime)
    for file in files:
        suite = ElementTree.parse(file).getroot().find("testsuite")  # noqa: S314  # pytest has written it
        counts = {name: int(suite.get(name, 0)) for name in ("tests", "skipped", "failures", "errors")}  # type: ignore[union-attr]
        failed = counts["failures"] + counts["errors"]
        passed = counts["tests"] - counts["skipped"] - failed
        seconds = float(suite.get("time", 0))  # type: ignore[union-attr]
        rows.append([file.stem, f"{passed:,}", f"{counts['skipped']:,}", f"{failed:,}", f"{seconds:.0f}"])
        skipped.update(one.get("message", "") for one in suite.iter("skipped"))  # type: ignore[union-attr]
        bad += failed
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *counted in rows:
        print("  ".join([name.ljust(widths[0]), *map(str.rjust, counted, widths[1:])]))
    print("\nSkipped:", *([f"  {count} x {reason}" for reason, count in skipped.most_common()] or ["  none"]), sep="\n")
    print("\nNot run here:", *(f"  {one}" for one in options.left_out), sep="\n")
    if bad or not files:
        sys.exit(f"\n{bad} tests failed." if files else "\nNo test ran.")


if __name__ == "__main__":
    main()
