"""
Fixtures for tests of DAGs: a sandbox, and a Connection ``rtisms_default`` that leads to it.

pytest loads this file in every run, so it imports other modules only when a fixture is first used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow_provider_rtisms.sandbox import Sandbox


@pytest.fixture(scope="session")
def rtisms_sandbox_settings() -> dict[str, Any]:
    """
    Return the settings of the sandbox by name, see :class:`~airflow_provider_rtisms.sandbox.settings.Settings`.

    Override this fixture to change them. By default submissions are PENDING and SENT for a fraction of a second each,
    so tests see every status and finish soon.
    """
    return {"pending_for": 0.2, "sent_for": 0.3}


@pytest.fixture(scope="session")
def rtisms_sandbox_server(rtisms_sandbox_settings: dict[str, Any]) -> Iterator[Sandbox]:
    """Run one sandbox for the whole session. Tests use ``rtisms_sandbox``, which resets it before each test."""
    from airflow_provider_rtisms.sandbox import Sandbox

    with Sandbox(**rtisms_sandbox_settings) as sandbox:
        yield sandbox


@pytest.fixture
def rtisms_sandbox(rtisms_sandbox_server: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Give a test a fresh sandbox. Hooks, operators and sensors with the default Connection id talk to it."""
    rtisms_sandbox_server.reset()
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", rtisms_sandbox_server.connection_json())
    return rtisms_sandbox_server
