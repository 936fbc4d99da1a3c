"""A hook that talks to the sandbox."""

from __future__ import annotations

import pytest

from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sandbox.submissions import FIRST_SEEDED_ID


@pytest.fixture
def sandbox(rtisms_sandbox: Sandbox) -> Sandbox:
    """Return the sandbox with as many submissions as these tests ask for."""
    rtisms_sandbox.reset(seed=5000)
    return rtisms_sandbox


@pytest.fixture
def hook(sandbox: Sandbox) -> RtiSmsHook:
    return RtiSmsHook()


def seeded(count: int) -> list[str]:
    """Return ids that the sandbox knows."""
    return [str(FIRST_SEEDED_ID + number) for number in range(count)]
