"""The context of attempts of one task on Airflow 3.3, without Airflow."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_rtisms.sending.journal import MemoryStore


class TaskStore(MemoryStore):
    """Airflow's task state store as far as it is used here; the system tests use the real one."""

    writes = 0

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, default)

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        self.writes += 1
        super().set(key, value)


class AssetStore(dict[str, Any]):
    """Airflow's asset state store as far as it is used here."""

    writes = 0

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.writes += 1
        self[key] = value


class Pushes:
    """What a task knows of itself, and what it pushes to XCom."""

    def __init__(self, run_id: str = "monday", map_index: int = -1) -> None:
        self.dag_id, self.task_id, self.run_id, self.map_index = "campaign", "send", run_id, map_index
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, *, task_ids: str, key: str, map_indexes: int) -> Any:
        return self.pushed.get(key) if (task_ids, map_indexes) == (self.task_id, self.map_index) else None


@pytest.fixture
def context(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The context of an attempt on Airflow 3.3."""
    pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="Airflow 3.3 and later")
    return {"ti": Pushes(), "task_state_store": TaskStore()}
