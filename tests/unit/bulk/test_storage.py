"""The paths that DAG authors write."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.bulk import storage
from airflow_provider_rtisms.bulk.lineage import asset_uri
from airflow_provider_rtisms.bulk.storage import is_local, open_to_read, storage_path
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError
from tests.unit.bulk.conftest import attach
from tests.unit.bulk.stores import Store, StoredPath


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Path("/data/x.csv"), "/data/x.csv"),
        ("/data/x.csv", "/data/x.csv"),
        ("x.csv", "x.csv"),
        ("~/x.csv", str(Path.home() / "x.csv")),
        ("file:///data/x.csv", "/data/x.csv"),
        (ObjectStoragePath("file:///data/x.csv"), "/data/x.csv"),
        (ObjectStoragePath("local:///data/x.csv"), "/data/x.csv"),
        ("/data/http:/x.csv", "/data/http:/x.csv"),
    ],
)
def test_paths_of_this_machine(value: Any, path: str) -> None:
    found = storage_path("output_path", value)
    assert is_local(found)
    assert str(found) == path


@pytest.mark.parametrize("wrap", [str, ObjectStoragePath])
def test_a_path_of_a_store_stays_one_and_a_store_that_cannot_be_opened_is_explained(wrap: Any) -> None:
    attach(protocol="memory", fs=fsspec.filesystem("memory"))
    path = storage_path("output_path", wrap("memory://bucket/x.csv"))
    assert isinstance(path, ObjectStoragePath)
    assert not is_local(path)
    assert path == ObjectStoragePath("memory://bucket/x.csv")
    with pytest.raises(RtiSmsStorageError, match=r"^Opening gs://bucket/x\.csv \(output_path\) failed"):
        storage_path("output_path", wrap("gs://bucket/x.csv"))


def test_a_store_is_opened_outside_of_the_event_loop() -> None:
    """The file systems of some providers call asyncio.run, which fails inside an event loop."""
    opened: list[bool] = []

    class Path:
        @property
        def fs(self) -> None:
            asyncio.run(asyncio.sleep(0))
            opened.append(threading.current_thread() is threading.main_thread())

    async def inside() -> None:
        storage._connect(Path())  # type: ignore[arg-type]

    asyncio.run(inside())
    storage._connect(Path())  # type: ignore[arg-type]
    assert opened == [False, True]


def test_a_store_is_read_through_its_own_calls() -> None:
    """ObjectStoragePath.open would report lineage, with the conn_id in the URI. StoredPath has no such method."""
    fs = Store()
    path = StoredPath(fs)
    fs.objects[path.path] = b"content"
    with open_to_read(path, "Reading") as file:  # type: ignore[arg-type]
        assert file.read() == b"content"
    assert fs.called("cat_file") == [path.path]


def test_a_local_file_is_read_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\r\n")
    with open_to_read(tmp_path / "x", "Reading") as file:
        assert file.read() == b"\r\n"


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("s3://conn@bucket/day/x", "s3://bucket/day/x"),
        ("s3://bucket/day/a@b", "s3://bucket/day/a@b"),
        ("s3a://bucket/x", "s3a://bucket/x"),
    ],
)
def test_lineage_names_an_object_without_its_connection(url: str, uri: str) -> None:
    assert asset_uri(url) == uri  # type: ignore[arg-type]


def test_lineage_names_a_local_file_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert asset_uri(Path("x.csv")) == f"file://{tmp_path}/x.csv"


def test_without_airflow_there_is_no_lineage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from airflow_provider_rtisms.bulk.lineage import report_input

    monkeypatch.setitem(sys.modules, "airflow.providers.common.compat.lineage.hook", None)
    report_input(Path("x.csv"))
    assert caplog.messages == []


@pytest.mark.parametrize("value", ["None", " None "])
def test_a_path_that_a_template_left_empty_is_explained(value: str) -> None:
    with pytest.raises(RtiSmsInputError, match=r'output_path is the word "None".* returned nothing'):
        storage_path("output_path", value)


@pytest.mark.parametrize("value", [None, "", 7, b"x"])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="output_path"):
        storage_path("output_path", value)


def test_no_path_at_all_is_explained() -> None:
    with pytest.raises(RtiSmsInputError, match=r"^output_path is .*: use a path, or a URL such as s3://"):
        storage_path("output_path", "  ")
