"""
Run many waits in one event loop, and print JSON: ``python -m benchmarks.waits TRIGGER URL COUNT``.

HttpSensorTrigger fires when the response is no longer a 404. So both triggers wait for that here: the submissions do
not exist at first, and this program adds them after a while.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow_provider_rtisms.sandbox import SandboxClient
from benchmarks.fetches import bearer_headers
from benchmarks.measure import stopwatch, worst_pause

POKE_INTERVAL = 2.0
ADDED_AFTER = 5.0
FIRST_ID = 6_000_000_000_000_000

Trigger = Callable[[str], Any]


def http_sensor(sandbox: SandboxClient) -> Trigger:
    """Return a function that makes a trigger of Airflow's HTTP provider for a submission."""
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": sandbox.url})
    headers = bearer_headers(sandbox)
    return lambda submission_id: HttpSensorTrigger(
        endpoint=f"api/sms/{submission_id}", headers=headers, poke_interval=POKE_INTERVAL
    )


def ours(sandbox: SandboxClient) -> Trigger:
    """Return a function that makes a trigger of this provider for a submission."""
    from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger

    os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"] = sandbox.connection_json()
    end = time.time() + 600
    return lambda submission_id: RtiSmsDeliveryTrigger(
        rtisms_conn_id="rtisms_default",
        submission_ids=[submission_id],
        poke_interval=POKE_INTERVAL,
        deadline=end,
        missing_until=end,
        fail_on=(),
    )


TRIGGERS = {"http_sensor": http_sensor, "ours": ours}


async def wait_for_all(trigger: Trigger, sandbox: SandboxClient, ids: list[str]) -> float:
    """Run one trigger for each id until all have fired. Return the longest pause of the event loop (seconds)."""

    def add_submissions() -> None:
        time.sleep(ADDED_AFTER)
        for submission_id in ids:
            sandbox.add_submission(submission_id=submission_id, pending_for=0, sent_for=0)

    async def wait(submission_id: str) -> None:
        async for _ in trigger(submission_id).run():
            return

    with ThreadPoolExecutor(1) as helper:
        added = asyncio.get_running_loop().run_in_executor(helper, add_submissions)
        async with worst_pause() as worst:
            await asyncio.gather(*map(wait, ids))
        await added
    return worst["pause"]


def main() -> None:
    """Measure one kind of trigger."""
    name, url, count = sys.argv[1:]
    sandbox = SandboxClient(url)
    trigger = TRIGGERS[name](sandbox)
    ids = [str(FIRST_ID + number) for number in range(int(count))]
    with stopwatch() as seconds:
        pause = asyncio.run(wait_for_all(trigger, sandbox, ids))
    state = sandbox.state()
    print(
        json.dumps(
            {
                **seconds,
                "pause": pause,
                "requests": state.requests.get("GET sms", 0),
                "tokens": state.tokens_issued,
                "sockets": state.sockets_peak,
            }
        )
    )


if __name__ == "__main__":
    main()
