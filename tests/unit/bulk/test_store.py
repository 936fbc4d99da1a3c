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


@pytest.mark.parametrize(("operate", "method", "action", "attempts"), OPERATIONS.values(), ids=OPERATIONS)
def test_a_store_that_is_down_is_asked_again_with_growing_pauses_and_a_refusal_is_final(
    operate: Callable[[ObjectStore], Any],
    method: str,
    action: str,
    attempts: int,
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
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
    pauses.clear()
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

    @pytest.mark.parametrize(
        ("fs", "protocol"),
        [
            *((FolderStore, one) for one in ("s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "adl", "az", "oss")),
            (Store, "memory"),  # it has no rename
        ],
    )
    def test_a_store_that_shows_complete_objects_only_gets_it_directly(
        self, file: Path, fs: type[Store], protocol: str
    ) -> None:
        files = fs()
        opened = open_store(files, protocol)
        opened.upload(file, "b/new/k")
        opened.delete_folder("b/new")
        assert files.calls == [("put_file", str(file), "b/new/k")]

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


@pytest.mark.parametrize("value", [None, "", 7, b"x", "None", " None "])
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


def test_what_is_no_regular_file_is_refused_and_closed(tmp_path: Path) -> None:
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
            Path(f"{output.path}.d1.staging").unlink()  # its absence does not mask the reason
            raise error

        expected = RtiSmsStorageUnavailableError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            output.commit(fill)
        assert list(output.path.parent.iterdir()) == [output.path]
        assert output.path.read_bytes() == b"yesterday's"

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


def test_the_private_folder_is_the_same_for_each_call_and_only_for_this_user(tmp_path: Path) -> None:
    folder = private_folder()
    assert folder == private_folder() == tmp_path / f"rtisms-{os.geteuid()}"
    assert mode_of(folder) == 0o700


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("others", ["may enter", "may read", "own it", "made a link", "made a file"])
def test_a_folder_that_others_prepared_is_not_used(
    tmp_path: Path, others: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = tmp_path / f"rtisms-{os.geteuid()}"
    if others.startswith("may"):
        prepared.mkdir()
        prepared.chmod(0o701 if others == "may enter" else 0o740)
    elif others == "own it":
        prepared.mkdir(mode=0o700)
        ids = iter([os.geteuid()])  # for the name of the folder, and another one after that
        another = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: next(ids, another))
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


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


LATER = "This may be temporary: run the task again later. Airflow does so if the task has retries left."
#: A failure of which a person can read what to do, for each remedy.
PERMANENT: dict[str, list[Exception]] = {
    "Check the path: the file or folder, the bucket, and the Connection must exist.": [
        FileNotFoundError(errno.ENOENT, "No such file"),
        StatusError(status_code=404),
        _boto(404),
        _named("AirflowNotFoundException"),
    ],
    "Give the worker's user, or the Connection in the URL, the permission to do this.": [
        PermissionError("Access Denied"),
        OSError(errno.EROFS, "Read-only file system"),
        StatusError(code=401),
        StatusError(code=403),
        _boto(403),
    ],
    "Check the path.": [
        *(_boto(400), StatusError(status_code=400), StatusError(status_code=499), StatusError(code=412)),
        *(OSError(number, "Whatever") for number in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST)),
        *(OSError(number, "Whatever") for number in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)),
    ],
    "Install the Airflow provider for this scheme on every worker, or use a local path.": [
        ValueError("No file system registered for scheme hdfs"),
        ImportError("No module named 'paramiko'"),
        ImportError("cannot import name 'kwargs' from 'logs'"),
    ],
    **{
        f"Install the provider on every worker: pip install 'apache-airflow-providers-{package}'.": [
            ImportError(f"Install {library} to access it"),
            *(ValueError(f"No file system registered for scheme {scheme}") for scheme in schemes),
            ValueError(f"Unsupported filesystem: '{schemes[0]}'"),
        ]
        for package, library, schemes in (
            ("amazon[s3fs]", "s3fs", ["s3", "s3a"]),
            ("google", "gcsfs", ["gs", "gcs"]),
            ("microsoft-azure", "adlfs", ["abfs", "abfss", "adl"]),
        )
    },
}
CIRCLE = StatusError()
TRANSIENT: dict[str, list[Exception]] = {
    "The disk is full: free some space there, and run the task again.": [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Quota exceeded"),
    ],
    LATER: [
        *(OSError(errno.EIO, "Input/output error"), TimeoutError(), ConnectionResetError(errno.ECONNRESET, "Reset")),
        *(_boto(503), _boto(None), StatusError(response={}), _named("AirflowException")),
        *(StatusError(status_code=status) for status in (500, 600, 399)),
        *(StatusError(code=str(status)) for status in (408, 409, 423, 425, 429)),
        *(StatusError(code="AccessDenied"), StatusError(code=lambda: 403)),
        # s3fs turns a 503 into an OSError with a number of its own choice.
        _caused(OSError(errno.EINVAL, "Slow down"), StatusError(status_code=503)),
        _caused(CIRCLE, _caused(StatusError(), CIRCLE)),
    ],
}


@pytest.mark.parametrize(("kind", "remedies"), [("permanent", PERMANENT), ("transient", TRANSIENT)])
def test_a_failure_says_whether_it_may_pass_and_what_to_do(kind: str, remedies: dict[str, list[Exception]]) -> None:
    expected = RtiSmsStorageError if kind == "permanent" else RtiSmsStorageUnavailableError
    for remedy, errors in remedies.items():
        for error in errors:
            with pytest.raises(expected) as caught, explain_failures("Writing s3://bucket/key", Exception):
                raise error
            assert str(caught.value) == f"Writing s3://bucket/key failed ({describe(error)}). {remedy}"


def test_a_description_is_one_line_of_bounded_length() -> None:
    assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("x" * 500)) == "ValueError: " + "x" * 200


def test_our_own_errors_stay_as_they_are_and_only_stores_raise_anything() -> None:
    ours: list[tuple[BaseException, list[Any]]] = [
        *((RtiSmsForbiddenError("403"), [Exception]), (KeyError(), []), (KeyboardInterrupt(), [Exception])),
    ]
    for error, actions in ours:
        with pytest.raises(type(error)) as caught, explain_failures("Writing", *actions):
            raise error
        assert caught.value is error
    with pytest.raises(RtiSmsStorageUnavailableError), explain_failures("Writing", Exception):
        raise KeyError
