from __future__ import annotations

import pytest

from airflow_provider_rtisms.sending import journal


@pytest.fixture(autouse=True)
def few_rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys in little time."""
    if "key_takes_long" not in request.node.name:
        monkeypatch.setattr(journal, "_DERIVATION_ROUNDS", 1)
