"""A hook that talks to the sandbox."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import fsspec
import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_rtisms.api.aio import BACKLOG
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Fault, Sandbox, SandboxClient
from airflow_provider_rtisms.sandbox.state import FIRST_SEEDED_ID
from tests.patience import wait_until

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach  # type: ignore[no-redef,import-not-found,unused-ignore]


AT_ONCE = 32
"""The default of ``max_concurrency``."""
UNSAVED = AT_ONCE + BACKLOG + 1
"""How many submissions a fetch may have asked for and not saved: those under way, and those fetched meanwhile."""


@pytest.fixture
def sandbox(rtisms_sandbox: Sandbox) -> Sandbox:
    """Return the sandbox with as many submissions as these tests ask for, and no socket of an earlier test."""
    if rtisms_sandbox.state().sockets:
        gc.collect()  # a hook keeps its connection open for as long as it lives
        wait_until(lambda: not rtisms_sandbox.state().sockets, "closed sockets")
    rtisms_sandbox.reset(seed=5000)
    return rtisms_sandbox


@pytest.fixture
def hook(sandbox: Sandbox) -> RtiSmsHook:
    return RtiSmsHook()


@pytest.fixture
def bucket() -> Iterator[ObjectStoragePath]:
    """Return a folder of an object store: fsspec's own, in memory."""
    store = fsspec.filesystem("memory")
    attach(protocol="memory", fs=store)
    yield ObjectStoragePath("memory://bucket/day")
    if store.exists("/bucket"):
        store.rm("/bucket", recursive=True)


def seeded(count: int) -> list[str]:
    """Return ids that the sandbox knows."""
    return [str(FIRST_SEEDED_ID + number) for number in range(count)]


def kill_when(condition: Callable[[], object], program: str, env: Mapping[str, str] | None = None) -> None:
    """Run a program, and kill it (SIGKILL) as soon as a condition is true. It must not have ended by then."""
    with subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **(env or {})}) as process:
        wait_until(lambda: condition() or process.poll() is not None, "the time to kill")
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def kill_on_the_way(sandbox: SandboxClient, program: str, after: int) -> None:
    """
    Run a program that fetches, and kill it (SIGKILL). A few responses never come, so that it cannot end before.

    :param sandbox: what it fetches from.
    :param program: its code.
    :param after: how many responses the sandbox has sent when it is killed.
    """
    patient = json.loads(sandbox.connection_json()) | {"extra": {"timeout": 3600}}
    sandbox.set_faults(Fault("latency", seconds=3600, probability=0.01, path="sms"))
    kill_when(
        lambda: sandbox.state().count_responses(200, "GET sms") >= after,
        program,
        {"AIRFLOW_CONN_RTISMS_DEFAULT": json.dumps(patient)},
    )
    wait_until(lambda: not sandbox.state().sockets, "closed sockets")  # it has received all that had been sent
    sandbox.set_faults()


def open_files(folder: Path) -> list[str]:
    """Return the files below ``folder`` that this process has open. Other tests' sockets do not count."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(descriptor.readlink()))
    return [link for link in links if link.startswith(f"{folder.resolve()}/")]
