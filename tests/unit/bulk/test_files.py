"""The files of a bulk fetch: each format, with and without the JSON of each response as it came."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.api.errors import RtiSmsInputError, RtiSmsNotFoundError
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.bulk.store import COLUMNS
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator
from airflow_provider_rtisms.sandbox import Sandbox
from tests import hostile
from tests.unit.bulk.conftest import seeded
from tests.unit.conftest import Serve

pytestmark = pytest.mark.outer_minors

#: JSON that a decoder would change: spaces, line breaks, a decimal zero, a key that comes twice, an escape.
ODD = '{"id": "7",\r\n "info":{"cost":1.50, "cost":1.50,\t"status":{"status":"SENT"}, "x":"a\\u00f1 ñ \\" ,"}}\n'


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(path).to_pylist())
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_bytes().decode()
    if ".csv" in path.name:
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
def test_each_holds_all_columns_of_all_records(hook: RtiSmsHook, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"details{suffix}"
    began = datetime.now(UTC).replace(microsecond=0)
    hook.bulk_get_sms(seeded(25), output_path=f"file://{path}")
    records = sorted(read(path), key=lambda record: record["submission_id"])
    assert [record["submission_id"] for record in records] == seeded(25)
    assert all(tuple(record) == COLUMNS for record in records)
    assert records[0]["operator_mcc"] == "730"
    assert str(records[0]["done_at"]).startswith("2020-09-17")
    assert str(records[0]["is_final"]).lower() == "true"
    assert datetime.fromisoformat(str(records[0]["fetched_at"])) >= began


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_no_ids_make_a_file_without_records(hook: RtiSmsHook, tmp_path: Path, suffix: str) -> None:
    hook.bulk_get_sms([], output_path=tmp_path / f"details{suffix}")
    assert read(tmp_path / f"details{suffix}") == []


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.csv.gz", "d.parquet"])
def test_each_format_holds_the_json_as_it_came(serve_default: Serve, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    serve_default(hostile.raw(hostile.message(ODD.encode())))
    RtiSmsBulkGetDetailsOperator(
        task_id="bulk", submission_ids=["7"], output_path=str(tmp_path / name), raw=True
    ).execute({})
    (record,) = read(tmp_path / name)
    assert tuple(record) == (*COLUMNS, "raw")
    assert record["raw"] == ODD


@pytest.mark.parametrize("first_raw", [True, False])
def test_a_resumed_fetch_keeps_it_and_uses_no_records_without_it(
    hook: RtiSmsHook, tmp_path: Path, first_raw: bool
) -> None:
    path = tmp_path / "d.jsonl"
    with pytest.raises(RtiSmsNotFoundError):
        hook.bulk_get_sms(["7", *seeded(5)], output_path=path, raw=first_raw)
    summary: Any = hook.bulk_get_sms(["7", *seeded(5)], output_path=path, raw=True, on_missing="skip")
    assert summary["resumed"] == (5 if first_raw else 0)
    assert sorted(json.loads(record["raw"])["id"] for record in read(path)) == seeded(5)


def test_it_does_not_go_to_xcom(sandbox: Sandbox) -> None:
    with pytest.raises(AirflowFailException, match="raw=True needs output_path"):
        RtiSmsBulkGetDetailsOperator(task_id="bulk", submission_ids=seeded(1), raw=True).execute({})
    with pytest.raises(RtiSmsInputError, match="raw=True needs output_path"):
        RtiSmsHook().bulk_get_sms(seeded(1), raw=True)
    assert not sandbox.state().requests


def test_a_repr_does_not_show_it() -> None:
    assert "phone" not in repr(SmsDetails("7", raw='{"phone": 1}'))
