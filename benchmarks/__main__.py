"""Run all benchmarks, and write their tables and plot into a folder: ``python -m benchmarks --output docs``."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from benchmarks.fetches import CONCURRENCY, WAYS
from benchmarks.sends import WAYS as SENDS
from benchmarks.waits import TRIGGERS

LATENCIES = (0.0, 0.02, 0.08)
LIMIT = "bare_aiohttp"
ONE_AT_A_TIME = ("vendor_snippet", "session", "http_hook")
LABELS = {
    "vendor_snippet": "(a) requests.get per id, as the vendor shows",
    "session": "(b) a requests Session",
    "threads": f"(c) a Session in {CONCURRENCY} threads",
    "http_hook": "(d) Airflow's HttpHook per id",
    "bare_aiohttp": f"(e) a bare aiohttp loop, {CONCURRENCY} at once",
    "ours": f"(f) this provider's bulk fetch, {CONCURRENCY} at once",
}
MEMORY_COUNTS = (2_000, 20_000, 100_000)
WAITS = 1_000
SENDS_LATENCY = 0.08
SENDS_COUNT = 5_000
SENDS_LABELS = {
    "bare_aiohttp": f"a bare aiohttp loop that records nothing, {CONCURRENCY} at once",
    "ours": f"RtiSmsSendOperator with its journal, {CONCURRENCY} at once",
}

Results = dict[tuple[str, float], dict[str, float]]


def measure(module: str, *arguments: object) -> dict[str, float]:
    """Run one benchmark in a process of its own, and return the JSON object in its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def count_for(way: str, latency: float) -> int:
    """Return how many ids to fetch: few for the ways that make one request at a time, since they take long."""
    if way not in ONE_AT_A_TIME:
        return 1500 if latency else 4000
    return 60 if latency else 1000


def fetches(sandbox: SandboxProcess, rounds: int) -> Results:
    """Measure all ways at all latencies. Return the medians per way and latency, in milliseconds per id."""
    taken: dict[tuple[str, float], list[dict[str, float]]] = defaultdict(list)
    for latency in LATENCIES:
        sandbox.set_faults(*([Fault("latency", seconds=latency, path="sms")] if latency else []))
        for _ in range(rounds):
            for way in WAYS:
                run = measure("fetches", way, sandbox.url, count_for(way, latency))
                taken[way, latency].append({key: 1000 * run[key] / run["count"] for key in ("wall", "cpu")})
                print(f"{latency * 1000:3.0f} ms  {way:15} {taken[way, latency][-1]}", flush=True)
    return {key: {name: median(run[name] for run in runs) for name in runs[0]} for key, runs in taken.items()}


def fetch_table(results: Results) -> str:
    """Return a table of all ways, with their ratios to the bare aiohttp loop."""
    head = ["", *(f"{latency * 1000:g} ms: wall | CPU" for latency in LATENCIES)]
    rows = []
    for way, label in LABELS.items():
        cells = []
        for latency in LATENCIES:
            own, limit = results[way, latency], results[LIMIT, latency]
            parts = (f"{own[name]:.2f} ({own[name] / limit[name]:.2f} x)" for name in ("wall", "cpu"))
            cells.append(" | ".join(parts))
        rows.append([label, *cells])
    return markdown([head, *rows])


def memory_table(sandbox: SandboxProcess) -> str:
    """Return a table of the peak of resident memory, by number of ids."""
    sandbox.set_faults()
    rows = [["ids", "peak of resident memory, MiB"]]
    for count in MEMORY_COUNTS:
        rows.append([f"{count:,}", f"{measure('fetches', 'ours', sandbox.url, count)['peak_mib']:.1f}"])
    return markdown(rows)


def send_table(sandbox: SandboxProcess, rounds: int) -> str:
    """Return a table of personal texts, one request each, with the ratios to a bare aiohttp loop."""
    taken: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(rounds):
        for way in SENDS:
            taken[way].append(measure("sends", way, sandbox.url, SENDS_COUNT, SENDS_LATENCY))
            print(f"sends  {way:15} {taken[way][-1]}", flush=True)
    sandbox.set_faults()
    results = {
        way: {name: median(run[name] for run in runs) for name in ("wall", "cpu")} for way, runs in taken.items()
    }
    rows = [[f"{SENDS_COUNT:,} different texts, {SENDS_LATENCY * 1000:g} ms away", "wall, s", "CPU, s"]]
    for way, label in SENDS_LABELS.items():
        own, limit = results[way], results[LIMIT]
        rows.append([label, *(f"{own[name]:.1f} ({own[name] / limit[name]:.2f} x)" for name in ("wall", "cpu"))])
    return markdown(rows)


def wait_table(sandbox: SandboxProcess) -> str:
    """Return a table of many waits at the same time, with our trigger and with that of Airflow's HTTP provider."""
    sandbox.set_faults()
    rows = [[f"{WAITS:,} waits", "requests", "tokens", "sockets", "CPU, s", "wall, s", "worst pause of the loop, s"]]
    for name in TRIGGERS:
        sandbox.reset()
        run = measure("waits", name, sandbox.url, WAITS)
        seconds = [f"{run[key]:.2f}" for key in ("cpu", "wall", "pause")]
        rows.append([name, *(f"{run[key]:,.0f}" for key in ("requests", "tokens", "sockets")), *seconds])
    return markdown(rows)


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as a Markdown table. A cell with ``|`` in it becomes two cells."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], re.sub(r"[^|]+", "---", lines[0]), *lines[1:]])


def plot(results: Results, file: Path) -> None:
    """Draw wall and CPU time per id of all ways. The axis of the wall time is logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for panel, name, title, scale in (
        (panels[0], "wall", "Wall time", "log"),
        (panels[1], "cpu", "CPU time", "linear"),
    ):
        for number, latency in enumerate(LATENCIES):
            heights = [row + 0.27 * (number - 1) for row in range(len(LABELS))]
            values = [results[way, latency][name] for way in LABELS]
            panel.barh(heights, values, height=0.25, label=f"{latency * 1000:g} ms away")
        panel.set(title=f"{title} per submission, ms", xscale=scale)
        panel.set_yticks(range(len(LABELS)), LABELS.values())
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    panels[1].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, required=True, help="the folder for the tables and images/performance.png"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure each way; the tables show medians")
    options = parser.parse_args()
    (options.output / "images").mkdir(parents=True, exist_ok=True)
    with SandboxProcess(seed=max(MEMORY_COUNTS)) as sandbox:
        results = fetches(sandbox, options.rounds)
        tables = [fetch_table(results), memory_table(sandbox), wait_table(sandbox), send_table(sandbox, options.rounds)]
    tables_file, plot_file = options.output / "performance-tables.inc", options.output / "images" / "performance.png"
    tables_file.write_text("\n\n".join(tables) + "\n")
    plot(results, plot_file)
    print(f"\n{tables_file.read_text()}\nWritten to {tables_file} and {plot_file}")


if __name__ == "__main__":
    main()
