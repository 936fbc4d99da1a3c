"""The file of the ids that the API does not know, byte by byte."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.missing import MissingFile
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError
from tests.unit.bulk.stores import Store, StoredPath

pytestmark = pytest.mark.outer_minors

IDS = b"8\n7\n"
CSV = b'submission_id,reason\n8,HTTP 404\n7,"gone, ""\xc3\xb1"""\n'
JSON = b'{"submission_id": "8", "reason": "HTTP 404"}\n{"submission_id": "7", "reason": "gone, \\"\\u00f1\\""}\n'


def write(path: Path | StoredPath) -> None:
    with DistinctIds("78") as ids:
        ids.add_missing("8", "HTTP 404")
        ids.add_missing("7", 'gone, "ñ"')
        MissingFile(path, "d1").write(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content"),
    [("m.txt", IDS), ("m", IDS), ("m.ids", IDS), ("m.csv", CSV), ("m.jsonl", JSON)],
)
def test_its_name_says_what_it_holds_and_whether_it_is_packed(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path / name)
    write(tmp_path / f"{name}.gz")
    assert (tmp_path / name).read_bytes() == content
    assert gzip.decompress((tmp_path / f"{name}.gz").read_bytes()) == content
    assert sorted(tmp_path.iterdir()) == [tmp_path / name, tmp_path / f"{name}.gz"]


def test_parquet_is_refused_with_the_end_of_the_name(tmp_path: Path) -> None:
    for name in ("m.parquet", "m.parquet.gz"):
        with pytest.raises(RtiSmsInputError, match=rf"^missing_path ends in '{name}': use \.txt, \.csv or \.jsonl\.$"):
            MissingFile(tmp_path / name, "d1")
    with pytest.raises(RtiSmsInputError, match=r"ends in 'x{12}\.parquet'"):
        MissingFile(tmp_path / ("x" * 100 + ".parquet"), "d1")


def test_it_may_be_an_object() -> None:
    fs = Store()
    write(StoredPath(fs))
    assert fs.objects == {"bucket/day/details.jsonl": JSON}
    assert fs.called("pipe_file") == ["bucket/day/details.jsonl.d1.probe"]


def test_one_that_cannot_be_written_is_found_out_when_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "m.txt").mkdir()
    with pytest.raises(RtiSmsStorageError, match=rf"^Writing {tmp_path}/m\.txt failed"):
        MissingFile(tmp_path / "m.txt", "d1")


def test_its_staging_file_is_named_after_the_ids(tmp_path: Path) -> None:
    with DistinctIds("7") as ids:
        file = MissingFile(tmp_path / "m.txt", "d1")
        (tmp_path / "m.txt.d1.staging").write_bytes(b"of an attempt that was killed")
        file.write(ids)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"m.txt": b""}
    assert str(file) == str(tmp_path / "m.txt")
