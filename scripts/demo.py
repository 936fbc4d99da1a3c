"""`make demo`: an example DAG waits for deliveries in a whole Airflow, with the sandbox for the API.

The sandbox holds some SMS back until the sensor has deferred; then they go out, and the trigger sees them arrive.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import COMPONENTS, AirflowDeployment

ROOT = Path(__file__).resolve().parents[1]
DAG_ID = "example_rtisms_wait_for_delivery"
SMS_COUNT = 4
RUN_TIMEOUT = 180.0
"""Seconds; a run takes about 15."""

COLUMNS = {
    "id": "submission_id",
    "status": "status",
    "operator": "operator_name",
    "registered": "registered_at",
    "sent": "sent_at",
    "done": "done_at",
    "cost": "cost",
}
"""The table's headings, and what they show of a record."""

_started = time.monotonic()


def main() -> None:
    """Run the demo; exits with 1 and the end of the relevant log where it fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / ".build" / "demo", help="folder for the records")
    output = parser.parse_args().output
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)

    try:
        records = run_example()
    except (RuntimeError, TimeoutError) as error:
        sys.exit(f"\nThe demo failed. {error}")
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"details-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.json"
    file.write_text(json.dumps(records, indent=2) + "\n")
    print(f"\n{table(records)}\n\nTimes are UTC. The whole records, as they stood in XCom: {os.path.relpath(file)}")


def run_example() -> list[dict[str, Any]]:
    """
    Start the sandbox and Airflow, and run the example in them.

    :return: the records that the example left in XCom.
    """
    say(f"Starting the sandbox and Airflow {version('apache-airflow')} ({', '.join(COMPONENTS)}) ...")
    with SandboxProcess() as sandbox:
        env = {"AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json()}
        with AirflowDeployment([ROOT / "example_dags" / f"{DAG_ID}.py"], env=env) as airflow:
            say(f"The sandbox responses at {sandbox.url}, Airflow at {airflow.url}")
            return fetch_details(airflow, sandbox)


def fetch_details(airflow: AirflowDeployment, sandbox: SandboxProcess) -> list[dict[str, Any]]:
    """
    Run the DAG over SMS that go out while its sensor is deferred.

    :return: the records that the DAG left in XCom.
    :raises RuntimeError: if the run fails, or its sensor never defers.
    """
    submission_ids = [sandbox.add_submission("PENDING") for _ in range(SMS_COUNT)]
    run = airflow.trigger(DAG_ID, params={"submission_ids": submission_ids})
    say(f"Run {run.run_id} of {DAG_ID} waits for {SMS_COUNT} SMS, all PENDING")

    deferred = False
    for task in run.changes(timeout=RUN_TIMEOUT):
        index = "" if task["map_index"] < 0 else f"[{task['map_index']}]"
        say(f"  {task['task_id']}{index}: {task['state']}")
        if task["state"] == "deferred" and not deferred:
            deferred = True
            say("The worker is free again, the triggerer asks every 2 s. Now the SMS go out, and arrive one by one")
            for seconds, submission_id in enumerate(submission_ids, start=1):
                sandbox.add_submission(submission_id=submission_id, pending_for=1, sent_for=seconds)

    if run.state() != "success":
        raise RuntimeError(f"The run's state is {run.state()}. The end of the logs:\n{run.failure_log()}")
    if not deferred:
        raise RuntimeError("The sensor ended without having been deferred")
    return [run.xcom("get_details", map_index=index) for index in range(SMS_COUNT)]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the records as lines of aligned columns."""
    rows = [list(COLUMNS), *([cell(record[key]) for key in COLUMNS.values()] for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def cell(value: Any) -> str:
    """Return a field of a record for people: of a time only the clock, for all of them are today."""
    try:
        return f"{datetime.fromisoformat(value):%H:%M:%S}"
    except (TypeError, ValueError):
        return "" if value is None else str(value)


def say(line: str) -> None:
    """Print a line of progress with the seconds since the start."""
    print(f"[{time.monotonic() - _started:5.1f} s] {line}", flush=True)


def _exit(number: int, frame: FrameType | None) -> None:
    """Leave by way of every `with` block; a second signal must not stop that."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
