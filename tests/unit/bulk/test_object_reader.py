"""Files in object stores, read as a stream; faults of a real store are in tests/system/stores."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_rtisms.bulk import object_reader
from airflow_provider_rtisms.bulk.id_files import read_id_file
from tests.unit.bulk.conftest import seeded


@pytest.fixture
def ids(bucket: ObjectStoragePath) -> ObjectStoragePath:
    file = bucket / "ids.txt"
    file.fs.pipe_file(file.path, "\n".join(seeded(100)).encode())
    return file


@pytest.mark.parametrize("size", [1, 16, 17, 1699, 1700, 10_000])
def test_pieces_of_any_size_make_the_file(ids: ObjectStoragePath, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_reader, "PIECE_SIZE", size)
    assert list(read_id_file(ids)) == seeded(100)


def test_a_file_system_that_knows_no_size_is_read_at_once(
    ids: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = type(ids.fs).info

    def info(self: Any, path: str, **options: Any) -> dict[str, Any]:
        return {**known(self, path, **options), "size": None}

    monkeypatch.setattr(type(ids.fs), "info", info)
    assert list(read_id_file(ids)) == seeded(100)


def test_an_empty_file_has_no_ids(bucket: ObjectStoragePath) -> None:
    file = bucket / "empty.txt"
    file.fs.pipe_file(file.path, b"")
    assert list(read_id_file(file)) == []
