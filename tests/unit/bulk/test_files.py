"""The files of a bulk fetch: ids in, records out, here and in object stores."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_rtisms.api.errors import (
    RtiSmsInputError,
    RtiSmsNotFoundError,
)
from airflow_provider_rtisms.bulk import object_target
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.id_files import read_id_file
from airflow_provider_rtisms.bulk.records import COLUMNS
from airflow_provider_rtisms.bulk.storage import storage_path
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError, RtiSmsStorageUnavailableError
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


class TestIdFile:
    def test_one_id_per_line(self, tmp_path: Path) -> None:
        path = tmp_path / "ids.txt"
        path.write_bytes(b"\xef\xbb\xbf4193366853543393\r\n\n  0007 \n8")
        assert list(read_id_file(str(path))) == ["4193366853543393", "7", "8"]

    def test_column_of_a_packed_csv(self, tmp_path: Path) -> None:
        path = tmp_path / "sent.csv.gz"
        path.write_bytes(gzip.compress(b'day,id\n1,11\n"2\n",12\n3,\n'))
        assert list(read_id_file(path, "id")) == ["11", "12"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("jueves,id\n1,11\n", "The first line of sent.csv has 2 columns, but none is named 'submission'. Check"),
            ("jueves;id\n1;11\n", "has 1 column, but .* separated by commas"),
            ("", "sent.csv is empty"),
            ("4193366853543393,+56912345678\n", "has 2 columns, but .* seems to have no header line"),
        ],
    )
    def test_a_missing_column_is_explained_without_repeating_the_file(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        path = tmp_path / "sent.csv"
        path.write_text(text)
        with pytest.raises(RtiSmsInputError, match=message) as caught:
            list(read_id_file(path, "submission"))
        assert "jueves" not in str(caught.value)
        assert "345678" not in str(caught.value)

    @pytest.mark.parametrize(
        ("rows", "line"),
        [
            ('11,"a"\n12,"b\n13,c\n14,d\n', 3),  # the quote of line 3 never ends
            ('"11,a\n12,b\n"13,c\n', 2),
            ('11,a\n"1"2,b\n', 3),
        ],
    )
    def test_a_broken_quote_is_refused_and_swallows_no_lines(self, tmp_path: Path, rows: str, line: int) -> None:
        path = tmp_path / "sent.csv"
        path.write_text(f"id,day\n{rows}")
        with pytest.raises(RtiSmsInputError, match=rf"^sent\.csv .*line {line}\b"):
            list(read_id_file(path, "id"))

    @pytest.mark.parametrize("line", [b"12a", b"1.5e9", b"-1", b"\xff"])
    def test_a_malformed_id_is_refused(self, tmp_path: Path, line: bytes) -> None:
        path = tmp_path / "ids.txt"
        path.write_bytes(b"1\n" + line)
        with pytest.raises(RtiSmsInputError, match=r"ids\.txt"):
            list(read_id_file(path))


class TestUnreadableIdFile:
    @pytest.mark.parametrize(
        "damage",
        [
            lambda packed: packed[: len(packed) // 2],
            lambda packed: b"\x1f\x8b" + packed,
            lambda packed: packed[:50] + b"\xff" * 50 + packed[100:],
            lambda packed: packed[:-8] + bytes(8),
        ],
        ids=["truncated", "bad header", "bad data", "bad checksum"],
    )
    def test_a_damaged_gz_is_not_retried(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        path = tmp_path / "ids.txt.gz"
        path.write_bytes(damage(gzip.compress("\n".join(map(str, range(10_000))).encode())))
        with pytest.raises(RtiSmsInputError, match=r"^ids\.txt\.gz is a damaged gzip file .*Make it again"):
            list(read_id_file(path))

    def test_a_missing_file_is_not_retried(self, tmp_path: Path) -> None:
        with pytest.raises(
            RtiSmsStorageError, match=r"^Reading /.*/ids\.txt \(submission_ids_path\) failed .*the path"
        ):
            list(read_id_file(tmp_path / "ids.txt"))

    def test_a_missing_provider_is_named(self) -> None:
        with pytest.raises(RtiSmsStorageError, match="apache-airflow-providers-google"):
            list(read_id_file("gs://bucket/ids.txt"))

    def test_a_scheme_that_nobody_knows_is_refused(self) -> None:
        with pytest.raises(RtiSmsStorageError, match="Install the Airflow provider for this scheme"):
            list(read_id_file("nosuch://bucket/ids.txt"))

    def test_a_file_that_vanishes_from_a_store_is_explained(self, bucket: ObjectStoragePath) -> None:
        with pytest.raises(RtiSmsStorageError, match=r"Reading memory:.*ids\.txt .*FileNotFoundError"):
            list(read_id_file(bucket / "ids.txt"))


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


@pytest.mark.parametrize("value", ["None", " None "])
def test_a_path_that_a_template_left_empty_is_explained(value: str) -> None:
    with pytest.raises(RtiSmsInputError, match=r'output_path is the word "None".* returned nothing'):
        storage_path("output_path", value)


@pytest.mark.parametrize("value", [None, "", 7, b"x"])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="output_path"):
        storage_path("output_path", value)
