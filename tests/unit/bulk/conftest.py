"""A hook that talks to the sandbox."""

from __future__ import annotations

import gc

import pytest

from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sandbox.submissions import FIRST_SEEDED_ID
from scripts.processes import wait_until


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


def seeded(count: int) -> list[str]:
    """Return ids that the sandbox knows."""
    return [str(FIRST_SEEDED_ID + number) for number in range(count)]
