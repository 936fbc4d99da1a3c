"""The files of a bulk fetch: ids in, records out, here and in object stores."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_rtisms.api.errors import (
    RtiSmsNotFoundError,
)
from airflow_provider_rtisms.bulk import object_target
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.id_files import read_id_file
from airflow_provider_rtisms.bulk.records import COLUMNS
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageUnavailableError
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from tests.unit.bulk.conftest import attach, seeded


def read_back(path: Path) -> list[dict[str, Any]]:
    """Read records with the readers that people use."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_table(path).to_pylist())
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text)) if ".csv" in path.name else [json.loads(line) for line in text]


class TestFormats:
    @pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
    def test_each_holds_all_columns_of_all_records(self, hook: RtiSmsHook, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"details{suffix}"
        began = datetime.now(UTC).replace(microsecond=0)
        hook.bulk_get_sms(seeded(25), output_path=f"file://{path}")
        records = sorted(read_back(path), key=lambda record: record["submission_id"])
        assert [record["submission_id"] for record in records] == seeded(25)
        assert all(tuple(record) == COLUMNS for record in records)
        assert records[0]["operator_mcc"] == "730"
        assert str(records[0]["done_at"]).startswith("2020-09-17")
        assert str(records[0]["is_final"]).lower() == "true"
        assert datetime.fromisoformat(str(records[0]["fetched_at"])) >= began

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
    def test_no_ids_make_a_file_without_records(self, hook: RtiSmsHook, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"details{suffix}"
        hook.bulk_get_sms([], output_path=path)
        assert read_back(path) == []


class TestObjectStore:
    def test_the_object_appears_and_nothing_else_stays(self, hook: RtiSmsHook, bucket: ObjectStoragePath) -> None:
        path = bucket / "details.csv.gz"
        hook.bulk_get_sms(seeded(30), output_path=path)
        assert [one.name for one in bucket.iterdir()] == ["details.csv.gz"]
        with path.open("rb") as raw:
            assert len(gzip.decompress(raw.read()).splitlines()) == 31

    def test_a_later_attempt_reads_back_what_was_uploaded(
        self, hook: RtiSmsHook, bucket: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(object_target, "UPLOAD_EVERY", 0.0)  # many numbered objects
        ids = ["1", *seeded(100)]
        path = str(bucket / "details.jsonl")
        with pytest.raises(RtiSmsNotFoundError):
            hook.bulk_get_sms(ids, output_path=path)
        assert not ObjectStoragePath(path).exists()
        summary: Any = hook.bulk_get_sms(ids, output_path=path, on_missing="skip")
        assert summary["resumed"] == 100
        assert [one.name for one in bucket.iterdir()] == ["details.jsonl"]

    def test_a_store_with_folders_renames_a_staging_file(
        self, hook: RtiSmsHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SFTP and HDFS are such stores; this one is a folder of this machine."""
        renamed = []

        class FolderStore(LocalFileSystem):
            def mv(self, path1: str, path2: str, **options: Any) -> None:
                renamed.append((path1, path2))
                super().mv(path1, path2, **options)

        attach(protocol="sftp", fs=FolderStore(skip_instance_cache=True))
        key = f"{tmp_path}/new/details.jsonl"
        hook.bulk_get_sms(seeded(3), output_path=f"sftp://{key}")
        assert renamed == [(f"{key}.staging", key)]
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["details.jsonl"]

    def test_ids_are_read_from_it(self, bucket: ObjectStoragePath) -> None:
        path = bucket / "ids.txt"
        path.write_text("1\n2\n")
        assert list(read_id_file(str(path))) == ["1", "2"]


def test_a_full_folder_for_temporary_files_is_explained(tmp_path: Path) -> None:
    """SQLite meets the limit on the size of files, which stands for the size of the disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(RtiSmsStorageUnavailableError, match=r"^Keeping the submission ids .* SQLITE_TMPDIR"):
            DistinctIds(map(str, range(10**15, 10**15 + 500_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
