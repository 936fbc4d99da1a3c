"""Objects in a store: failures explained, and transient ones repeated."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from airflow_provider_rtisms.bulk.local_files import private_folder, write_private
from airflow_provider_rtisms.bulk.storage_errors import (
    STORAGE_ERRORS,
    RtiSmsStorageUnavailableError,
    describe,
    explain_failures,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_rtisms.bulk.local_files import Fill

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How often an operation is attempted. The libraries of the stores repeat some requests by themselves as well.
ATTEMPTS = 6
#: The same, for the removal of what is no longer needed.
DELETE_ATTEMPTS = 3
#: Seconds before the second attempt; each further pause is twice as long.
BACKOFF_BASE = 1.0
#: Seconds after which one attempt has failed.
DEADLINE = 120.0
#: Bytes a second: the upload of a file has this much more time.
SLOWEST_UPLOAD = 50_000

#: Stores that show an object once all of it is there, so that it needs no staging object.
_ATOMIC = {"s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "adl", "az", "oss"}


class ObjectStore:
    """
    The store of a path. It goes through fsspec, because ObjectStoragePath would report lineage for every operation.

    :param path: any path in the store.
    """

    def __init__(self, path: ObjectStoragePath) -> None:
        from fsspec import AbstractFileSystem

        self._fs = path.fs
        self._scheme = path.protocol
        # fsspec emulates mv by copying and deleting; only a file system with folders has a rename of its own.
        self._renames = self._scheme not in _ATOMIC and type(self._fs).mv is not AbstractFileSystem.mv

    def read(self, key: str, start: int | None = None, end: int | None = None, action: str | None = None) -> bytes:
        """
        Return the content of an object.

        :param key: its key, the bucket included.
        :param start: the first byte to return.
        :param end: the byte before which to stop.
        :param action: what an error says.
        """
        action = action or f"Reading {self._name(key)}"
        return self._repeat(action, lambda: bytes(self._call("cat_file", key, start=start, end=end)))

    def version(self, key: str, action: str) -> tuple[int | None, str]:
        """Return the size of an object, if the store knows it, and what else changes if it is replaced."""

        def version() -> tuple[int | None, str]:
            self._fs.invalidate_cache(key.rpartition("/")[0])
            info = self._call("info", key)
            return info["size"], str(info.get("ETag") or info.get("etag"))

        return self._repeat(action, version)

    def write(self, key: str, data: bytes, attempts: int | None = None) -> None:
        """
        Write a small object.

        :param key: its key, the bucket included.
        :param data: its content.
        :param attempts: how often to try; default :data:`ATTEMPTS`.
        """

        def write() -> None:
            self._make_folder(key)
            self._call("pipe_file", key, data)

        self._repeat(f"Writing {self._name(key)}", write, attempts)

    def upload(self, source: Path, key: str) -> None:
        """Write an object from a local file. Where the store cannot do so in one step, it renames a staging file."""

        def upload() -> None:
            self._make_folder(key)
            staging_key = f"{key}.staging" if self._renames else key
            self._call("put_file", str(source), staging_key, deadline=DEADLINE + source.stat().st_size / SLOWEST_UPLOAD)
            if self._renames:
                self._call("mv", staging_key, key)

        self._repeat(f"Writing {self._name(key)}", upload)

    def list(self, folder: str) -> list[str]:
        """Return the keys of the objects in a folder; none if there is no such folder."""

        def list_objects() -> list[str]:
            self._fs.invalidate_cache(folder)
            try:
                return sorted(str(key) for key in self._call("ls", folder, detail=False))
            except FileNotFoundError:
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

    def _call(self, name: str, *args: Any, deadline: float | None = None, **options: Any) -> Any:
        method = getattr(self._fs, name)
        if inspect.iscoroutinefunction(getattr(method, "__wrapped__", None)):
            # fsspec runs it on an event loop of its own, and can end it: s3fs may wait forever for "100 Continue".
            options["timeout"] = DEADLINE if deadline is None else deadline
        return method(*args, **options)

    def _make_folder(self, key: str) -> None:
        if self._renames:  # S3 would create the bucket instead
            self._fs.makedirs(key.rpartition("/")[0], exist_ok=True)

    def _repeat(self, action: str, operation: Callable[[], T], attempts: int | None = None) -> T:
        def attempt() -> T:
            with explain_failures(action, Exception):
                return operation()

        return repeat(action, attempt, ATTEMPTS if attempts is None else attempts)


class ObjectOutput:
    """
    An object that appears once it is complete.

    :param path: the final name.
    :param digest: identifies the ids of the fetch.
    """

    def __init__(self, path: ObjectStoragePath, digest: str) -> None:
        self._path = path
        self._store = ObjectStore(path)
        name = hashlib.sha256(f"{path}\n{digest}".encode()).hexdigest()[:16]
        #: The local file that it is written to first.
        self.staging_path = private_folder() / f"{name}.staging"
        self._probe_key = f"{path.path}.{digest}.probe"

    def probe(self) -> None:
        """
        Write an object beside the final one and delete it.

        :raises RtiSmsError: the store refuses it; to refuse the deletion is only logged.
        """
        self._store.write(self._probe_key, b"")
        try:
            self._store.delete(self._probe_key)
        except STORAGE_ERRORS as error:
            log.warning("%s Delete it yourself: it shows that %s can be written", error, self._path)

    def commit(self, fill: Fill) -> None:
        """
        Write the file locally, then upload it.

        :param fill: writes the content.
        :raises RtiSmsError: the file cannot be written.
        """
        try:
            with explain_failures(f"Writing {self.staging_path}"):
                write_private(self.staging_path, fill)
            self._store.upload(self.staging_path, self._path.path)
        finally:
            self.staging_path.unlink(missing_ok=True)


def repeat(action: str, attempt: Callable[[], T], attempts: int) -> T:
    """
    Repeat something with backoff while it raises RtiSmsStorageUnavailableError.

    :param action: what it does, for the log.
    :param attempt: does it once.
    :param attempts: how often to try.
    :return: its result.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RtiSmsStorageUnavailableError),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(BACKOFF_BASE),
        before_sleep=lambda state: _log_attempt(action, state, attempts),
        reraise=True,
    )(attempt)


def _log_attempt(action: str, state: tenacity.RetryCallState, attempts: int) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "%s failed (%s). Attempt %d of %d failed, the next begins in %.1f s",
        action,
        describe(error and (error.__cause__ or error)),
        state.attempt_number,
        attempts,
        state.upcoming_sleep,
    )
