"""
The part of a bulk fetch: the records that were fetched, until the output is complete.

Each record is in a local file at once. For an object store, which cannot append to an object, the new ones are also
uploaded every few seconds, as part objects in a folder beside the output, where an attempt on another machine finds
them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from airflow_provider_rtisms.api.errors import RtiSmsTransientError
from airflow_provider_rtisms.bulk.formats import COLUMNS, Record, to_line
from airflow_provider_rtisms.bulk.store import (
    STORAGE_ERRORS,
    ObjectStore,
    RtiSmsStorageError,
    explain_failures,
    is_local,
    open_private,
    work_file,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_rtisms.bulk.store import StoragePath

log = logging.getLogger(__name__)

#: Called with each line of an earlier attempt. Returns whether it is kept; None if it is damaged.
Take: TypeAlias = Callable[[bytes], bool | None]

#: Bytes; a longer line is damage.
MAX_LINE = 4 * 1024 * 1024
#: Bytes; no header is longer.
MAX_HEADER = 1024
#: Seconds between two uploads of what has been fetched.
UPLOAD_EVERY = 10.0
#: Bytes of one part object, at most.
PIECE_SIZE = 8 * 1024 * 1024
_READ_SIZE = 1024 * 1024
#: The name of a part object, see :func:`_name_piece`.
_PIECE = re.compile(r"(?P<offset>[0-9]{12})-(?P<size>[0-9]{1,9})-[0-9a-f]{16}(?=\.jsonl$)")


def header_of(columns: Sequence[str] = COLUMNS, run: str | None = None) -> bytes:
    """Return the first line of a part: the version of its format, the columns of its records, and whose run it is."""
    belongs_to = {} if run is None else {"run": hashlib.sha256(run.encode()).hexdigest()[:16]}
    return json.dumps({"rtisms_part": 1, "columns": columns, **belongs_to}).encode() + b"\n"


#: That of records without the JSON as it came, outside of a DAG run.
HEADER = header_of()


class Part:
    """
    A header and records as JSON lines in a local file, which only its owner may read; and its copies in the store.

    The file lies beside the output, or in the folder for temporary files; the digest identifies the account and the
    ids.
    One process at a time may have it open. A file with another header is replaced: that of another version or of
    another run. One that names no run is continued.
    """

    #: Bytes of the file.
    size: int

    def __init__(
        self, output: StoragePath, digest: str, columns: Sequence[str] = COLUMNS, run: str | None = None
    ) -> None:
        self.path = work_file(output, digest, "part")
        self.columns = columns
        #: That of the file, which is the first one unless the file is older.
        self.header = header_of(columns, run)
        self._headers = {self.header, header_of(columns)}
        with explain_failures(f"Writing {self.path}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = _open_locked(self.path)
            try:
                self._begin()
            except BaseException:
                self._close()
                raise
        self._copies = None if is_local(output) else _Copies(self, cast("ObjectStoragePath", output), digest)

    @property
    def kept_at(self) -> str:
        """Where a later attempt finds the records, for people: the store, or this machine if the store refused them."""
        if self._copies is None:
            return str(self.path)
        return self._copies.url if self._copies.is_complete() else f"{self.path} on {socket.gethostname()}"

    def resume(self, take: Take) -> None:
        """Read what earlier attempts have written, and remove the lines that are damaged or not kept."""
        read = kept = len(self.header)
        moving = bytearray()  # lines that close the gap which dropped lines have left
        damaged = 0
        for line in self.lines():
            is_kept = take(line)
            if is_kept and kept == read:
                kept += len(line)
            elif is_kept:
                moving += line
            damaged += is_kept is None
            read += len(line)
            if len(moving) > _READ_SIZE:
                kept += os.pwrite(self._descriptor, moving, kept)
                moving.clear()
        kept += os.pwrite(self._descriptor, moving, kept)
        if damaged or read < self.size:
            log.warning("%s: damaged lines were removed. Their submissions are fetched again", self.path)
        if kept < self.size:
            os.ftruncate(self._descriptor, kept)
            self.size = kept
        if self._copies is not None:
            self._copies.resume(take)

    def probe(self) -> None:
        """Find out whether the store takes copies."""
        if self._copies is not None:
            self._copies.write("header", b"")

    def append(self, records: Sequence[Record]) -> None:
        """Add records; once this returns, they outlive the process."""
        self.append_lines(map(to_line, records))

    def append_lines(self, lines: Iterable[bytes]) -> None:
        with explain_failures(f"Writing {self.path}"):
            self._write(b"".join(lines))

    def is_due(self) -> bool:
        return self._copies is not None and time.monotonic() - self._copies.saved_at > UPLOAD_EVERY

    def save(self, *, is_last: bool = False) -> None:
        """Save the records where an attempt on another machine finds them; the last time with backoff."""
        if self._copies is not None:
            self._copies.save(None if is_last else 1)

    def lines(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the records from an offset on as JSON lines. A last line without its end is damage, and is left out."""
        offset, rest = max(offset, len(self.header)), b""
        while chunk := self.read(offset, _READ_SIZE):
            offset += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line + b"\n"
            if len(rest) > MAX_LINE:
                yield rest
                rest = b""

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes from an offset on, as many as there are."""
        return os.pread(self._descriptor, size, offset)

    def remove(self) -> None:
        """Remove what is no longer needed: the output is complete. A failure is only logged."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s is no longer needed, but could not be removed (%s). Remove it yourself", self.path, error)
        if self._copies is not None:
            self._copies.delete()

    def close(self) -> None:
        """Let other processes open the file; remove it if the store has all of its records."""
        if self._descriptor >= 0 and self._copies is not None and self._copies.is_complete():
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        self._close()

    def find_header(self, data: bytes) -> bytes | None:
        """Return the header that some data begins with; None if it is the part of another run or version."""
        return next((header for header in self._headers if data.startswith(header)), None)

    def why_unusable(self, data: bytes) -> str:
        """Return why this run may not continue a part, for people."""
        if data.startswith(header_of(self.columns)[:-2] + b', "run": '):
            return "belongs to another DAG run"
        return "was written by another version, or is damaged"

    def _begin(self) -> None:
        self.size = os.fstat(self._descriptor).st_size
        beginning = self.read(0, MAX_HEADER)
        header = self.find_header(beginning)
        if header is not None:
            self.header = header
        elif self.size:
            log.warning("%s %s. Its submissions are fetched again", self.path, self.why_unusable(beginning))
            self.path.unlink()  # never overwritten: it may be a hard link to a file of someone else
            self._close()
            self._descriptor = _open_locked(self.path, is_new=True)
            self.size = 0
        if not self.size:
            self._write(self.header)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.size + written)
        except BaseException:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += written


class _Copies:
    """The part objects of a part. Failures to write them are only logged."""

    def __init__(self, part: Part, output: ObjectStoragePath, digest: str) -> None:
        self.url = f"{output}.{digest}.part"
        self.saved_at = time.monotonic()
        self._part = part
        self._output = output
        self._store = ObjectStore(output)
        self._folder = f"{output.path}.{digest}.part"
        self._keys: set[str] = set()  # of our own part objects
        self._saved = len(part.header)  # bytes of the part that are in the store
        self._saving = threading.Lock()  # a cancelled fetch saves while its last upload may still run in a thread

    def is_complete(self) -> bool:
        return self._saved >= self._part.size

    def resume(self, take: Take) -> None:
        """Read the part objects that are no copies of the beginning of the part."""
        part = self._part
        is_first = part.size == len(part.header)
        for key, data in self._read_all():
            header = part.find_header(data)
            if header is None:
                log.warning("%s %s: it is not used", key, part.why_unusable(data))
            else:
                part.append_lines(filter(take, data[len(header) :].splitlines(keepends=True)))
        if is_first:
            self._saved = part.size
        # Otherwise this machine may have records that the store lacks: they are uploaded again.

    def _read_all(self) -> Iterator[tuple[str, bytes]]:
        try:
            for key in self._skip_copies(self._store.list(self._folder)):
                yield key, self._store.read(key)
        except RtiSmsStorageError as error:  # such as no permission to list or to read
            log.warning("%s The submissions that an earlier attempt has fetched are fetched again", error)

    def write(self, name: str, lines: bytes, attempts: int | None = None) -> None:
        key = f"{self._folder}/{name}.jsonl"
        self._keys.add(key)
        self._store.write(key, self._part.header + lines, attempts)

    def save(self, attempts: int | None) -> None:
        with self._saving:
            try:
                for piece in self._pieces():
                    self.write(_name_piece(self._saved, piece), piece, attempts)
                    self._saved += len(piece)
            except STORAGE_ERRORS as error:
                log.warning("%s The records are kept in %s for now", error, self._part.kept_at)
            self.saved_at = time.monotonic()

    def delete(self) -> None:
        """Delete the part objects. The output is complete, so a failure is only logged."""
        keys = self._keys
        try:
            with suppress(RtiSmsStorageError):  # no permission to list
                keys |= set(self._store.list(self._folder))
            while keys:
                self._store.delete(min(keys))
                keys.remove(min(keys))
            self._store.delete_folder(self._folder)
        except STORAGE_ERRORS as error:
            message = "%s is complete, but its part objects could not be deleted. %s Delete the folder %s yourself"
            log.warning(message, self._output, error, self.url)

    def _pieces(self) -> Iterator[bytes]:
        """Yield the lines that are not saved, in pieces of at most :data:`PIECE_SIZE` bytes, or of one line."""
        piece = bytearray()
        for line in self._part.lines(self._saved):
            if piece and len(piece) + len(line) > PIECE_SIZE:
                yield bytes(piece)
                piece.clear()
            piece += line
        if piece:
            yield bytes(piece)

    def _skip_copies(self, keys: Iterable[str]) -> list[str]:
        """
        Leave out the objects that hold the beginning of the local part, and do not upload that again.

        After a kill on this machine these are all of them. To read hundreds of megabytes twice would take long.
        """
        rest = []
        for key in keys:  # sorted, so by their offsets
            name = _PIECE.search(key)
            if name is not None and int(name["offset"]) == self._saved:
                piece = self._part.read(self._saved, int(name["size"]))
                if _name_piece(self._saved, piece) == name[0]:
                    self._saved += len(piece)
                    continue
            rest.append(key)
        return rest


def _name_piece(offset: int, lines: bytes) -> str:
    """Return the name of a part object: where its lines are in the local part, how long they are, and their digest."""
    return f"{offset:012}-{len(lines)}-{hashlib.sha256(lines).hexdigest()[:16]}"


def _open_locked(path: Path, *, is_new: bool = False) -> int:
    descriptor = open_private(path, is_new=is_new)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have finished and removed the file before we got the lock.
        is_ours = os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    except BaseException:
        os.close(descriptor)
        raise
    if not is_ours:
        os.close(descriptor)
        raise RtiSmsTransientError(f"Another process is fetching the same submissions into {path}.")
    return descriptor
