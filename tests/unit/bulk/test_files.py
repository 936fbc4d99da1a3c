"""The files of a bulk fetch: ids in, records out, here and in object stores."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_rtisms.bulk.formats import COLUMNS
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
