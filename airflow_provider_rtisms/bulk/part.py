"""Write fetched records to disk at once, so that a later attempt does not request them again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from airflow_provider_rtisms.api.errors import RtiSmsTransientError
from airflow_provider_rtisms.bulk.local_files import open_private
from airflow_provider_rtisms.bulk.records import COLUMNS, Record, parse_record
from airflow_provider_rtisms.bulk.storage_errors import explain_failures

log = logging.getLogger(__name__)

#: Bytes; a longer line is damage.
MAX_LINE = 4 * 1024 * 1024
_READ_SIZE = 1024 * 1024
#: Bytes; no header is longer.
MAX_HEADER = 1024


def header_of(columns: Sequence[str] = COLUMNS, run: str | None = None) -> bytes:
    """
    Return the first line of a part: the version of its format, the columns of its records, and the run it belongs to.

    :param columns: of the records.
    :param run: identifies the DAG run; None outside of one, and in parts of older releases.
    """
    belongs_to = {} if run is None else {"run": hashlib.sha256(run.encode()).hexdigest()[:16]}
    return json.dumps({"rtisms_part": 1, "columns": columns, **belongs_to}).encode() + b"\n"


#: That of records without the JSON as it came, outside of a DAG run.
HEADER = header_of()


class PartFile:
    """
    A header and records as JSON lines in a local file, which only its owner may read.

    One process at a time may have it open. Use it as a context manager.

    :param path: the file; created if it is missing, continued if it is there. A file with another header is replaced:
        that of another version or of another run. One that names no run is continued, see :func:`header_of`.
    :param columns: of the records.
    :param run: identifies the DAG run; None outside of one.
    :raises RtiSmsTransientError: another process has it open.
    :raises RtiSmsError: the file cannot be written, or a symbolic link has that name.
    """

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS, run: str | None = None) -> None:
        self.path = path
        self.columns = columns
        #: That of the file, which is the first one unless the file is older.
        self.header = header_of(columns, run)
        self._headers = {self.header, header_of(columns)}
        with explain_failures(f"Writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = _open_locked(path)
            self._begin()

    def _begin(self) -> None:
        path = self.path
        try:
            self.size = os.fstat(self._descriptor).st_size
            beginning = os.pread(self._descriptor, MAX_HEADER, 0)
            header = self.find_header(beginning)
            if header is not None:
                self.header = header
            elif self.size:
                log.warning("%s %s. Its submissions are fetched again", path, self.why_unusable(beginning))
                path.unlink()  # never overwritten: it may be a hard link to a file of someone else
                self.close()
                self._descriptor = _open_locked(path, is_new=True)
                self.size = 0
            if not self.size:
                self._write(self.header)
        except BaseException:
            self.close()
            raise

    def find_header(self, data: bytes) -> bytes | None:
        """
        Return the header of a part that this run may continue; None if it is the part of another run or version.

        :param data: the beginning of the part, or all of it.
        """
        return next((header for header in self._headers if data.startswith(header)), None)

    def why_unusable(self, data: bytes) -> str:
        """
        Return why this run may not continue a part, for people.

        :param data: the beginning of the part, or all of it.
        """
        if data.startswith(header_of(self.columns)[:-2] + b', "run": '):
            return "belongs to another DAG run"
        return "was written by another version, or is damaged"

    def resume(self, accept: Callable[[Record], bool]) -> None:
        """
        Read what an earlier attempt has written, and remove the lines that are damaged or not accepted.

        :param accept: called with each record; returns False for a record that does not belong here.
        """
        read = kept = len(self.header)
        damaged = 0
        for line in self._lines(len(self.header)):
            read += len(line)
            record = parse_record(line, self.columns)
            damaged += record is None
            if record is not None and accept(record):
                if kept < read - len(line):  # close the gap that a dropped line left
                    os.pwrite(self._descriptor, line, kept)
                kept += len(line)
        if damaged or read < self.size:
            log.warning("%s: damaged lines were removed. Their submissions are fetched again", self.path)
        if kept < self.size:
            os.ftruncate(self._descriptor, kept)
            self.size = kept

    def append(self, records: Sequence[Record]) -> None:
        """
        Add records; once this returns, they outlive the process.

        :raises RtiSmsError: the disk is full, for example; the file then is as it was before.
        """
        with explain_failures(f"Writing {self.path}"):
            self._write("".join(json.dumps(record) + "\n" for record in records).encode())

    def lines(self) -> Iterator[bytes]:
        """Yield the records as JSON lines."""
        return self._lines(len(self.header))

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        """
        Yield the lines that begin at an offset or later, in pieces of whole lines.

        :param offset: bytes from the beginning of the file; a line begins there.
        :param size: bytes of a piece, at most; a longer line is a piece of its own.
        """
        piece = bytearray()
        for line in self._lines(max(offset, len(self.header))):
            if piece and len(piece) + len(line) > size:
                yield bytes(piece)
                piece.clear()
            piece += line
        if piece:
            yield bytes(piece)

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes from an offset on, as many as there are."""
        return os.pread(self._descriptor, size, offset)

    def remove(self) -> None:
        """Remove the file, which is no longer needed. A failure is only logged."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s is no longer needed, but could not be removed (%s). Remove it yourself", self.path, error)

    def close(self) -> None:
        """Let other processes open the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.size + written)
        except BaseException:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += written

    def _lines(self, offset: int) -> Iterator[bytes]:
        """Yield the lines from an offset on. A last line without its end is damage, and is left out."""
        rest = b""
        while chunk := os.pread(self._descriptor, _READ_SIZE, offset):
            offset += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line + b"\n"
            if len(rest) > MAX_LINE:
                yield rest
                rest = b""


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
