"""The bulk operator against emulators of Azure and Google, through Airflow Connections (make e2e-stores)."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ObjectStoragePath

from airflow_provider_rtisms.api.errors import RtiSmsTransientError
from airflow_provider_rtisms.bulk import store as file_store
from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from tests.patience import wait_until
from tests.system.stores.emulators import Azurite, Emulator, GcsEmulator
from tests.unit.bulk.conftest import seeded

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.outer_minors]

FETCH = """
import sys
from airflow_provider_rtisms.bulk import fetch as part
from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator
part.UPLOAD_EVERY = 0.2
ids, output = sys.argv[1:]
RtiSmsBulkGetDetailsOperator(
    task_id="bulk", submission_ids_path=ids, output_path=output, max_concurrency=8
).execute({})
"""


@pytest.fixture(scope="module", params=[Azurite, GcsEmulator])
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with request.param() as emulator:
        yield emulator


@pytest.fixture
def store(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Emulator]:
    """The emulator with an empty bucket. Each has Connections of its own, whose file system Airflow keeps."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # gRPC, which the emulator does not speak
    monkeypatch.setenv(f"AIRFLOW_CONN_{emulator.scheme.upper()}_STORE", emulator.connection())
    monkeypatch.setenv(f"AIRFLOW_CONN_{emulator.scheme.upper()}_WRONG", emulator.connection(is_wrong=True))
    monkeypatch.setattr(file_store, "BACKOFF_BASE", 0.01)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    yield emulator
    for key in keys(emulator):
        path(emulator, key).unlink()


@pytest.fixture
def sandbox(rtisms_sandbox: Sandbox) -> Sandbox:
    rtisms_sandbox.reset(seed=500)
    return rtisms_sandbox


def url(store: Emulator, key: str, *, conn_id: str = "store", bucket: str = "bucket") -> str:
    return store.url(key, conn_id=f"{store.scheme}_{conn_id}", bucket=bucket)


def path(store: Emulator, key: str) -> ObjectStoragePath:
    return ObjectStoragePath(url(store, key))


def keys(store: Emulator) -> list[str]:
    """Return the keys of all objects."""
    file_system = path(store, "").fs
    file_system.invalidate_cache()
    return sorted(str(key).removeprefix("bucket/") for key in file_system.find("bucket"))


def write_ids(store: Emulator, ids: list[str]) -> str:
    file = path(store, "ids.txt")
    file.fs.pipe_file(file.path, "\n".join(ids).encode())
    return url(store, "ids.txt")


def fetch(**arguments: Any) -> Any:
    return RtiSmsBulkGetDetailsOperator(task_id="bulk", **arguments).execute({})


def ids_in(name: str, content: bytes) -> list[str]:
    if name.endswith(".parquet"):
        from pyarrow.parquet import read_table

        return sorted(read_table(io.BytesIO(content))["submission_id"].to_pylist())
    if name.endswith(".csv.gz"):
        return sorted(row["submission_id"] for row in csv.DictReader(gzip.decompress(content).decode().splitlines()))
    return sorted(json.loads(line)["submission_id"] for line in content.splitlines())


@pytest.mark.parametrize("name", ["day/details.jsonl", "day/details.csv.gz", "day/details.parquet"])
def test_ids_come_from_the_store_and_records_go_there(store: Emulator, sandbox: Sandbox, name: str) -> None:
    ids = write_ids(store, ["1", *seeded(300)])
    missing = url(store, "day/missing.csv")
    summary = fetch(submission_ids_path=ids, output_path=url(store, name), missing_path=missing, on_missing="skip")
    assert (summary["fetched"], summary["missing"]) == (300, 1)
    assert keys(store) == sorted([name, "day/missing.csv", "ids.txt"])  # and nothing else
    content = path(store, name).fs.cat_file(f"bucket/{name}")
    assert ids_in(name, content) == seeded(300)
    assert len(content) == summary["bytes"]


def test_a_killed_fetch_goes_on_elsewhere(
    store: Emulator, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, output = write_ids(store, seeded(500)), url(store, "day/details.parquet")
    # A few responses never come, so that the fetch cannot end before it is killed.
    some_hang = Fault("latency", seconds=3600, probability=0.02, path="sms")
    sandbox.set_faults(Fault("latency", seconds=0.2, path="sms"), some_hang)
    process = subprocess.Popen([sys.executable, "-c", FETCH, ids, output], env={**os.environ, "TMPDIR": str(tmp_path)})
    try:

        def has_saved() -> bool:
            assert process.poll() is None, "the fetch was over before it could be killed"
            return len([key for key in keys(store) if ".part/" in key]) > 3

        wait_until(has_saved, "part objects")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    sandbox.set_faults()
    asked = sandbox.state().count_responses(200, "GET sms")
    summary = fetch(submission_ids_path=ids, output_path=output)
    assert 0 < summary["resumed"] <= asked
    assert summary["fetched"] == 500
    assert keys(store) == ["day/details.parquet", "ids.txt"]
    assert ids_in("x.parquet", path(store, "x").fs.cat_file("bucket/day/details.parquet")) == seeded(500)


class TestBeforeTheFirstRequest:
    def test_a_missing_bucket_is_found_out(self, store: Emulator, sandbox: Sandbox) -> None:
        with pytest.raises(AirflowFailException, match=r"nowhere.* the bucket.* must exist"):
            fetch(submission_ids=seeded(50), output_path=url(store, "x.jsonl", bucket="nowhere"))
        assert not sandbox.state().requests

    def test_wrong_credentials_are_found_out(self, store: Emulator, sandbox: Sandbox) -> None:
        with pytest.raises((AirflowFailException, RtiSmsTransientError), match="failed") as caught:
            fetch(submission_ids=seeded(50), output_path=url(store, "x.jsonl", conn_id="wrong"))
        print(caught.value)
        assert isinstance(caught.value, AirflowFailException)
        assert not sandbox.state().requests
