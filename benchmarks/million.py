"""
Fetch a million submissions into a ``.parquet`` file, here and in an S3 store, and end the process twice on the way.

``python -m benchmarks.million --output docs`` (or ``make bench-million``) writes ``performance-million.inc``. It takes
about ten minutes on two idle cores, and 1 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.fast_api import UNKNOWN_SUFFIX

FIRST_ID = 9_000_000_000_000
FEW = 20_000
#: At which part of the ids the process is ended, and how.
ENDS = ((0.6, signal.SIGKILL), (0.8, signal.SIGTERM))
POLL = 0.1


@dataclass
class Run:
    """
    One process that fetches.

    :param command: starts it.
    :param environment: what it finds in its environment, with the Connections.
    """

    command: Sequence[str]
    environment: dict[str, str]
    lines: list[tuple[float, str]] = field(default_factory=list)
    peak_mib: float = 0.0
    #: Wall seconds, and CPU seconds of the process, until its first request.
    until_first: tuple[float, float] = (0.0, 0.0)

    def until(self, api: str, requests: int | None, how: signal.Signals) -> None:
        """Run until the API got some number of requests, then end it; with None to its own end."""
        started = time.time()
        get(f"{api}/reset")
        process = subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        reader = threading.Thread(target=self._read, args=(process,))
        reader.start()
        while process.poll() is None:
            self._look(process.pid, get(f"{api}/state"), started)
            if requests is not None and get(f"{api}/state")["requests"] >= requests:
                process.send_signal(how)
                break
            time.sleep(POLL)
        process.wait()
        reader.join()
        if requests is None and process.returncode:
            raise RuntimeError("".join(line for _, line in self.lines[-30:]))

    def _look(self, pid: int, state: dict[str, Any], started: float) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            self.peak_mib = max(self.peak_mib, int(status.split("VmHWM:")[1].split()[0]) / 1024)
            if state["requests"] and self.until_first == (0.0, 0.0):
                ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
                cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
                self.until_first = state["first_at"] - started, cpu
        except (OSError, IndexError):
            pass  # it has just ended

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append((time.monotonic(), line))

    @property
    def longest_gap(self) -> float:
        """Seconds: the longest time between two log lines. Airflow itself writes the first one."""
        moments = [moment for moment, _ in self.lines]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)


def get(url: str) -> dict[str, Any]:
    """Return the JSON that a URL gives."""
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310
        return dict(json.load(response))


@contextmanager
def server(*command: str) -> Iterator[str]:
    """Start a server; yield the URL that it prints."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            url = next(found[0] for line in process.stdout if (found := re.search(r"http://[0-9.:]+", line)))
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield url
        finally:
            process.terminate()


def write_ids(file: Path, count: int) -> int:
    """Write ids, one a line, and return how many of them the API knows."""
    file.write_text("".join(f"{FIRST_ID + number}\n" for number in range(count)))
    return count - -(-count // 10 ** len(UNKNOWN_SUFFIX))


def fetch(ids: str, target: str, missing: str) -> None:
    """Do what a task does: this is the process that is measured."""
    from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    task = RtiSmsBulkGetDetailsOperator(
        task_id="fetch", submission_ids_path=ids, output_path=target, missing_path=missing, on_missing="skip"
    )
    task.execute({})


def measure(store: str, count: int, api: str, s3: str, folder: Path) -> dict[str, Any]:
    """Fetch a few ids in one go, then many with two ends on the way. Return the figures."""
    connections = {
        "AIRFLOW_CONN_RTISMS_DEFAULT": json.dumps(
            {"conn_type": "rtisms", "login": "me", "password": "not-secret", "host": api}
        ),
        "AIRFLOW_CONN_STORE": json.dumps(
            {
                "conn_type": "aws",
                "login": "key",
                "password": "not-secret",
                "extra": json.dumps({"endpoint_url": s3, "region_name": "us-east-1"}),
            }
        ),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    }
    home = f"s3://store@bucket/{count}" if store == "s3" else str(folder)

    def run(number: int) -> Run:
        ids = folder / f"{number}.txt"
        if not ids.exists():
            write_ids(ids, number)
        names = [str(ids), f"{home}/{number}.parquet", f"{home}/{number}.missing"]
        return Run([sys.executable, "-m", "benchmarks.million", "--fetch", *names], {**os.environ, **connections})

    few = run(FEW)
    few.until(api, None, signal.SIGKILL)
    began, asked, runs = time.monotonic(), 0, []
    for part, how in (*ENDS, (None, signal.SIGKILL)):
        runs.append(run(count))
        runs[-1].until(api, None if part is None else int(part * count) - asked, how)
        asked += get(f"{api}/state")["requests"]
        print(
            f"{store}: {asked:,} requests, {runs[-1].until_first} s until the first, "
            f"longest gap {runs[-1].longest_gap:.1f} s, peak {runs[-1].peak_mib:.0f} MiB",
            flush=True,
        )
    check(f"{home}/{count}", connections, count)
    return {
        "store": store,
        "few_mib": few.peak_mib,
        "many_mib": max(one.peak_mib for one in runs),
        "wall": time.monotonic() - began,
        "again": asked - count,
        "killed": runs[1].until_first,
        "terminated": runs[2].until_first,
        "gap": max(one.longest_gap for one in runs),
    }


def check(name: str, connections: dict[str, str], count: int) -> None:
    """Make sure that every id is in the file once, or among the missing ones."""
    import pyarrow.parquet as pq
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    os.environ.update(connections)
    base = ObjectStoragePath(name if "://" in name else f"file://{name}")
    with base.with_name(f"{base.name}.parquet").open("rb") as file:
        ids = pq.read_table(file, columns=["submission_id"])["submission_id"].to_pylist()
    with base.with_name(f"{base.name}.missing").open("rb") as file:
        missing = file.read().decode().split()
    if len(ids) + len(missing) != count or len({*ids, *missing}) != count:
        raise RuntimeError(f"{len(ids)} records and {len(missing)} missing ids for {count} ids")
    left = [path.name for path in base.parent.iterdir() if ".part" in path.name or ".staging" in path.name]
    if left:
        raise RuntimeError(f"these are left: {left}")


def table(results: Sequence[dict[str, Any]], count: int) -> str:
    """Return the figures as Markdown."""
    rows = [
        (f"peak of resident memory, {FEW:,} ids, MiB", "{few_mib:.0f}"),
        (f"peak of resident memory, {count:,} ids, MiB", "{many_mib:.0f}"),
        ("longest time between two log lines, s", "{gap:.1f}"),
        ("after kill -9 at 60 %: wall (CPU) time until the first request, s", "{killed[0]:.1f} ({killed[1]:.1f})"),
        ("after SIGTERM at 80 %: the same, s", "{terminated[0]:.1f} ({terminated[1]:.1f})"),
        ("submissions that were requested twice", "{again:,}"),
        ("all of it, with both restarts, s", "{wall:,.0f}"),
    ]
    lines = [f"| {count:,} ids into `.parquet` | {' | '.join(one['store'] for one in results)} |"]
    lines.append(f"|---|{'---|' * len(results)}")
    lines += [f"| {label} | {' | '.join(cell.format(**one) for one in results)} |" for label, cell in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="how many ids")
    parser.add_argument("--stores", default="local,s3", help="local, s3 or both")
    parser.add_argument("--output", type=Path, help="the folder for performance-million.inc; default: only print it")
    parser.add_argument("--fetch", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fetch:
        return fetch(*options.fetch)
    moto = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
    with server(sys.executable, "-m", "benchmarks.fast_api") as api, tempfile.TemporaryDirectory() as folder:
        results = []
        for store in options.stores.split(","):
            if store == "s3":
                with server(*moto) as s3:
                    urllib.request.urlopen(urllib.request.Request(f"{s3}/bucket", method="PUT"), timeout=60)  # noqa: S310
                    results.append(measure(store, options.count, api, s3, Path(folder)))
            else:
                results.append(measure(store, options.count, api, "", Path(folder)))
    text = table(results, options.count)
    print(text)
    if options.output:
        (options.output / "performance-million.inc").write_text(text)
    return None


if __name__ == "__main__":
    main()
