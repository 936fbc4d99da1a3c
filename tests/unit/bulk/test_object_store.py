"""Operations of an object store: which failures are repeated, how long each may take, and what appears when."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.bulk import local_files
from airflow_provider_rtisms.bulk.object_store import ObjectOutput, ObjectStore
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageError, RtiSmsStorageUnavailableError
from tests.unit.bulk.stores import FolderStore, Store, StoredPath

pytestmark = pytest.mark.outer_minors

DOWN = OSError(5, "Slow down")
REFUSED = PermissionError("Access Denied")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how many seconds each pause between two attempts would have taken."""
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=pauses.append))
    return pauses


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files."""
    monkeypatch.setattr(local_files.tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"rtisms-{os.geteuid()}"


def open_store(fs: Any, protocol: str = "s3") -> ObjectStore:
    return ObjectStore(StoredPath(fs, protocol))  # type: ignore[arg-type]


def output_to(fs: Any, protocol: str = "s3", digest: str = "d1") -> ObjectOutput:
    return ObjectOutput(StoredPath(fs, protocol), digest)  # type: ignore[arg-type]


OPERATIONS: dict[str, tuple[Callable[[ObjectStore], Any], str, str, int]] = {
    "read": (lambda store: store.read("b/k"), "cat_file", "Reading s3://b/k", 6),
    "write": (lambda store: store.write("/b/k", b"x"), "pipe_file", "Writing s3://b/k", 6),
    "write once": (lambda store: store.write("b/k", b"x", 1), "pipe_file", "Writing s3://b/k", 1),
    "upload": (lambda store: store.upload(Path("/dev/null"), "b/k"), "put_file", "Writing s3://b/k", 6),
    "list": (lambda store: store.list("b"), "ls", "Listing s3://b", 6),
    "delete": (lambda store: store.delete("b/k"), "rm_file", "Deleting s3://b/k", 3),
}


class TestAttempts:
    @pytest.mark.parametrize("name", OPERATIONS)
    def test_a_store_that_is_down_is_asked_again_with_growing_pauses(
        self, name: str, pauses: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        operate, method, action, attempts = OPERATIONS[name]
        fs = Store()
        fs.objects["b/k"] = b"content"
        fs.failures[method] = [DOWN] * attempts
        with pytest.raises(RtiSmsStorageUnavailableError, match=rf"^{action} failed \(OSError: .*Slow down\)\. This"):
            operate(open_store(fs))
        assert len(fs.called(method)) == attempts
        assert pauses == [1, 2, 4, 8, 16][: attempts - 1]
        assert caplog.messages == [
            f"{action} failed (OSError: [Errno 5] Slow down). Attempt {number} of {attempts} failed, "
            f"the next begins in {2.0 ** (number - 1)} s"
            for number in range(1, attempts)
        ]
        fs.failures[method] = [DOWN] * (attempts - 1)
        operate(open_store(fs))

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_a_refusal_is_not_repeated(self, name: str, pauses: list[float]) -> None:
        operate, method, action, _ = OPERATIONS[name]
        fs = Store()
        fs.failures[method] = [REFUSED]
        with pytest.raises(RtiSmsStorageError, match=rf"^{action} failed \(PermissionError: Access Denied\)\. "):
            operate(open_store(fs))
        assert pauses == []


def test_an_object_is_read_as_bytes() -> None:
    fs = Store()
    fs.objects["b/k"] = b"content"
    assert type(open_store(fs).read("b/k")) is bytes


def test_a_listing_is_new_and_in_order() -> None:
    fs = Store()
    fs.objects = {"b/1": b"", "b/2": b"", "c/3": b""}
    assert open_store(fs).list("b") == ["b/1", "b/2"]
    assert fs.calls == [("invalidate_cache", "b"), ("ls", "b")]


def test_a_folder_or_an_object_that_is_not_there_is_no_failure() -> None:
    assert open_store(Store()).list("nowhere") == []
    open_store(Store()).delete("b/nothing")


class TestUpload:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "file").write_bytes(b"content")
        return tmp_path / "file"

    @pytest.mark.parametrize("protocol", ["s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "adl", "az", "oss"])
    def test_a_store_that_shows_complete_objects_only_gets_it_directly(self, file: Path, protocol: str) -> None:
        fs = FolderStore()
        open_store(fs, protocol).upload(file, "b/new/k")
        open_store(fs, protocol).delete_folder("b/new")
        assert fs.calls == [("put_file", str(file), "b/new/k")]

    def test_a_store_without_a_rename_gets_it_directly(self, file: Path) -> None:
        fs = Store()
        open_store(fs, "memory").upload(file, "b/new/k")
        assert fs.calls == [("put_file", str(file), "b/new/k")]

    def test_a_store_with_folders_renames_it_when_all_is_there(self, file: Path) -> None:
        fs = FolderStore()
        store = open_store(fs, "sftp")
        store.upload(file, "b/new/k")
        store.delete_folder("b/new")
        assert fs.calls == [
            ("makedirs", "b/new"),
            ("put_file", str(file), "b/new/k.staging"),
            ("mv", "b/new/k.staging", "b/new/k"),
            ("rmdir", "b/new"),
        ]
        assert fs.objects == {"b/new/k": b"content"}

    def test_a_store_with_folders_gets_them_before_a_small_object(self) -> None:
        fs = FolderStore()
        open_store(fs, "sftp").write("b/new/k", b"x")
        assert fs.calls == [("makedirs", "b/new"), ("pipe_file", "b/new/k", b"x")]

    def test_a_folder_that_stays_is_tried_three_times(self) -> None:
        fs = FolderStore()
        fs.failures["rmdir"] = [DOWN] * 3
        with pytest.raises(RtiSmsStorageUnavailableError, match=r"^Deleting sftp://b/new failed"):
            open_store(fs, "sftp").delete_folder("/b/new")
        assert len(fs.called("rmdir")) == 3


def test_each_operation_has_a_deadline_and_a_large_upload_a_later_one(tmp_path: Path) -> None:
    """fsspec takes a timeout where it runs a coroutine on its own event loop."""
    timeouts: dict[str, float] = {}

    def coroutine(name: str) -> Callable[..., Any]:
        async def run() -> None:
            """What fsspec wraps."""

        @functools.wraps(run)
        def call(*_: Any, timeout: float, **__: Any) -> bytes:
            timeouts[name] = timeout
            return b""

        return call

    fs = Store()
    for name in ("cat_file", "put_file", "ls"):
        setattr(fs, name, coroutine(name))
    store = open_store(fs)
    with (tmp_path / "file").open("wb") as file:
        file.truncate(5_000_000)
    store.read("k")
    store.list("k")
    store.upload(tmp_path / "file", "k")
    store.write("k", b"")  # no coroutine, so no timeout
    assert timeouts == {"cat_file": 120, "ls": 120, "put_file": 120 + 100}


class TestObjectOutput:
    def test_the_probe_writes_beside_the_file_and_removes_it(self) -> None:
        fs = Store()
        output_to(fs).probe()
        key = "bucket/day/details.jsonl.d1.probe"
        assert fs.calls == [("pipe_file", key, b""), ("rm_file", key)]

    @pytest.mark.parametrize("errors", [[REFUSED], [DOWN] * 3])
    def test_a_probe_that_cannot_be_removed_is_a_warning(
        self, errors: list[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        fs = Store()
        fs.failures["rm_file"] = errors
        output_to(fs).probe()
        assert "Delete it yourself: it shows that s3://conn@bucket/day/details.jsonl can be" in caplog.messages[-1]

    def test_a_store_that_refuses_the_probe_is_found_out(self) -> None:
        fs = Store()
        fs.failures["pipe_file"] = [REFUSED]
        with pytest.raises(RtiSmsStorageError):
            output_to(fs).probe()

    @pytest.mark.parametrize("error", [None, REFUSED, KeyboardInterrupt()])
    def test_the_local_file_is_private_and_goes_in_any_case(self, folder: Path, error: BaseException | None) -> None:
        fs, modes = Store(), []
        fs.failures["put_file"] = [error]

        def fill(file: Any) -> None:
            (staging,) = folder.iterdir()
            modes.append(stat.S_IMODE(staging.stat().st_mode))
            file.write(b"content")

        if error is None:
            output_to(fs).commit(fill)
            assert fs.objects == {"bucket/day/details.jsonl": b"content"}
        else:
            with pytest.raises(RtiSmsStorageError if error is REFUSED else KeyboardInterrupt):
                output_to(fs).commit(fill)
        assert modes == [0o600]
        assert list(folder.iterdir()) == []

    def test_a_disk_that_is_full_is_explained(self, folder: Path) -> None:
        def fill(_: Any) -> None:
            next(folder.iterdir()).unlink()  # its absence does not mask the reason
            raise OSError(28, "No space left on device")

        with pytest.raises(
            RtiSmsStorageUnavailableError, match=rf"^Writing {folder}/.*\.staging failed .* disk is full"
        ):
            output_to(Store()).commit(fill)

    def test_each_file_and_each_set_of_ids_has_a_local_name_of_its_own(self, folder: Path) -> None:
        names = {
            output_to(Store(), protocol, digest).staging_path.name for protocol in ("s3", "gs") for digest in ("1", "2")
        }
        assert len(names) == 4
        assert all(len(name) == len(".staging") + 16 for name in names)
        assert output_to(Store()).staging_path == output_to(Store()).staging_path
        assert output_to(Store()).staging_path.parent == folder
