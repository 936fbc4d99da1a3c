"""Submissions that the API does not know: each is named, and none is lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtisms.api import retrying as retry
from airflow_provider_rtisms.api.errors import RtiSmsNotFoundError, RtiSmsServerError
from airflow_provider_rtisms.bulk.fetch import Part
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from tests.unit.bulk.conftest import seeded

pytestmark = [pytest.mark.slow, pytest.mark.outer_minors]

UNKNOWN = [str(number) for number in range(101, 126)]
IDS = [*UNKNOWN, *seeded(20)]


def rows_in(path: Path) -> list[list[str]]:
    """Return the rows of a file of missing ids, without a header."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    if ".csv" in path.name:
        header, *rows = csv.reader(io.StringIO(text))
        assert header == ["submission_id", "reason"]
        return rows
    if ".jsonl" in path.name:
        records = [json.loads(line) for line in text.splitlines()]
        assert all(list(record) == ["submission_id", "reason"] for record in records)
        return [list(record.values()) for record in records]
    return [[line] for line in text.splitlines()]


@pytest.mark.parametrize("name", ["m.txt", "m", "m.lst", "m.csv", "m.jsonl", "m.txt.gz", "m.csv.gz", "m.jsonl.gz"])
@pytest.mark.parametrize("output", [None, "details.jsonl"])
def test_skipped_ids_are_in_a_file(hook: RtiSmsHook, tmp_path: Path, name: str, output: str | None) -> None:
    path = tmp_path / "new" / name
    hook.bulk_get_sms(IDS, output_path=tmp_path / output if output else None, on_missing="skip", missing_path=str(path))
    rows = rows_in(path)
    assert sorted(row[0] for row in rows) == UNKNOWN
    assert all("404" in row[1] for row in rows if len(row) > 1)
    assert {len(row) for row in rows} == {2 if re.search("csv|jsonl", name) else 1}


@pytest.mark.parametrize("output", [None, "details.jsonl"])
def test_a_fetch_that_fails_for_them_writes_the_file_first(
    hook: RtiSmsHook, tmp_path: Path, output: str | None
) -> None:
    path = tmp_path / "missing.csv"
    with pytest.raises(RtiSmsNotFoundError, match=rf"25 of 45 .* and 15 more\. All of them are in {path}\. "):
        hook.bulk_get_sms(IDS, output_path=tmp_path / output if output else None, missing_path=path)
    assert sorted(row[0] for row in rows_in(path)) == UNKNOWN


def test_without_missing_ids_the_file_is_empty(hook: RtiSmsHook, tmp_path: Path) -> None:
    path = tmp_path / "missing.csv"
    path.write_text("yesterday's")
    summary: Any = hook.bulk_get_sms(seeded(3), output_path=tmp_path / "details.jsonl", missing_path=path)
    assert rows_in(path) == []
    assert summary["missing_ids"] == []


def test_an_incomplete_fetch_leaves_the_file_alone(
    hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BACKOFF_BASE", 0.001)
    sandbox.set_faults(Fault("error", times=5, statuses=(503,), path="sms"))
    path = tmp_path / "missing.txt"
    path.write_text("yesterday's")
    with pytest.raises(RtiSmsServerError):
        hook.bulk_get_sms(IDS, output_path=tmp_path / "details.jsonl", missing_path=path, max_concurrency=1)
    assert path.read_text() == "yesterday's"


class TestBeforeTheFirstRequest:
    @pytest.mark.parametrize("field", ["output_path", "missing_path"])
    @pytest.mark.parametrize("name", ["file/x.jsonl", "folder.jsonl", "/proc/x.jsonl", "x" * 300 + ".jsonl"])
    def test_a_file_that_cannot_be_written_is_found_out(
        self, hook: RtiSmsHook, sandbox: Sandbox, tmp_path: Path, name: str, field: str
    ) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "folder.jsonl").mkdir()
        paths: dict[str, Any] = {"output_path": tmp_path / "details.jsonl", field: tmp_path / name}
        with pytest.raises(RtiSmsStorageError, match=r"^Writing /.* failed \("):
            hook.bulk_get_sms(IDS, **paths)
        assert not sandbox.state().requests


def test_a_part_file_that_someone_changed_is_found_out(
    hook: RtiSmsHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = Part.lines
    monkeypatch.setattr(Part, "lines", lambda part: list(lines(part))[1:])
    with pytest.raises(RtiSmsStorageUnavailableError, match=r"\.part holds 9 records, but 10 were fetched"):
        hook.bulk_get_sms(seeded(10), output_path=tmp_path / "details.jsonl")
    assert not (tmp_path / "details.jsonl").exists()
