"""Hostile servers, and Connections that lead to them. Imports nothing of Airflow, which is not always there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.hostile import HostileServer, Step

Serve = Callable[..., HostileServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a hostile server with a script; see :mod:`tests.hostile`."""
    with ExitStack() as servers:

        def serve(*script: Step, **options: Any) -> HostileServer:
            return servers.enter_context(HostileServer(script, **options))

        yield serve


@pytest.fixture
def serve_default(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Start a hostile server, and let the Connection ``rtisms_default`` lead to it."""

    def serve_default(*script: Step, extra: dict[str, Any] | None = None, **options: Any) -> HostileServer:
        server = serve(*script, **options)
        fields = {"conn_type": "rtisms", "login": "me", "password": "s3cret", "host": server.url, "extra": extra or {}}
        monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps(fields))
        return server

    return serve_default


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the pauses between attempts short."""
    monkeypatch.setattr("airflow_provider_rtisms.api.retrying.BACKOFF_BASE", 0.002)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was logged: through logging, and by Airflow 3's operators and notifiers through structlog."""

    def read() -> str:
        return caplog.text + "".join(capsys.readouterr())

    return read
