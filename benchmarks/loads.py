"""Load records into a table of PostgreSQL, and print what it takes: ``python -m benchmarks.loads [COUNT]``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_provider_rtisms.sandbox import SandboxProcess
from airflow_provider_rtisms.sandbox.state import FIRST_SEEDED_ID
from benchmarks.measure import stopwatch
from scripts.servers import Postgres

COUNT = 100_000
RAW = json.dumps({"id": "5000000000000000", "timestamps": {"registered": 1600351683}, "info": {"x": "y" * 150}})


def operator(count: int) -> dict[str, float]:
    """Run the operator with the ids of a query, and return seconds and memory; the first run loads all modules."""
    from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator

    def run(first: int) -> None:
        RtiSmsDetailsToSqlOperator(
            task_id="load",
            table="fetched",
            sql_conn_id="warehouse",
            sql="SELECT generate_series(%s::bigint, %s::bigint)",
            parameters=[FIRST_SEEDED_ID + first, FIRST_SEEDED_ID + count - 1],
            create_table=True,
        ).execute({})

    run(count - 5)
    before = peak()
    with stopwatch() as seconds:
        run(0)
    return {**seconds, "before_mib": before, "peak_mib": peak()}


def loads(count: int) -> dict[str, float]:
    """Load records that are there already, and return the seconds of each kind of load."""
    from airflow_provider_rtisms.bulk.store import columns_of
    from airflow_provider_rtisms.sql.databases import get_hook
    from airflow_provider_rtisms.sql.table import layout_of_details, open_table

    result = {}
    hook: Any = get_hook("sql_conn_id", "warehouse")
    for kind in ("insert", "update", "ignore", "insert with raw"):
        raw = kind.endswith("raw")
        on_conflict = "ignore" if kind == "ignore" else "update"
        table = open_table(
            hook, "with_raw" if raw else "loaded", layout_of_details(columns_of(raw)), on_conflict, create=True
        )
        lines = list(records(count, raw=raw))
        with stopwatch() as seconds:
            table.load(lines)
        result |= {f"{kind}: {name}": value for name, value in seconds.items()}
    return result


def records(count: int, *, raw: bool) -> Iterator[bytes]:
    """Yield records as a part file holds them."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    for number in range(count):
        record = {
            **{"submission_id": str(FIRST_SEEDED_ID + number), "status": "DELIVERED", "status_code": "1"},
            **{"is_final": True, "registered_at": moment, "sent_at": moment, "done_at": moment, "cost": 1.5},
            **{"operator_id": "188", "operator_name": "Entel Pcs", "operator_mcc": "730", "operator_mnc": "10"},
            **{"fetched_at": moment, **({"raw": RAW} if raw else {})},
        }
        yield json.dumps(record).encode() + b"\n"


def peak() -> float:
    """Return the most memory that this process has had (MiB)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Run both in processes of their own, and print what they return."""
    if len(sys.argv) == 3:
        print(json.dumps({"operator": operator, "loads": loads}[sys.argv[1]](int(sys.argv[2]))))
        return
    count = int(sys.argv[1]) if len(sys.argv) == 2 else COUNT
    with SandboxProcess(seed=count) as sandbox, Postgres() as server, tempfile.TemporaryDirectory() as home:
        fields = {"conn_type": "postgres", "host": "127.0.0.1", "port": server.port, "login": "postgres"}
        connections = {
            "AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json(),
            "AIRFLOW_CONN_WAREHOUSE": json.dumps({**fields, "schema": "postgres"}),
        }
        for part in ("loads", "operator"):
            command = [sys.executable, "-m", "benchmarks.loads", part, str(count)]
            environment = os.environ | connections | {"AIRFLOW_HOME": home}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            for name, value in json.loads(done.stdout.splitlines()[-1]).items():
                print(f"{part:8} {name:24} {value:10.2f}", flush=True)


if __name__ == "__main__":
    main()
