"""Write fetched records to disk at once, so that a later attempt does not request them again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from airflow_provider_rtisms.api.errors import RtiSmsTransientError

Record = dict[str, Any]


class PartFile:
    """
    Records as JSON lines in a local file, for one process at a time. A line that a kill has cut off is dropped.

    Use it as a context manager.

    :param path: the file; made if it is missing, continued if it is there.
    :raises RtiSmsTransientError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before may have finished meanwhile; then this is no part any more.
            is_free = path.exists() and os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        except BlockingIOError:
            is_free = False
        if not is_free:
            self._file.close()
            raise RtiSmsTransientError(f"Another process is fetching the same submissions into {path}.")

    def resume(self, accept: Callable[[Record], bool]) -> None:
        """
        Read what an earlier attempt has written, up to the first line that does not belong there.

        :param accept: called with each record; returns False for one that does not belong.
        """
        self._file.seek(0)
        good = 0
        for line in self._file:
            if not line.endswith(b"\n") or not accept(_read(line)):
                break
            good += len(line)
        self._file.truncate(good)
        self._file.seek(good)

    def append(self, records: Sequence[Record]) -> None:
        """Add records; once this returns, they outlive the process."""
        self._file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        self._file.flush()

    def tail(self, offset: int) -> bytes:
        """Return what has been added since the file was that long (bytes)."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _read(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
