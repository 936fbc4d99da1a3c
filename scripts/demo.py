"""
`make demo`: an example DAG waits for deliveries in a whole Airflow, with the sandbox in the role of the API.

The sandbox keeps some SMS PENDING until the sensor has deferred. Then it delivers them, and the trigger sees that.
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

COLUMNS = {
    "id": "submission_id",
    "status": "status",
    "operator": "operator_name",
    "registered": "registered_at",
    "sent": "sent_at",
    "done": "done_at",
    "cost": "cost",
}
"""The headings of the table, and the fields of a record below them."""

_started = time.monotonic()


def main() -> None:
    """Run the demo. If it fails, print the end of the relevant log and exit with 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--output", type=Path, default=ROOT / ".build" / "demo", help="the folder for the records")
    output = parser.parse_args().output
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)

    try:
        records = run_example()
    except (RuntimeError, TimeoutError, OSError) as error:  # an OSError of requests, too
        sys.exit(f"\nThe demo failed. {error}")
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"details-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.json"
    file.write_text(json.dumps(records, indent=2) + "\n")
    print(f"\n{table(records)}\n\nTimes are UTC. The whole records, as in XCom, are in {os.path.relpath(file)}")


def run_example() -> list[dict[str, Any]]:
    """
    Start the sandbox and Airflow, and run the example.

    :return: the records that the example has put into XCom.
    """
    say(f"Starting the sandbox and Airflow {version('apache-airflow')} ({', '.join(COMPONENTS)}).")
    say("This takes half a minute on an idle machine, and some minutes on a busy one ...")
    with SandboxProcess() as sandbox:
        env = {"AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json()}
        with AirflowDeployment([ROOT / "example_dags" / f"{DAG_ID}.py"], env=env) as airflow:
            say(f"The sandbox serves at {sandbox.url}, Airflow at {airflow.url}")
            return fetch_details(airflow, sandbox)


def fetch_details(airflow: AirflowDeployment, sandbox: SandboxProcess) -> list[dict[str, Any]]:
    """
    Run the DAG with SMS that are sent while its sensor is deferred.

    :return: the records that the DAG has put into XCom.
    :raises RuntimeError: if the run fails, or if its sensor does not defer.
    """
    submission_ids = [sandbox.add_submission("PENDING") for _ in range(SMS_COUNT)]
    run = airflow.trigger(DAG_ID, params={"submission_ids": submission_ids})
    say(f"Run {run.run_id} of {DAG_ID} waits for {SMS_COUNT} SMS, all PENDING")

    deferred = False
    for task in run.changes():
        index = "" if task["map_index"] < 0 else f"[{task['map_index']}]"
        say(f"  {task['task_id']}{index}: {task['state']}")
        if task["state"] == "deferred" and not deferred:
            deferred = True
            say("The worker is free again; the triggerer polls every 2 s. Now the SMS are delivered, one by one")
            for seconds, submission_id in enumerate(submission_ids, start=1):
                sandbox.add_submission(submission_id=submission_id, pending_for=1, sent_for=seconds)

    if run.state() != "success":
        raise RuntimeError(f"The state of the run is {run.state()}. The end of the logs:\n{run.failure_log()}")
    if not deferred:
        raise RuntimeError("The sensor finished but did not defer")
    return [run.xcom("get_details", map_index=index) for index in range(SMS_COUNT)]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the records, as lines with aligned columns."""
    rows = [list(COLUMNS), *([cell(record[key]) for key in COLUMNS.values()] for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def cell(value: Any) -> str:
    """Return a field of a record in a form for people. Times have no date, since all of them are today."""
    try:
        return f"{datetime.fromisoformat(value):%H:%M:%S}"
    except (TypeError, ValueError):
        return "" if value is None else str(value)


def say(line: str) -> None:
    """Print a line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - _started:5.1f} s] {line}", flush=True)


def _exit(number: int, frame: FrameType | None) -> None:
    """Exit through every `with` block. A second signal must not interrupt that."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
