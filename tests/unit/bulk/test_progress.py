"""The lines of progress: one every few seconds, in every phase of a bulk fetch."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from airflow_provider_rtisms.bulk import fetch
from airflow_provider_rtisms.bulk.fetch import DistinctIds
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from tests import hostile
from tests.hostile import Exchange, details
from tests.patience import wait_until
from tests.unit.bulk.conftest import seeded
from tests.unit.conftest import Serve

pytestmark = pytest.mark.outer_minors

Logged: TypeAlias = Callable[[str], bool]

PROGRESS_EVERY = fetch.PROGRESS_EVERY  # before the fixture changes it


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Log progress so often that a short test sees it."""
    monkeypatch.setattr(fetch, "PROGRESS_EVERY", 0.05)
    caplog.set_level(logging.INFO)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """Tell whether a line has been logged: ``logged(pattern)``."""
    return lambda pattern: any(re.fullmatch(pattern, line) for line in caplog.messages)


def until(condition: Callable[[], bool], items: Iterable[Any]) -> Iterator[Any]:
    """Yield all items, and wait for a condition on the way."""
    for number, item in enumerate(items):
        if number == 20:
            wait_until(condition, "a line of progress")
        yield item


def is_logging() -> bool:
    return "rtisms-progress" in [one.name for one in threading.enumerate()]


def test_while_ids_are_read(logged: Logged) -> None:
    line = r"Reading submission ids: \d+ so far, \d+ a second"
    DistinctIds(until(lambda: logged(line), map(str, range(30))))
    assert logged(line)
    assert not is_logging()  # it ends with the reading


@pytest.mark.parametrize("to_file", [True, False])
def test_while_submissions_are_fetched(serve_default: Serve, logged: Logged, tmp_path: Path, to_file: bool) -> None:
    async def respond(exchange: Exchange) -> None:
        if len(server.calls) > 100:
            await hostile.until(lambda: logged(".* of 200 submissions done.* s left.*"))
        await details()(exchange)

    server = serve_default(respond)
    RtiSmsHook().bulk_get_sms(seeded(200), output_path=tmp_path / "details.jsonl" if to_file else None)
    assert logged(".* of 200 submissions done.* s left.*")


def test_while_the_file_is_written(
    hook: RtiSmsHook, tmp_path: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "details.jsonl"
    line = rf"Writing {path}: \d+ of 30 records converted, \d+ a second"

    def convert(lines: Any, file: Any) -> None:
        file.writelines(until(lambda: logged(line), lines))

    monkeypatch.setattr(fetch, "converter", lambda *_: convert)
    hook.bulk_get_sms(seeded(30), output_path=path)
    assert logged(line)
