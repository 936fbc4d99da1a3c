"""The files of a bulk fetch: ids in, records out, here and in object stores."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtisms.bulk.formats import COLUMNS
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from tests.unit.bulk.conftest import seeded


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
