"""What operators write into the asset events of their outlets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Asset, AssetAlias, TaskDeferred
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator, RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.waiting import WaitEvent
from tests.unit.attempts import Pushes

if AIRFLOW_V_3_0_PLUS:
    from airflow.sdk.execution_time.context import OutletEventAccessors
else:
    from airflow.utils.context import OutletEventAccessors  # type: ignore[no-redef,attr-defined,unused-ignore]

KNOWN = ["4193366853543001", "4193366853543393"]
UNKNOWN = "1234567890123"
NUMBERS = [f"+569000001{position:02}" for position in range(4)]
OUTLET = Asset("s3://warehouse/day")
COUNTS = {
    **{"requested": 3, "fetched": 2, "missing": 1, "duplicates": 1, "cost": 2},
    **{"by_status": {"REJECTED": 1, "DELIVERED": 1}, "by_operator": {"Entel Pcs": 1, "Movistar": 1}},
}
ALL_SUBMITTED = {"messages": 4, "submitted": 4, "refused": 0, "uncertain": 0, "not_sent": 0, "excluded": 0}


class Attempt:
    """The context of a task, as far as these operators use it."""

    def __init__(self) -> None:
        self.context: Any = {"ti": Pushes()}
        self.resume()

    def resume(self) -> None:
        """Forget what Airflow forgets when a task is deferred."""
        self.events: Any = OutletEventAccessors()
        self.context["outlet_events"] = self.events

    @property
    def extra(self) -> Any:
        return self.events[OUTLET].extra


@pytest.fixture
def attempt() -> Attempt:
    return Attempt()


def fetch(attempt: Attempt, **arguments: Any) -> None:
    ids = [*KNOWN, UNKNOWN, KNOWN[0]]
    defaults = {"task_id": "bulk", "submission_ids": ids, "on_missing": "skip", "outlets": [OUTLET]}
    RtiSmsBulkGetDetailsOperator(**{**defaults, **arguments}).execute(attempt.context)


def finished(submission_ids: list[str]) -> dict[str, Any]:
    """Return the event of a wait that is over."""
    records = [RtiSmsHook().get_sms(one).to_record() for one in submission_ids]
    return WaitEvent("finished", found={"records": records}).to_payload()


class TestBulkFetch:
    def test_the_event_has_counts_and_neither_ids_nor_paths(
        self, rtisms_sandbox: Sandbox, attempt: Attempt, tmp_path: Path
    ) -> None:
        output = tmp_path / "details.jsonl"
        fetch(attempt, output_path=str(output), missing_path=str(tmp_path / "missing.txt"))
        assert attempt.extra == {**COUNTS, "bytes": output.stat().st_size}

    def test_what_a_dag_author_has_added_stays(self, rtisms_sandbox: Sandbox, attempt: Attempt) -> None:
        attempt.events[OUTLET].extra = {"cost": "mine", "day": "2026-11-25"}
        fetch(attempt)
        assert attempt.extra == {**COUNTS, "cost": "mine", "day": "2026-11-25"}

    def test_an_alias_gets_an_event_for_the_file(
        self, rtisms_sandbox: Sandbox, attempt: Attempt, tmp_path: Path
    ) -> None:
        alias = AssetAlias("details")
        fetch(attempt, output_path=str(tmp_path / "details.jsonl"), outlets=[alias])
        event = attempt.events[alias]
        if AIRFLOW_V_3_0_PLUS:
            (added,) = event.asset_alias_events
            uri, extra = added.dest_asset_key.uri, added.extra
        else:
            (added,) = event.dataset_alias_events
            uri, extra = added["dest_dataset_uri"], added["extra"]
        assert uri == f"file://{tmp_path}/details.jsonl"
        assert extra == {**COUNTS, "bytes": (tmp_path / "details.jsonl").stat().st_size}

    def test_an_outlet_that_has_no_event_is_left_alone(self, rtisms_sandbox: Sandbox, attempt: Attempt) -> None:
        fetch(attempt, outlets=[SimpleNamespace(url="s3://bucket/x"), OUTLET, AssetAlias("nothing is written")])
        assert attempt.extra == COUNTS
        assert len(attempt.events) == 1

    def test_an_event_that_refuses_the_counts_does_not_fail_the_task(
        self, rtisms_sandbox: Sandbox, attempt: Attempt, caplog: pytest.LogCaptureFixture
    ) -> None:
        attempt.context["outlet_events"] = {}
        fetch(attempt)
        assert "The counts could not be added to the event of the outlet" in caplog.text


def send(**arguments: Any) -> RtiSmsSendOperator:
    sms = {"recipients": NUMBERS, "text": "hola", "sender": "96000"}
    return RtiSmsSendOperator(task_id="send", outlets=[OUTLET], fail_on=(), **sms, **arguments)


class TestSend:
    @pytest.mark.parametrize("output", [None, "results.csv"])
    def test_the_event_counts_the_messages_by_outcome_and_the_counts_survive_a_deferral(
        self, rtisms_sandbox: Sandbox, attempt: Attempt, tmp_path: Path, output: str | None
    ) -> None:
        path = output and str(tmp_path / output)
        send(output_path=path).execute(attempt.context)
        assert attempt.extra == ALL_SUBMITTED
        attempt.resume()
        task = send(output_path=path, wait_for_delivery=True, deferrable=True)
        with pytest.raises(TaskDeferred):
            task.execute(attempt.context)
        attempt.resume()
        task.execute_complete(attempt.context, finished(KNOWN))
        assert attempt.extra == ALL_SUBMITTED

    def test_nothing_is_added_where_nothing_was_kept(self, rtisms_sandbox: Sandbox, attempt: Attempt) -> None:
        send().execute_complete(attempt.context, finished(KNOWN))
        assert attempt.extra == {}
