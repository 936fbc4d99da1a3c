"""What the unit tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was logged: through logging, and by Airflow 3's operators and notifiers through structlog."""

    def read() -> str:
        return caplog.text + "".join(capsys.readouterr())

    return read
