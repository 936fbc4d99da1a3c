"""``mode="reschedule"``: each poke is a process of its own, and Airflow's task state store connects them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms import waiting
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sending.journal import MemoryStore
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from tests.hostile import details, response
from tests.unit.conftest import Serve


def poke(ids: list[str], context: dict[str, Any], **arguments: Any) -> Any:
    """Poke in a process of its own."""
    arguments = {"mode": "reschedule", "missing_ok_for": 0, **arguments}
    return RtiSmsDeliverySensor(task_id="wait", submission_ids=ids, **arguments).poke(context)  # type: ignore[arg-type]


def test_what_is_final_is_not_asked_again(rtisms_sandbox: Sandbox) -> None:
    done = rtisms_sandbox.add_submission(pending_for=0, sent_for=0)
    waiting = rtisms_sandbox.add_submission("SENT")
    store = MemoryStore()
    for _ in range(3):
        assert not poke([done, waiting], {"task_state_store": store})
    assert rtisms_sandbox.state().requests_by_id == {done: 1, waiting: 3}
    (record,) = store["rtisms_finished"]  # a later release has to find it there
    assert record["submission_id"] == done
    rtisms_sandbox.add_submission(submission_id=waiting, pending_for=0, sent_for=0)
    records = poke([done, waiting], {"task_state_store": store}).xcom_value
    assert [one["submission_id"] for one in records] == [done, waiting]


@pytest.mark.parametrize("most", [1, 2])
def test_few_records_are_stored_and_many_are_not(
    serve_default: Serve, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(waiting, "MAX_RECORDS_IN_DATABASE", most)
    serve_default(details())
    store = MemoryStore()
    assert poke(["1", "2"], {"task_state_store": store})
    assert len(store.get("rtisms_finished", ())) == (2 if most == 2 else 0)


@pytest.mark.parametrize("arguments", [{}, {"mode": "poke"}])
def test_nothing_is_stored_where_nothing_is_final_or_the_process_stays(
    serve_default: Serve, arguments: dict[str, str]
) -> None:
    serve_default(details() if arguments else details("SENT"))
    store = MemoryStore()
    poke(["1"], {"task_state_store": store}, **arguments)
    assert store == {}


def test_stored_records_that_cannot_be_read_are_fetched_again(serve_default: Serve, logged: Callable[[], str]) -> None:
    serve_default(details())
    assert poke(["1"], {"task_state_store": MemoryStore(rtisms_finished=[{"from": "the future"}])})
    assert "the stored records cannot be read: 'records[0]' lacks fields" in logged()


@pytest.mark.parametrize(("mode", "is_said"), [("reschedule", True), ("poke", False)])
def test_an_airflow_without_a_store_polls_all_and_says_so(
    serve_default: Serve, logged: Callable[[], str], caplog: pytest.LogCaptureFixture, mode: str, is_said: bool
) -> None:
    caplog.set_level("INFO")
    serve_default(details())
    assert poke(["1"], {}, mode=mode)
    assert ("Polling all submissions. mode='reschedule' remembers" in logged()) is is_said


@pytest.mark.parametrize(
    ("began", "is_accepted"), [(timedelta(seconds=50), True), (timedelta(seconds=3700), False), (None, True)]
)
@pytest.mark.parametrize("is_airflow_2", [False, True])
def test_an_unknown_id_is_accepted_for_some_time_from_the_first_poke_on(
    serve_default: Serve, began: timedelta | None, is_accepted: bool, is_airflow_2: bool
) -> None:
    """Airflow 2 keeps the first start in ``start_date``, Airflow 3 has a method that asks for it."""
    serve_default(response(status=404))
    first = None if began is None else datetime.now(UTC) - began
    ti = SimpleNamespace(start_date=first)
    if not is_airflow_2:
        ti = SimpleNamespace(get_first_reschedule_date=lambda context: first)
    if is_accepted:
        assert not poke(["1"], {"ti": ti}, missing_ok_for=3600)
        return
    with pytest.raises(AirflowFailException, match="missing_ok_for"):
        poke(["1"], {"ti": ti}, missing_ok_for=3600)
    assert not poke(["1"], {"ti": ti}, missing_ok_for=3600, mode="poke")  # this process has just begun
