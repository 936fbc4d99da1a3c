"""A hook that talks to the sandbox."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sandbox.submissions import FIRST_SEEDED_ID
from scripts.processes import wait_until

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach  # type: ignore[no-redef,import-not-found,unused-ignore]


@pytest.fixture
def sandbox(rtisms_sandbox: Sandbox) -> Sandbox:
    """Return the sandbox with as many submissions as these tests ask for, and no socket of an earlier test."""
    if rtisms_sandbox.state().sockets:
        gc.collect()  # a hook keeps its connection open for as long as it lives
        wait_until(lambda: not rtisms_sandbox.state().sockets, what="closed sockets", timeout=30)
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


def count_descriptors() -> int:
    """Return how many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
