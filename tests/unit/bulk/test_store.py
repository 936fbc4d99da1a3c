"""The store of files: paths, failures and their remedies, objects, and outputs that appear once they are complete."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import fsspec
import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_rtisms.api.errors import RtiSmsForbiddenError, RtiSmsInputError
from airflow_provider_rtisms.bulk import store
from airflow_provider_rtisms.bulk.store import (
    ObjectStore,
    Output,
    RtiSmsStorageError,
    RtiSmsStorageUnavailableError,
    describe,
    explain_failures,
    is_local,
    open_private,
    open_to_read,
    private_folder,
    storage_path,
)
from tests.unit.bulk.conftest import attach, open_files
from tests.unit.bulk.stores import FolderStore, Store, StoredPath

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
    monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"rtisms-{os.geteuid()}"


def open_store(fs: Any, protocol: str = "s3") -> ObjectStore:
    return ObjectStore(StoredPath(fs, protocol))  # type: ignore[arg-type]


def output_to(fs: Any, protocol: str = "s3", digest: str = "d1") -> Output:
    return Output(StoredPath(fs, protocol), digest)  # type: ignore[arg-type]


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
        opened = open_store(fs, "sftp")
        opened.upload(file, "b/new/k")
        opened.delete_folder("b/new")
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
    opened = open_store(fs)
    with (tmp_path / "file").open("wb") as file:
        file.truncate(5_000_000)
    opened.read("k")
    opened.list("k")
    opened.upload(tmp_path / "file", "k")
    opened.write("k", b"")  # no coroutine, so no timeout
    assert timeouts == {"cat_file": 120, "ls": 120, "put_file": 120 + 100}


class TestOutput:
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
            output_to(Store(), protocol, digest)._staging.name for protocol in ("s3", "gs") for digest in ("1", "2")
        }
        assert len(names) == 4
        assert all(len(name) == len(".staging") + 16 for name in names)
        assert output_to(Store())._staging == output_to(Store())._staging
        assert output_to(Store())._staging.parent == folder


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
        store._connect(Path())  # type: ignore[arg-type]

    asyncio.run(inside())
    store._connect(Path())  # type: ignore[arg-type]
    assert opened == [False, True]


def test_a_store_is_read_through_its_own_calls() -> None:
    """ObjectStoragePath.open would report lineage, with the conn_id in the URI. StoredPath has no such method."""
    fs = Store()
    path = StoredPath(fs)
    fs.objects[path.path] = b"content"
    with open_to_read(path, "Reading") as file:  # type: ignore[arg-type]
        assert file.read() == b"content"
    assert fs.called("cat_file") == [path.path]


@pytest.mark.parametrize("value", ["None", " None "])
def test_a_path_that_a_template_left_empty_is_explained(value: str) -> None:
    with pytest.raises(RtiSmsInputError, match=r'output_path is the word "None".* returned nothing'):
        storage_path("output_path", value)


@pytest.mark.parametrize("value", [None, "", 7, b"x"])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="output_path"):
        storage_path("output_path", value)


@pytest.fixture
def umask() -> Iterator[None]:
    """Let the group read new files, and nobody else."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "new" / "details.csv", "d1")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
class TestOpenPrivate:
    def test_a_new_file_is_for_its_owner_and_for_reading_and_writing(self, tmp_path: Path) -> None:
        os.umask(0)
        descriptor = open_private(tmp_path / "part")
        os.write(descriptor, b"mine")
        assert os.pread(descriptor, 10, 0) == b"mine"
        assert mode_of(tmp_path / "part") == 0o600
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)

    def test_what_is_no_regular_file_is_refused_and_closed(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        os.mkfifo(tmp_path / "pipe")
        for name in ("link", "pipe"):
            with pytest.raises(RtiSmsStorageError, match=rf"/{name} is a symbolic link, or not a regular file\."):
                open_private(tmp_path / name)
        assert open_files(tmp_path) == []
        assert not (tmp_path / "elsewhere").exists()


@pytest.mark.usefixtures("umask")
class TestLocalOutput:
    def test_the_probe_leaves_the_folder_and_nothing_in_it(self, output: Output, tmp_path: Path) -> None:
        output.probe()
        output.probe()
        assert list((tmp_path / "new").iterdir()) == []
        assert open_files(tmp_path) == []

    def test_a_name_that_belongs_to_a_folder_is_refused(self, output: Output) -> None:
        output.path.mkdir(parents=True)
        with pytest.raises(RtiSmsStorageError, match=r"^Writing /.*/details\.csv failed \(IsADirectoryError: .*21\]"):
            output.probe()

    def test_nobody_else_may_read_it_until_it_has_its_name(self, output: Output, tmp_path: Path) -> None:
        output.probe()
        output.path.write_bytes(b"yesterday's")

        def fill(file: IO[bytes]) -> None:
            (staging,) = set(output.path.parent.iterdir()) - {output.path}
            assert mode_of(staging) == 0o600
            assert output.path.read_bytes() == b"yesterday's"
            file.write(b"today's")

        output.commit(fill)
        assert list(output.path.parent.iterdir()) == [output.path]
        assert output.path.read_bytes() == b"today's"
        assert mode_of(output.path) == 0o640

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    def test_a_failure_leaves_the_old_file_and_no_other(self, output: Output, error: BaseException) -> None:
        output.probe()
        output.path.write_bytes(b"yesterday's")

        def fill(file: IO[bytes]) -> None:
            file.write(b"half")
            raise error

        expected = RtiSmsStorageUnavailableError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            output.commit(fill)
        assert list(output.path.parent.iterdir()) == [output.path]
        assert output.path.read_bytes() == b"yesterday's"

    def test_a_failure_is_not_masked_by_a_staging_file_that_has_gone(self, output: Output) -> None:
        output.probe()

        def fill(_: IO[bytes]) -> None:
            Path(f"{output.path}.d1.staging").unlink()
            raise OSError(errno.EIO, "Input/output error")

        with pytest.raises(RtiSmsStorageUnavailableError, match="Input/output error"):
            output.commit(fill)

    def test_the_staging_file_of_a_killed_attempt_is_replaced(self, output: Output) -> None:
        output.probe()
        Path(f"{output.path}.d1.staging").write_bytes(b"more than the new file holds")
        output.commit(lambda file: file.write(b"new"))  # type: ignore[arg-type,return-value]
        assert output.path.read_bytes() == b"new"


@pytest.mark.usefixtures("umask")
def test_a_private_file_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    assert Output(tmp_path / "x", "d1").commit(lambda file: file.write(b"12345")) == 5  # type: ignore[arg-type,return-value]
    assert sizes == [5]


@pytest.mark.usefixtures("umask")
class TestPrivateFolder:
    @pytest.fixture(autouse=True)
    def folder_for_temporary_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store.tempfile, "tempdir", str(tmp_path))

    def test_it_is_the_same_for_each_call_and_only_for_this_user(self, tmp_path: Path) -> None:
        folder = private_folder()
        assert folder == private_folder() == tmp_path / f"rtisms-{os.geteuid()}"
        assert mode_of(folder) == 0o700

    @pytest.mark.parametrize("others", ["may enter", "may read", "own it", "made a link", "made a file"])
    def test_a_folder_that_others_prepared_is_not_used(
        self, tmp_path: Path, others: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        prepared = tmp_path / f"rtisms-{os.geteuid()}"
        if others.startswith("may"):
            prepared.mkdir()
            prepared.chmod(0o701 if others == "may enter" else 0o740)
        elif others == "own it":
            prepared.mkdir(mode=0o700)
            monkeypatch.setattr(os, "geteuid", _changing(os.geteuid()))
        elif others == "made a link":
            (tmp_path / "theirs").mkdir(mode=0o700)
            prepared.symlink_to(tmp_path / "theirs")
        else:
            prepared.touch(mode=0o600)
        folder = private_folder()
        assert folder != prepared
        assert folder.name.startswith("rtisms-")
        assert folder.parent == tmp_path
        assert mode_of(folder) == 0o700
        assert f"{prepared} belongs to another user, or others may enter it" in caplog.text


def _changing(user: int) -> object:
    """Return a user id for the name of the folder, and another one after that."""
    ids = iter([user])
    return lambda: next(ids, user + 1)


class StatusError(Exception):
    """What a store's library raises; each keeps the status elsewhere."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("Refused")
        self.__dict__.update(attributes)


def _boto(status: Any) -> Exception:
    """Return what s3fs raises: an OSError, with the error of botocore as its cause."""
    error = OSError(errno.EBUSY, "Please reduce your request rate.")
    error.__cause__ = StatusError(response=status and {"ResponseMetadata": {"HTTPStatusCode": status}})
    return error


def _named(name: str) -> Exception:
    return type("Newer", (type(name, (Exception,), {}),), {})("No such connection")


PATH = "Check the path."
EXISTS = "Check the path: the file or folder, the bucket, and the Connection must exist."
PERMISSION = "Give the worker's user, or the Connection in the URL, the permission to do this."
FULL = "The disk is full: free some space there, and run the task again."
LATER = "This may be temporary: run the task again later. Airflow does so if the task has retries left."
NO_PROVIDER = "Install the Airflow provider for this scheme on every worker, or use a local path."


def install(package: str) -> str:
    return f"Install the provider on every worker: pip install 'apache-airflow-providers-{package}'."


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), EXISTS),
        (StatusError(status_code=404), EXISTS),
        (_boto(404), EXISTS),
        (_named("AirflowNotFoundException"), EXISTS),
        (PermissionError("Access Denied"), PERMISSION),
        (OSError(errno.EROFS, "Read-only file system"), PERMISSION),
        (StatusError(code=401), PERMISSION),
        (StatusError(code=403), PERMISSION),
        (_boto(403), PERMISSION),
        (_boto(400), PATH),
        (StatusError(status_code=400), PATH),
        (StatusError(status_code=499), PATH),
        (StatusError(code=412), PATH),
        *[
            (OSError(number, "Whatever"), PATH)
            for number in (
                errno.EISDIR,
                errno.ENOTDIR,
                errno.EEXIST,
                errno.ENAMETOOLONG,
                errno.ELOOP,
                errno.EINVAL,
            )
        ],
        (ImportError("Install s3fs to access S3"), install("amazon[s3fs]")),
        (ImportError("Please install gcsfs to access Google Storage"), install("google")),
        (ImportError("Install adlfs to access Azure"), install("microsoft-azure")),
        *[
            (ValueError(f"No file system registered for scheme {scheme}"), install(package))
            for scheme, package in {
                "s3": "amazon[s3fs]",
                "s3a": "amazon[s3fs]",
                "gs": "google",
                "gcs": "google",
                "abfs": "microsoft-azure",
                "abfss": "microsoft-azure",
                "adl": "microsoft-azure",
            }.items()
        ],
        (ValueError("Unsupported filesystem: 'gs'"), install("google")),
        (ValueError("No file system registered for scheme hdfs"), NO_PROVIDER),
        (ImportError("No module named 'paramiko'"), NO_PROVIDER),
        (ImportError("cannot import name 'kwargs' from 'logs'"), NO_PROVIDER),
    ],
)
def test_what_a_person_has_to_change_is_permanent(error: Exception, remedy: str) -> None:
    raised = _explained("Writing s3://bucket/key", error)
    assert isinstance(raised, RtiSmsStorageError)
    assert str(raised) == f"Writing s3://bucket/key failed ({describe(error)}). {remedy}"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EDQUOT, "Quota exceeded"), FULL),
        (OSError(errno.EIO, "Input/output error"), LATER),
        (TimeoutError(), LATER),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), LATER),
        (_boto(503), LATER),
        (_boto(None), LATER),
        (StatusError(response={}), LATER),
        (StatusError(status_code=500), LATER),
        (StatusError(status_code=600), LATER),
        (StatusError(status_code=399), LATER),
        *[(StatusError(code=str(status)), LATER) for status in (408, 409, 423, 425, 429)],
        (StatusError(code="AccessDenied"), LATER),
        (StatusError(code=lambda: 403), LATER),
        (_named("AirflowException"), LATER),
    ],
)
def test_what_may_pass_is_transient(error: Exception, remedy: str) -> None:
    raised = _explained("Writing s3://bucket/key", error)
    assert isinstance(raised, RtiSmsStorageUnavailableError)
    assert str(raised) == f"Writing s3://bucket/key failed ({describe(error)}). {remedy}"


def test_a_status_goes_before_the_number_of_an_error() -> None:
    """s3fs turns a 503 into an OSError with a number of its own choice, such as EINVAL."""
    error = OSError(errno.EINVAL, "Slow down")
    error.__cause__ = StatusError(status_code=503)
    assert isinstance(_explained("Writing", error), RtiSmsStorageUnavailableError)


def test_causes_in_a_circle_end() -> None:
    error, cause = StatusError(), StatusError()
    error.__cause__, cause.__cause__ = cause, error
    assert isinstance(_explained("Writing", error), RtiSmsStorageUnavailableError)


def test_a_description_is_one_line_of_bounded_length() -> None:
    assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("x" * 500)) == "ValueError: " + "x" * 200


class TestExplainFailures:
    def test_our_own_errors_stay_as_they_are(self) -> None:
        error = RtiSmsForbiddenError("403")
        with pytest.raises(RtiSmsForbiddenError) as caught, explain_failures("Writing", Exception):
            raise error
        assert caught.value is error

    def test_only_stores_raise_anything(self) -> None:
        with pytest.raises(KeyError), explain_failures("Writing"):
            raise KeyError
        with pytest.raises(RtiSmsStorageUnavailableError), explain_failures("Writing", Exception):
            raise KeyError
        with pytest.raises(KeyboardInterrupt), explain_failures("Writing", Exception):
            raise KeyboardInterrupt


def _explained(action: str, error: Exception) -> Any:
    with pytest.raises((RtiSmsStorageError, RtiSmsStorageUnavailableError)) as caught, explain_failures(action, Exception):
        raise error
    return caught.value
