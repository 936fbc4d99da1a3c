"""A bulk fetch into a file of this machine: what lies beside it, and when it goes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pytest

from airflow_provider_rtisms.bulk.formats import Convert
from airflow_provider_rtisms.bulk.records import COLUMNS
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError
from airflow_provider_rtisms.bulk.target import LocalTarget, open_target
from tests.unit.bulk.conftest import count_descriptors
from tests.unit.bulk.test_formats import line, record

pytestmark = pytest.mark.outer_minors


def write_lines(lines: Iterable[bytes], file: IO[bytes]) -> None:
    file.writelines(lines)


def open_local(folder: Path, convert: Convert = write_lines) -> LocalTarget:
    target = open_target(folder / "details.jsonl", "d1", convert, COLUMNS)
    assert isinstance(target, LocalTarget)
    return target


def test_the_part_lies_beside_the_file_and_is_named_after_the_ids(tmp_path: Path) -> None:
    before = count_descriptors()
    target = open_local(tmp_path)
    target.probe()
    assert target.kept_at == str(tmp_path / "details.jsonl.d1.part")
    assert list(tmp_path.iterdir()) == [tmp_path / "details.jsonl.d1.part"]
    target.close()
    assert count_descriptors() == before


def test_an_attempt_goes_on_from_the_part_and_its_commit_removes_it(tmp_path: Path) -> None:
    first = open_local(tmp_path)
    first.part.append([record(), record()])
    first.save()
    first.close()
    second, found = open_local(tmp_path), []
    second.resume(lambda one: not found and not found.append(one))  # type: ignore[func-returns-value]
    assert found == [record()]
    assert second.is_due() is False
    second.commit(second.part.lines())
    second.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "details.jsonl"]
    assert (tmp_path / "details.jsonl").read_bytes() == line()


def test_a_commit_that_fails_keeps_the_part(tmp_path: Path) -> None:
    target = open_local(tmp_path)
    (tmp_path / "details.jsonl").mkdir()
    with pytest.raises(RtiSmsStorageError):
        target.probe()
    with pytest.raises(RtiSmsStorageError):
        target.commit([])
    target.close()
    assert {path.name for path in tmp_path.iterdir()} == {"details.jsonl", "details.jsonl.d1.part"}


def test_the_file_is_complete_before_it_has_its_name(tmp_path: Path) -> None:
    names: list[str] = []
    target = open_local(tmp_path, lambda *_: names.extend(path.name for path in tmp_path.iterdir()))
    target.commit([])
    target.close()
    assert sorted(names) == ["details.jsonl.d1.part", "details.jsonl.d1.staging"]
