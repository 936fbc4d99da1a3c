"""Fetch many submissions in one of six ways, and print JSON: ``python -m benchmarks.fetches WAY URL COUNT``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airflow_provider_rtisms.sandbox import SandboxClient
from airflow_provider_rtisms.sandbox.state import FIRST_SEEDED_ID
from benchmarks.measure import stopwatch

CONCURRENCY = 32

Way = Callable[[SandboxClient, Sequence[str]], None]


def vendor_snippet(sandbox: SandboxClient, ids: Sequence[str]) -> None:
    """Do what the vendor's reference shows: requests.get for each id."""
    import requests

    headers = bearer_headers(sandbox)
    for submission_id in ids:
        requests.get(f"{sandbox.url}/api/sms/{submission_id}", headers=headers, timeout=30).json()


def session(sandbox: SandboxClient, ids: Sequence[str]) -> None:
    """Use one requests.Session."""
    import requests

    headers = bearer_headers(sandbox)
    with requests.Session() as one:
        for submission_id in ids:
            one.get(f"{sandbox.url}/api/sms/{submission_id}", headers=headers, timeout=30).json()


def threads(sandbox: SandboxClient, ids: Sequence[str]) -> None:
    """Use one requests.Session in many threads."""
    import requests
    import requests.adapters

    headers = bearer_headers(sandbox)
    with requests.Session() as one, ThreadPoolExecutor(CONCURRENCY) as pool:
        one.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=CONCURRENCY))

        def get(submission_id: str) -> None:
            one.get(f"{sandbox.url}/api/sms/{submission_id}", headers=headers, timeout=30).json()

        list(pool.map(get, ids))


def http_hook(sandbox: SandboxClient, ids: Sequence[str]) -> None:
    """Use Airflow's HttpHook for each id, as a mapped task would."""
    from airflow.providers.http.hooks.http import HttpHook

    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": sandbox.url})
    headers = bearer_headers(sandbox)
    for submission_id in ids:
        HttpHook(method="GET").run(f"api/sms/{submission_id}", headers=headers).json()


def bare_aiohttp(sandbox: SandboxClient, ids: Sequence[str]) -> None:
    """Do only what aiohttp requires: no way with aiohttp can be faster."""
    import aiohttp

    headers = bearer_headers(sandbox)

    async def main() -> None:
        left = iter(ids)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as one:

            async def work() -> None:
                for submission_id in left:
                    async with one.get(f"{sandbox.url}/api/sms/{submission_id}", headers=headers) as response:
                        await response.json()

            await asyncio.gather(*(work() for _ in range(CONCURRENCY)))

    asyncio.run(main())


def ours(sandbox: SandboxClient, ids: Sequence[str]) -> None:
    """Use the hook's bulk fetch into a file, with parsing, retries, limiter, part file and summary."""
    from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

    os.environ["AIRFLOW_CONN_RTISMS_DEFAULT"] = sandbox.connection_json()
    with tempfile.TemporaryDirectory() as folder:
        RtiSmsHook().bulk_get_sms(ids, output_path=Path(folder, "details.jsonl"), max_concurrency=CONCURRENCY)


WAYS: dict[str, Way] = {way.__name__: way for way in (vendor_snippet, session, threads, http_hook, bare_aiohttp, ours)}


def bearer_headers(sandbox: SandboxClient) -> dict[str, str]:
    """Authenticate, and return the headers of all other calls."""
    import requests

    form = {
        "grant_type": "client_credentials",
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
    }
    grant = requests.post(f"{sandbox.url}/api/auth", data=form, timeout=30).json()
    return {"Authorization": f"Bearer {grant['access_token']}", "Content-Type": "application/json"}


def main() -> None:
    """Fetch a few submissions first, so that everything is loaded. Then fetch all, and measure that."""
    name, url, count = sys.argv[1:]
    sandbox, way = SandboxClient(url), WAYS[name]
    ids = [str(FIRST_SEEDED_ID + number) for number in range(int(count))]
    way(sandbox, ids[:5])
    with stopwatch() as seconds:
        way(sandbox, ids)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))  # kB
    print(json.dumps({**seconds, "count": len(ids), "peak_mib": peak / 1024}))


if __name__ == "__main__":
    main()
