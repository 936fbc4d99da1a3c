"""
The store of files: local ones, and objects of any store that ObjectStoragePath knows (fsspec); the formats that their
names ask for; and their lineage.

An output appears under its name once it is complete: a private file is written first, and then either renamed (local)
or uploaded. What a file system or a store raises becomes an error that says what failed, and what to do.
"""

from __future__ import annotations

import asyncio
import csv
import errno
import gzip
import hashlib
import inspect
import io
import json
import logging
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path, PosixPath
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar, cast
from urllib.parse import urlsplit

from airflow_provider_rtisms.api.errors import (
    RtiSmsConfigError,
    RtiSmsError,
    RtiSmsInputError,
    RtiSmsPermanentError,
    RtiSmsTransientError,
    shape,
)
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.api.values.arguments import check_rendered

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from airflow_provider_rtisms.compat import ObjectStoragePath

    StoragePath: TypeAlias = Path | ObjectStoragePath

log = logging.getLogger(__name__)
T = TypeVar("T")
#: What fills a file: called with the file, opened for binary writing.
Fill: TypeAlias = Callable[[IO[bytes]], None]
Record: TypeAlias = dict[str, Any]
#: Takes records as JSON lines, and a binary file to write to.
Convert: TypeAlias = Callable[[Iterable[bytes], IO[bytes]], None]

#: The columns of every format, in their order: those of
#: :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`, and when the record was fetched.
COLUMNS = (*SmsDetails("").to_record(), "fetched_at")
#: The column of the JSON as it came.
RAW = "raw"
#: The columns that hold a time: ISO 8601 with its offset, or null.
TIMES = tuple(column for column in COLUMNS if column.endswith("_at"))
#: The columns of a file of the ids that the API does not know; a file that is neither CSV nor JSON lines has the first.
MISSING_COLUMNS = ("submission_id", "reason")
#: Rows of a row group of Parquet; they are in memory together.
ROW_GROUP = 10_000

_TYPES = {**dict.fromkeys(TIMES, "timestamp"), "is_final": "boolean", "cost": "double"}
_ROW_SUFFIXES = (".csv", ".jsonl")

#: How often an operation of a store is attempted. The libraries of the stores repeat some requests as well.
ATTEMPTS = 6
#: The same, for the removal of what is no longer needed.
DELETE_ATTEMPTS = 3
#: Seconds before the second attempt; each further pause is twice as long.
BACKOFF_BASE = 1.0
#: Seconds after which one attempt has failed.
DEADLINE = 120.0
#: Bytes a second: the upload of a file has this much more time.
SLOWEST_UPLOAD = 50_000
#: Bytes of one request when an object is read, and so of memory.
PIECE_SIZE = 4 * 1024 * 1024
#: Characters of a foreign error message that ours repeats.
MAX_REASON = 200

#: Stores that show an object once all of it is there, so that it needs no staging object.
_ATOMIC = {"s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "adl", "az", "oss"}
_PERMANENT_ERRNOS = {
    getattr(errno, name)
    for name in ["EACCES", "EPERM", "EROFS", "ENOENT", "EEXIST", "EISDIR", "ENOTDIR", "ENAMETOOLONG", "ELOOP", "EINVAL"]
}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
#: HTTP statuses below 500 that a store sends for a condition that passes.
_TRANSIENT_STATUSES = {408, 409, 423, 425, 429}
#: What ``pip install`` needs, by the beginnings of schemes (s3a) and of the names of libraries (gcsfs, adlfs).
_PROVIDERS = {
    "s3": "apache-airflow-providers-amazon[s3fs]",
    "gs": "apache-airflow-providers-google",
    "gcs": "apache-airflow-providers-google",
    "abfs": "apache-airflow-providers-microsoft-azure",
    "adl": "apache-airflow-providers-microsoft-azure",
}


class RtiSmsStorageError(RtiSmsPermanentError):
    """A file, an object or a table cannot be read or written until a person changes something."""


class RtiSmsStorageUnavailableError(RtiSmsTransientError):
    """A file, an object or a table could not be read or written; the same may succeed later."""


#: Both of them, for ``except``.
STORAGE_ERRORS = (RtiSmsStorageError, RtiSmsStorageUnavailableError)


@contextmanager
def explain_failures(action: str, catch: type[Exception] = OSError) -> Iterator[None]:
    """Raise our own errors instead of those of a file system. Stores raise exceptions of their own: catch Exception."""
    try:
        yield
    except RtiSmsError:
        raise
    except catch as error:
        raise explained(action, error) from error


def explained(action: str, error: Exception) -> RtiSmsError:
    """Return our own error in place of that of a file system or a store."""
    is_permanent, remedy = _diagnose(error)
    error_class = RtiSmsStorageError if is_permanent else RtiSmsStorageUnavailableError
    return error_class(f"{action} failed ({describe(error)}). {remedy}")


def describe(error: BaseException | None) -> str:
    text = " ".join(str(error).split())[:MAX_REASON]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _diagnose(error: Exception) -> tuple[bool, str]:
    """Return whether the error is permanent, and what to do about it."""
    if isinstance(error, ImportError) or re.search("registered for scheme |Unsupported filesystem: ", str(error)):
        package = next((one for name, one in _PROVIDERS.items() if re.search(rf"\b{name}", str(error))), None)
        if package is None:
            return True, "Install the Airflow provider for this scheme on every worker, or use a local path."
        return True, f"Install the provider on every worker: pip install '{package}'."
    status = _http_status(error)
    number = error.errno if isinstance(error, OSError) else None
    names = {one.__name__ for one in type(error).__mro__}
    if isinstance(error, FileNotFoundError) or status == 404 or "AirflowNotFoundException" in names:
        return True, "Check the path: the file or folder, the bucket, and the Connection must exist."
    if isinstance(error, PermissionError) or status in (401, 403) or number in (errno.EPERM, errno.EROFS):
        return True, "Give the worker's user, or the Connection in the URL, the permission to do this."
    if number in _FULL_ERRNOS:
        return False, "The disk is full: free some space there, and run the task again."
    is_refused = status is not None and 400 <= status < 500 and status not in _TRANSIENT_STATUSES
    if is_refused or (status is None and number in _PERMANENT_ERRNOS):
        return True, "Check the path."
    return False, "This may be temporary: run the task again later. Airflow does so if the task has retries left."


def _http_status(error: BaseException | None) -> int | None:
    """Return the HTTP status that the libraries of Amazon, Microsoft and Google keep in a chain of causes."""
    for _ in range(10):
        if error is None:
            return None
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore
            status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
        else:
            status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if isinstance(status, int | str) and re.fullmatch(r"[1-5]\d\d", str(status)):
            return int(status)
        error = error.__cause__
    return None


def repeat(action: str, attempt: Callable[[], T], attempts: int | None = None) -> T:
    """Repeat something with backoff while it raises RtiSmsStorageUnavailableError; ``action`` names it in the log."""
    import tenacity

    most = ATTEMPTS if attempts is None else attempts

    def log_attempt(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = describe(error and (error.__cause__ or error))
        message = "%s failed (%s). Attempt %d of %d failed, the next begins in %.1f s"
        log.warning(message, action, reason, state.attempt_number, most, state.upcoming_sleep)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RtiSmsStorageUnavailableError),
        stop=tenacity.stop_after_attempt(most),
        wait=tenacity.wait_exponential(BACKOFF_BASE),
        before_sleep=log_attempt,
        reraise=True,
    )(attempt)


def is_local(path: object) -> TypeGuard[Path]:
    """Return whether a path is on this machine. On Airflow 2 ObjectStoragePath is a Path as well, but no PosixPath."""
    return isinstance(path, PosixPath)


def storage_path(field_name: str, value: object) -> StoragePath:
    """Return a local path, or that of an object in the store of a URL such as ``s3://conn_id@bucket/key``."""
    check_rendered(field_name, value)
    if is_local(value):
        return value
    if isinstance(value, str) and value.strip():
        if "://" not in value:
            return Path(value).expanduser()
        if urlsplit(value).scheme == "file":
            return Path(value.removeprefix("file://"))
    from airflow_provider_rtisms.compat import ObjectStoragePath

    if not (isinstance(value, ObjectStoragePath) or (isinstance(value, str) and value.strip())):
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a path, or a URL such as s3://conn_id@bucket/key.")
    with explain_failures(f"Opening {value} ({field_name})", Exception):
        path = value if isinstance(value, ObjectStoragePath) else ObjectStoragePath(str(value))
        if path.protocol in ("file", "local"):
            return Path(path.path)
        _connect(path)
        return path


def _connect(path: ObjectStoragePath) -> None:
    """Let Airflow open the store, which it keeps: some providers call asyncio.run, which fails in an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        path.fs  # noqa: B018
    else:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: path.fs).result()


class ObjectStore:
    """
    The store of a path: each request is repeated while the store is down, and ends in bounded time.

    It goes through fsspec, because ObjectStoragePath would report lineage for every operation.
    """

    def __init__(self, path: ObjectStoragePath) -> None:
        from fsspec import AbstractFileSystem

        self._fs = path.fs
        self._scheme = path.protocol
        # fsspec emulates mv by copying and deleting; only a file system with folders has a rename of its own.
        self._renames = self._scheme not in _ATOMIC and type(self._fs).mv is not AbstractFileSystem.mv

    def read(self, key: str, start: int | None = None, end: int | None = None, action: str | None = None) -> bytes:
        action = action or f"Reading {self._name(key)}"
        return self._repeat(action, lambda: bytes(self._call("cat_file", key, start=start, end=end)))

    def version(self, key: str, action: str) -> tuple[int | None, str]:
        """Return the size of an object, if the store knows it, and what else changes if it is replaced."""
        info = self._repeat(action, lambda: self._call("info", key, outdated=key.rpartition("/")[0]))
        return info["size"], str(info.get("ETag") or info.get("etag"))

    def write(self, key: str, data: bytes, attempts: int | None = None) -> None:
        self._repeat(f"Writing {self._name(key)}", lambda: self._call("pipe_file", self._placed(key), data), attempts)

    def upload(self, source: Path, key: str) -> None:
        """Write an object from a local file. Where the store cannot do so in one step, it renames a staging file."""

        def upload() -> None:
            staging_key = f"{self._placed(key)}.staging" if self._renames else key
            self._call("put_file", str(source), staging_key, deadline=DEADLINE + source.stat().st_size / SLOWEST_UPLOAD)
            if self._renames:
                self._call("mv", staging_key, key)

        self._repeat(f"Writing {self._name(key)}", upload)

    def list(self, folder: str) -> list[str]:
        """Return the keys of the objects in a folder, in their order; none if there is no such folder."""

        def list_objects() -> list[str]:
            with suppress(FileNotFoundError):
                return sorted(map(str, self._call("ls", folder, outdated=folder, detail=False)))
            return []

        return self._repeat(f"Listing {self._name(folder)}", list_objects)

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self._call("rm_file", key)

        self._repeat(f"Deleting {self._name(key)}", delete, DELETE_ATTEMPTS)

    def delete_folder(self, folder: str) -> None:
        """Delete an empty folder, in stores that have folders."""
        if self._renames:
            self._repeat(f"Deleting {self._name(folder)}", lambda: self._call("rmdir", folder), DELETE_ATTEMPTS)

    def _name(self, key: str) -> str:
        return f"{self._scheme}://{key.lstrip('/')}"

    def _call(
        self, name: str, *args: Any, deadline: float | None = None, outdated: str | None = None, **options: Any
    ) -> Any:
        """Call a method of fsspec, with a deadline, and without what it remembers of a folder."""
        if outdated is not None:
            self._fs.invalidate_cache(outdated)
        method = getattr(self._fs, name)
        if inspect.iscoroutinefunction(getattr(method, "__wrapped__", None)):
            # fsspec runs it on an event loop of its own, and can end it: s3fs may wait forever for "100 Continue".
            options["timeout"] = DEADLINE if deadline is None else deadline
        return method(*args, **options)

    def _placed(self, key: str) -> str:
        """Return a key whose folder is there. S3 would create the bucket instead."""
        if self._renames:
            self._fs.makedirs(key.rpartition("/")[0], exist_ok=True)
        return key

    def _repeat(self, action: str, operation: Callable[[], T], attempts: int | None = None) -> T:
        def attempt() -> T:
            with explain_failures(action, Exception):
                return operation()

        return repeat(action, attempt, attempts)


def open_to_read(path: StoragePath, action: str) -> IO[bytes]:
    """Open a file or an object. ObjectStoragePath.open would report lineage, with the conn_id in the URI."""
    if is_local(path):
        return path.open("rb")
    store, key = _store_of(path)
    size, tag = store.version(key, action)
    if size is None:
        return io.BytesIO(store.read(key, action=action))
    return cast("IO[bytes]", io.BufferedReader(_Pieces(store, key, (size, tag), action), PIECE_SIZE))


def _store_of(path: StoragePath) -> tuple[ObjectStore, str]:
    remote = cast("ObjectStoragePath", path)
    return ObjectStore(remote), remote.path


class _Pieces(io.RawIOBase):
    """An object of a known size and version. Another one may take its name meanwhile."""

    def __init__(self, store: ObjectStore, key: str, version: tuple[int, str], action: str) -> None:
        self._store, self._key, self._version, self._action = store, key, version, action
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        end = min(self._position + len(buffer), self._version[0])
        if self._position < end:
            piece = self._store.read(self._key, self._position, end, self._action)
            buffer[: len(piece)] = piece
            self._position += len(piece)
            return len(piece)
        if self._store.version(self._key, self._action) != self._version:
            raise RtiSmsStorageUnavailableError(
                f"{self._action} failed: another program has replaced the object meanwhile. Run the task again."
            )
        return 0


def open_private(path: Path, *, is_new: bool = False) -> int:
    """Open a regular file for reading and writing, and let only its owner read it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_EXCL if is_new else 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK):
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise RtiSmsStorageError(
        f"{path} is a symbolic link, or not a regular file. Only this package may create that file: "
        "find out who made it, and remove it."
    )


def private_folder() -> Path:
    """Return a folder for temporary files that only this user may enter; each call returns the same one if it can."""
    folder = Path(tempfile.gettempdir(), f"rtisms-{os.geteuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return folder
    log.warning("%s belongs to another user, or others may enter it: a new folder is used instead", folder)
    return Path(tempfile.mkdtemp(prefix="rtisms-"))


def work_file(path: StoragePath, digest: str, suffix: str) -> Path:
    """Return the local file that holds an output, or a part of it, until it is complete."""
    if is_local(path):
        return path.with_name(f"{path.name}.{digest}.{suffix}")
    name = hashlib.sha256(f"{path}\n{digest}".encode()).hexdigest()[:16]
    return private_folder() / f"{name}.{suffix}"


def _create(path: Path) -> int:
    path.unlink(missing_ok=True)  # of an attempt that was killed
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


class Output:
    """A file or an object that gets its name once it is complete. The digest identifies what is written."""

    def __init__(self, path: StoragePath, digest: str) -> None:
        self.path = path
        self._digest = digest
        self._staging = work_file(path, digest, "staging")

    def __str__(self) -> str:
        return str(self.path)

    def probe(self) -> None:
        """Write something beside the final name and remove it, so that a refusal is found out now."""
        path = self.path
        if is_local(path):
            with explain_failures(f"Writing {path}"):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(_create(self._staging))
                self._staging.unlink()
            return
        store, key = _store_of(path)
        probe_key = f"{key}.{self._digest}.probe"
        store.write(probe_key, b"")
        try:
            store.delete(probe_key)
        except STORAGE_ERRORS as error:
            log.warning("%s Delete it yourself: it shows that %s can be written", error, path)

    def commit(self, fill: Fill) -> int:
        """Write the file, and return its size. A local one has the mode that the umask asks for once it is complete."""
        path = self.path
        try:
            with explain_failures(f"Writing {path if is_local(path) else self._staging}"):
                if is_local(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                size, mode = self._write(fill)
                if is_local(path):
                    self._staging.chmod(mode)
                    self._staging.replace(path)  # POSIX: rename is atomic
            if not is_local(path):
                store, key = _store_of(path)
                store.upload(self._staging, key)
        finally:
            with suppress(OSError):
                self._staging.unlink(missing_ok=True)
        report_output(path)
        return size

    def _write(self, fill: Fill) -> tuple[int, int]:
        with os.fdopen(_create(self._staging), "wb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            os.fchmod(file.fileno(), 0o600)
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            return file.tell(), mode


def columns_of(raw: bool) -> tuple[str, ...]:
    return (*COLUMNS, RAW) if raw else COLUMNS


def types_of(raw: bool) -> dict[str, str]:
    """Return the type of each column of a fetch, as lineage names it."""
    return {column: _TYPES.get(column, "string") for column in columns_of(raw)}


def to_line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def converter(name: str, columns: Sequence[str] = COLUMNS) -> Convert:
    """Return the function that converts records to the format that a name's suffix asks for."""
    suffix, is_packed = suffix_of(name)
    if suffix == ".parquet" and not is_packed:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise RtiSmsConfigError(
                "Writing .parquet takes pyarrow: pip install 'airflow-provider-rtisms[parquet]', or use .jsonl or .csv."
            ) from None
        return lambda lines, file: _write_parquet(map(json.loads, lines), columns, file)
    if suffix not in _ROW_SUFFIXES:
        raise RtiSmsInputError(f"output_path ends in {name[-20:]!r}: use .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet.")

    def convert(lines: Iterable[bytes], file: IO[bytes]) -> None:
        with _packed(name, file) as target:
            if suffix == ".jsonl":
                target.writelines(lines)
            else:  # databases read true and false; Python's own words only some of them
                records = map(json.loads, lines)
                _write_csv(({**one, "is_final": json.dumps(one["is_final"])} for one in records), columns, target)

    return convert


def suffix_of(name: str) -> tuple[str, bool]:
    """Return the suffix of a name without ``.gz``, and whether it had that."""
    bare = name.removesuffix(".gz")
    return Path(bare).suffix, bare != name


def write_rows(name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], file: IO[bytes]) -> None:
    """Write rows as the name asks for: as CSV, as JSON lines, or each one's first column as a line of text."""
    suffix = suffix_of(name)[0]
    with _packed(name, file) as target:
        if suffix == ".csv":
            _write_csv(rows, columns, target)
        elif suffix == ".jsonl":
            target.writelines(to_line({column: row.get(column) for column in columns}) for row in rows)
        else:
            target.writelines(f"{row[columns[0]]}\n".encode() for row in rows)


def missing_columns(path: str) -> Sequence[str]:
    """Return the columns of a file of missing ids."""
    return MISSING_COLUMNS if suffix_of(path)[0] in _ROW_SUFFIXES else MISSING_COLUMNS[:1]


def _packed(name: str, file: IO[bytes]) -> AbstractContextManager[Any]:
    if name.endswith(".gz"):
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)  # equal rows make equal files
    return nullcontext(file)


def _write_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    text.detach()


def _write_parquet(records: Iterator[Record], columns: Sequence[str], file: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"boolean": pa.bool_(), "double": pa.float64(), "timestamp": pa.timestamp("s", tz="UTC")}
    schema = pa.schema([(column, types.get(_TYPES.get(column, ""), pa.string())) for column in columns])
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(records, ROW_GROUP)):
            for record in group:
                record.update((name, datetime.fromisoformat(record[name])) for name in TIMES if record[name])
            writer.write_table(pa.Table.from_pylist(group, schema))


def report_input(path: StoragePath) -> None:
    """
    Report a file that was read to Airflow's hook lineage, once, without the conn_id.

    ObjectStoragePath would report every part object instead, and OpenLineage would then ignore the outlets of the task.
    """
    _report("add_input_asset", path, path)


def report_output(path: str | StoragePath, context: object = None) -> None:
    """Report a file, or the URI of a table of a hook, that was written."""
    _report("add_output_asset", context or path, path)


def asset_uri(path: str | StoragePath) -> str:
    """Return the URI that names a file in assets and in lineage."""
    text = str(path)
    if "://" not in text:
        return f"file://{Path(text).expanduser().absolute()}"
    text = re.sub(r"^(\w+://)[^/@]*@", r"\1", text)
    return re.sub(r"^(https?://[^?#]*).*", r"\1", text)


def _report(method: str, context: object, path: str | StoragePath) -> None:
    try:
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector
    except ImportError:  # without Airflow
        return
    try:
        collector = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        getattr(collector, method)(context=context, uri=asset_uri(path))
    except Exception:
        log.warning("The lineage of %s could not be reported", path, exc_info=True)
