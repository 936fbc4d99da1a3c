"""Fixtures for tests of DAGs: a sandbox, and a Connection ``rtisms_default`` that leads to it.

pytest loads this file in every run, so all else is imported when a fixture is first used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow_provider_rtisms.sandbox import Sandbox


@pytest.fixture(scope="session")
def rtisms_sandbox_settings() -> dict[str, Any]:
    """:class:`~airflow_provider_rtisms.sandbox.settings.Settings` of the sandbox, by name; override it for others.

    Submissions are PENDING and SENT for a fraction of a second each: tests see every status, and end soon.
    """
    return {"pending_for": 0.2, "sent_for": 0.3}


@pytest.fixture(scope="session")
def rtisms_sandbox_server(rtisms_sandbox_settings: dict[str, Any]) -> Iterator[Sandbox]:
    """One sandbox for the whole session. Tests use ``rtisms_sandbox``, which is reset for each of them."""
    from airflow_provider_rtisms.sandbox import Sandbox

    with Sandbox(**rtisms_sandbox_settings) as sandbox:
        yield sandbox


@pytest.fixture
def rtisms_sandbox(rtisms_sandbox_server: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A fresh sandbox; hooks, operators and sensors with the default Connection id talk to it."""
    rtisms_sandbox_server.reset()
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", rtisms_sandbox_server.connection_json())
    return rtisms_sandbox_server
