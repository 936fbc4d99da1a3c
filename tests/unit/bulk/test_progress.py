"""The lines of progress: one every few seconds, in every phase of a bulk fetch."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_rtisms.api.errors import RtiSmsNotFoundError
from airflow_provider_rtisms.bulk import formats, progress
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.object_store import ObjectStore
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from tests.unit.bulk.conftest import seeded

PROGRESS_EVERY = progress.PROGRESS_EVERY  # before the fixture changes it


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Log progress so often that a short test sees it."""
    monkeypatch.setattr(progress, "PROGRESS_EVERY", 0.05)
    caplog.set_level(logging.INFO)


def slowly(items: Any, pause: float = 0.01) -> Iterator[Any]:
    for item in items:
        time.sleep(pause)
        yield item


def test_while_ids_are_read(caplog: pytest.LogCaptureFixture) -> None:
    DistinctIds(slowly(map(str, range(30)))).close()
    assert any(re.fullmatch(r"Reading submission ids: \d+ so far, \d+ a second", line) for line in caplog.messages)
    seen = len(caplog.messages)
    time.sleep(0.2)
    assert len(caplog.messages) == seen  # it ends with the reading


@pytest.mark.parametrize("to_file", [True, False])
def test_while_submissions_are_fetched(
    hook: RtiSmsHook, sandbox: Sandbox, caplog: pytest.LogCaptureFixture, tmp_path: Path, to_file: bool
) -> None:
    sandbox.set_faults(Fault("latency", seconds=0.05, path="sms"))
    hook.bulk_get_sms(seeded(200), output_path=tmp_path / "details.jsonl" if to_file else None)
    assert any("of 200 submissions done" in line and "s left" in line for line in caplog.messages)


def test_while_the_file_is_written(
    hook: RtiSmsHook, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(formats._CONVERTERS, ".jsonl", lambda columns, lines, file: file.writelines(slowly(lines)))
    path = tmp_path / "details.jsonl"
    hook.bulk_get_sms(seeded(30), output_path=path)
    wanted = rf"Writing {path}: \d+ of 30 records converted, \d+ a second"
    assert any(re.fullmatch(wanted, line) for line in caplog.messages)


def test_while_a_store_takes_its_time(
    hook: RtiSmsHook, bucket: ObjectStoragePath, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RtiSmsNotFoundError):
        hook.bulk_get_sms([*seeded(3), "1"], output_path=bucket / "details.jsonl")
    repeat = ObjectStore._repeat

    def repeat_slowly(store: ObjectStore, action: str, operation: Any, attempts: int | None = None) -> Any:
        time.sleep(0.15)
        return repeat(store, action, operation, attempts)

    monkeypatch.setattr(ObjectStore, "_repeat", repeat_slowly)
    hook.bulk_get_sms([*seeded(3), "1"], output_path=bucket / "details.jsonl", on_missing="skip")
    assert any(re.match(r"Looking for records of an earlier attempt: \d so far", line) for line in caplog.messages)
    assert any("all 3 records are converted, saving them" in line for line in caplog.messages)


def test_a_counter_knows_how_fast_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    counter = progress.Counter()
    counter.count += 5000
    assert (str(counter), counter.per_second) == ("5,000", "5,000,000 a second")  # no time has passed
    clock.now += 2
    assert counter.per_second == "2,500 a second"


def test_lines_of_progress_come_from_one_thread_that_ends_with_the_block() -> None:
    asked = threading.Event()

    def describe() -> str:
        (thread,) = [one for one in threading.enumerate() if one.name == "rtisms-progress"]
        assert thread is threading.current_thread()
        assert thread.daemon
        asked.set()
        return "working"

    with progress.Progress(describe):
        assert asked.wait(10)
    assert "rtisms-progress" not in [one.name for one in threading.enumerate()]


def test_a_line_comes_every_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PROGRESS_EVERY", PROGRESS_EVERY)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) > 1

    lines = progress.Progress(lambda: "working")
    monkeypatch.setattr(lines, "_is_over", SimpleNamespace(wait=wait))
    lines._run()
    assert waits == [5.0, 5.0]
