"""What a fetch takes over of an earlier attempt: final records of its DAG run, as only this package writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ObjectStoragePath

from airflow_provider_rtisms.api.errors import RtiSmsNotFoundError
from airflow_provider_rtisms.bulk import store
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook, run_of
from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator
from airflow_provider_rtisms.sandbox import Sandbox
from tests.unit.bulk.conftest import seeded

try:
    from airflow.sdk.execution_time.context import set_current_context
except ImportError:  # Airflow 2
    from airflow.models.taskinstance import set_current_context  # type: ignore[no-redef,attr-defined,unused-ignore]

UNKNOWN = "1"
PLACES = ["local", "store"]


@pytest.fixture(params=PLACES)
def output(request: pytest.FixtureRequest, tmp_path: Path, bucket: ObjectStoragePath) -> Any:
    """A name for the records: of a local file, then of an object."""
    return (tmp_path / "out" if request.param == "local" else bucket) / "details.jsonl"


@pytest.fixture(autouse=True)
def other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that gives the next attempt an empty folder for temporary files."""
    folders = iter(range(100))

    def move() -> None:
        folder = tmp_path / f"machine{next(folders)}"
        folder.mkdir()
        monkeypatch.setattr(store.tempfile, "tempdir", str(folder))

    move()
    return move


def context_of(run_id: str | None, dag_id: str = "nightly") -> Any:
    if run_id is None:
        return {}
    return {"run_id": run_id, "ti": SimpleNamespace(dag_id=dag_id, run_id=run_id, try_number=1)}


def fetch(ids: list[str], output: Any, context: Any, on_missing: str = "skip") -> dict[str, Any]:
    operator = RtiSmsBulkGetDetailsOperator(
        task_id="bulk",
        submission_ids=ids,
        output_path=output,
        on_missing=on_missing,  # type: ignore[arg-type]
    )
    return operator.execute(context)  # type: ignore[return-value]


def fail(ids: list[str], output: Any, context: Any) -> None:
    """Let an attempt end with all records but one, which keeps them in a part."""
    with pytest.raises(AirflowFailException, match="are kept in"):
        fetch([*ids, UNKNOWN], output, context, "fail")


def statuses(output: Any) -> list[str]:
    with output.open("rb") as file:
        return sorted(json.loads(line)["status"] for line in file.read().splitlines())


def names_beside(output: Any) -> list[str]:
    return sorted(one.name for one in output.parent.iterdir())


@pytest.mark.parametrize("place", ["same machine", "other machine"])
class TestRuns:
    def test_another_run_asks_for_all_and_leaves_nothing_of_the_first(
        self, sandbox: Sandbox, output: Any, other_machine: Callable[[], None], place: str
    ) -> None:
        fail(seeded(3), output, context_of("scheduled__1"))
        if place == "other machine":
            other_machine()
        sandbox.reset(seed=5000)
        summary = fetch([*seeded(3), UNKNOWN], output, context_of("scheduled__2"))
        assert (summary["resumed"], summary["fetched"]) == (0, 3)
        assert len(sandbox.state().requests_by_id) == 4
        assert names_beside(output) == ["details.jsonl"]

    def test_the_same_run_asks_for_the_rest(
        self, sandbox: Sandbox, output: Any, other_machine: Callable[[], None], place: str
    ) -> None:
        fail(seeded(3), output, context_of("scheduled__1"))
        if place == "other machine":
            other_machine()
        summary = fetch([*seeded(3), UNKNOWN], output, context_of("scheduled__1"))
        assert (summary["resumed"], summary["cost"], summary["by_status"]) == (3, 3, {"DELIVERED": 3})
        assert names_beside(output) == ["details.jsonl"]

    def test_what_was_not_final_is_asked_again_in_the_same_run(
        self, sandbox: Sandbox, output: Any, other_machine: Callable[[], None], place: str
    ) -> None:
        open_id = sandbox.add_submission("SENT")
        ids = [*seeded(2), open_id]
        fail(ids, output, context_of("scheduled__1"))
        if place == "other machine":
            other_machine()
        sandbox.reset(seed=5000)
        sandbox.add_submission("EXPIRED", submission_id=open_id, pending_for=0, sent_for=0)
        summary = fetch([*ids, UNKNOWN], output, context_of("scheduled__1"))
        assert (summary["resumed"], summary["fetched"]) == (2, 3)
        assert statuses(output) == ["DELIVERED", "DELIVERED", "EXPIRED"]
        assert set(sandbox.state().requests_by_id) == {open_id, UNKNOWN}


@pytest.mark.parametrize(
    ("first", "second", "resumed"), [(None, "r1", 3), ("r1", None, 0), (None, None, 3), ("r1", "r1 of another DAG", 0)]
)
def test_a_part_without_a_run_is_used_and_one_of_a_run_only_in_that_run(
    sandbox: Sandbox, output: Any, first: str | None, second: str | None, resumed: int
) -> None:
    """Without a run: from outside of a task, or from an older release."""
    fail(seeded(3), output, context_of(first))
    run_id, of_another, _ = (second or "").partition(" of another DAG")
    context = context_of(run_id or None, "another" if of_another else "nightly")
    assert fetch([*seeded(3), UNKNOWN], output, context)["resumed"] == resumed


@pytest.mark.parametrize(("age", "resumed"), [(timedelta(hours=23), 3), (timedelta(hours=25), 0)])
def test_a_record_is_used_for_a_day(hook: RtiSmsHook, tmp_path: Path, age: timedelta, resumed: int) -> None:
    output = tmp_path / "out" / "details.jsonl"
    with pytest.raises(RtiSmsNotFoundError):
        hook.bulk_get_sms([*seeded(3), UNKNOWN], output_path=output)
    (part,) = output.parent.iterdir()
    header, *lines = [json.loads(line) for line in part.read_bytes().splitlines()]
    fetched_at = (datetime.now(UTC) - age).isoformat(timespec="seconds")
    changed = [header, *(line | {"fetched_at": fetched_at} for line in lines)]
    part.write_text("".join(json.dumps(one) + "\n" for one in changed))
    summary: Any = hook.bulk_get_sms([*seeded(3), UNKNOWN], output_path=output, on_missing="skip")
    assert summary["resumed"] == resumed
    times = {json.loads(line)["fetched_at"] for line in output.read_bytes().splitlines()}
    assert (times == {fetched_at}) == bool(resumed)


def test_the_hook_in_a_task_goes_by_its_dag_run(hook: RtiSmsHook, output: Any) -> None:
    def fetch_in(run_id: str) -> Any:
        with set_current_context(context_of(run_id)):
            return hook.bulk_get_sms([*seeded(3), UNKNOWN], output_path=output, on_missing="skip")["resumed"]

    with set_current_context(context_of("r1")), pytest.raises(RtiSmsNotFoundError):
        hook.bulk_get_sms([*seeded(3), UNKNOWN], output_path=output)
    assert fetch_in("r2") == 0
    with set_current_context(context_of("r3")), pytest.raises(RtiSmsNotFoundError):
        hook.bulk_get_sms([*seeded(3), UNKNOWN], output_path=output)
    assert fetch_in("r3") == 3


def test_a_run_is_known_by_its_dag_and_its_id() -> None:
    run = SimpleNamespace(dag_id="d", run_id="r")
    assert run_of({"ti": run}) == run_of({"dag_run": run}) == run_of({"run_id": "r", "dag_run": run}) == "d\nr"
    assert run_of({"ti": SimpleNamespace(try_number=2)}) is None
    assert run_of({}) is None
    assert run_of() is None


def forge(output: Any, changes: list[dict[str, Any]]) -> None:
    """Replace the records of the parts, as anybody can who may write there."""
    (folder,) = [one for one in output.parent.iterdir() if one.name.endswith(".part")]
    for part in [folder] if folder.is_file() else list(folder.iterdir()):
        with part.open("rb") as file:
            header, *lines = file.read().splitlines(keepends=True)
        forged = [json.loads(line) | change for line, change in zip(lines, changes, strict=False)]
        with part.open("wb") as file:
            file.write(header + "".join(json.dumps(one) + "\n" for one in forged).encode())


@pytest.mark.parametrize(
    "change",
    [{"submission_id": "../../etc/passwd"}, {"status": "SENT", "is_final": True}, {"cost": 1e300}, {"shoe_size": 43}],
    ids=repr,
)
def test_what_no_response_gives_is_asked_again(
    sandbox: Sandbox, output: Any, other_machine: Callable[[], None], change: dict[str, Any]
) -> None:
    fail(seeded(3), output, context_of("r1"))
    forge(output, [change, {}, change])
    other_machine()
    sandbox.reset(seed=5000)
    summary = fetch([*seeded(3), UNKNOWN], output, context_of("r1"))
    assert (summary["resumed"], summary["fetched"], summary["by_status"]) == (1, 3, {"DELIVERED": 3})
    assert len(sandbox.state().requests_by_id) == 3
    with output.open("rb") as file:
        records = [json.loads(line) for line in file.read().splitlines()]
    assert sorted(record["submission_id"] for record in records) == seeded(3)
    assert not [record for record in records if change.items() <= record.items()]
