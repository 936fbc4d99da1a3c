"""
Send a text of its own to each person in one of two ways, and print JSON.

``python -m benchmarks.sends WAY URL COUNT LATENCY``; the latency is in seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from airflow_provider_rtisms.sandbox import Fault, SandboxClient
from benchmarks.fetches import CONCURRENCY, bearer_headers
from benchmarks.measure import stopwatch

Message = dict[str, str]
Way = Callable[[SandboxClient, Sequence[Message]], None]

WRITE_SECONDS = 0.02
"""What a write to the task state store of Airflow 3.3 takes: it asks the API server."""


def bare_aiohttp(sandbox: SandboxClient, messages: Sequence[Message]) -> None:
    """Do only what aiohttp requires, on connections that are kept open. Nothing records what was sent."""
    import aiohttp

    headers = bearer_headers(sandbox)

    async def main() -> None:
        left = iter(messages)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

            async def work() -> None:
                for one in left:
                    body = {
                        "recipients": [one["recipient"]],
                        "sender": "96000",
                        "message": {"charset": 1, "text": one["text"]},
                    }
                    async with session.post(f"{sandbox.url}/api/sms", headers=headers, json=body) as response:
                        await response.json()

            await asyncio.gather(*(work() for _ in range(CONCURRENCY)))

    asyncio.run(main())


def ours(sandbox: SandboxClient, messages: Sequence[Message]) -> None:
    """Use the operator, with checks, journal, retries, limiter and results. Each write of the journal takes time."""
    from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator

    os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"] = sandbox.connection_json()
    operator = RtiSmsSendOperator(task_id="send", messages=list(messages), sender="96000")
    operator.execute({"task_state_store": _SlowStore()})  # type: ignore[typeddict-unknown-key,unused-ignore]


class _SlowStore(dict[str, object]):
    """A task state store whose writes take as long as those of Airflow."""

    def set(self, key: str, value: object, *, retention: object = None) -> None:
        time.sleep(WRITE_SECONDS)
        self[key] = value


WAYS: dict[str, Way] = {way.__name__: way for way in (bare_aiohttp, ours)}


def main() -> None:
    """Send a few messages first, so that everything is loaded. Then send all, and measure that."""
    name, url, count, latency = sys.argv[1:]
    sandbox, way = SandboxClient(url), WAYS[name]
    messages = [
        {"recipient": f"+569{number // 800:05}{100 + number % 800}", "text": f"Invoice {number} is due"}
        for number in range(int(count))
    ]
    sandbox.reset()
    sandbox.set_balance(str(2 * len(messages)))
    sandbox.set_faults(Fault("latency", seconds=float(latency), path="sms"))
    way(sandbox, messages[:5])
    with stopwatch() as seconds:
        way(sandbox, messages)
    sent = len(sandbox.state().messages)
    if sent != len(messages) + 5:
        raise SystemExit(f"the sandbox has {sent} messages in place of {len(messages) + 5}")
    print(json.dumps({**seconds, "count": len(messages)}))


if __name__ == "__main__":
    main()
