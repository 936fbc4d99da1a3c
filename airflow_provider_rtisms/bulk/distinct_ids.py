"""The submission ids of a bulk fetch, each once, in bounded memory."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from airflow_provider_rtisms.bulk.progress import Counter, Progress
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageUnavailableError

#: Ids that are read from the database at a time.
CHUNK = 1000


class DistinctIds:
    """
    Distinct submission ids in their order, kept in a temporary database that SQLite deletes by itself.

    A Python set of a million ids takes 100 MB. This takes 2 MB of cache, 60 MB of disk and 1.4 s (4.6 s if the ids
    come in random order): little beside the minutes that fetching them takes. Use it as a context manager.

    :param ids: checked ids; read to the end at once, so that a malformed id is found before the first request.
    :raises RtiSmsStorageUnavailableError: the folder for temporary files is full.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        # An empty name means a file of its own in the folder for temporary files. Any thread may use it, since
        # api.fetch.run starts a thread if an event loop is running already.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._given = Counter()
        try:
            with (
                _explained(),
                Progress(lambda: f"Reading submission ids: {self._given} so far, {self._given.per_second}"),
            ):
                self._database.execute("PRAGMA journal_mode = OFF")
                self._database.execute("CREATE TABLE ids (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)")
                self._database.execute("CREATE TABLE missing (id TEXT NOT NULL, reason TEXT NOT NULL)")
                self._database.execute("BEGIN")  # never committed: nothing here outlives the process
                self._database.executemany("INSERT OR IGNORE INTO ids (id) VALUES (?)", self._counted(ids))
                self._left: int = self._database.execute("SELECT count(*) FROM ids").fetchone()[0]
        except BaseException:
            self.close()
            raise
        #: How many ids were repeats.
        self.duplicates: int = self._given.count - self._left

    def __len__(self) -> int:
        """How many ids are left."""
        return self._left

    def __iter__(self) -> Iterator[str]:
        """Yield the ids in their order."""
        for some in self._chunks("position"):
            yield from some

    def discard(self, submission_id: str) -> bool:
        """Remove an id; return whether it was there."""
        try:
            cursor = self._database.execute("DELETE FROM ids WHERE id = ?", [submission_id])
        except sqlite3.Error as error:
            raise _explain(error) from error
        self._left -= cursor.rowcount
        return cursor.rowcount > 0

    def add_missing(self, submission_id: str, reason: str) -> None:
        """
        Remember an id that the API does not know.

        :param submission_id: which.
        :param reason: what the API said.
        """
        with _explained():
            self._database.execute("INSERT INTO missing VALUES (?, ?)", [submission_id, reason])

    def missing(self) -> Iterator[tuple[str, str]]:
        """Yield the ids that the API does not know, with the reasons, in the order of arrival."""
        with _explained():
            yield from self._database.execute("SELECT id, reason FROM missing ORDER BY rowid")

    def digest(self, *context: str) -> str:
        """
        Return what identifies this set of ids, whatever their order: 16 hexadecimal digits.

        :param context: what else the digest depends on.
        """
        digest = hashlib.sha256("\n".join(context).encode())
        for some in self._chunks("id"):
            digest.update("".join(f"\n{submission_id}" for submission_id in some).encode())
        return digest.hexdigest()[:16]

    def close(self) -> None:
        """Delete the temporary database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chunks(self, order: str) -> Iterator[list[str]]:
        """Yield the ids some at a time: to go to SQLite for each one takes several times as long."""
        with _explained():
            rows = self._database.execute(f"SELECT id FROM ids ORDER BY {order}")  # noqa: S608  # a column of ours
            while some := rows.fetchmany(CHUNK):
                yield [submission_id for (submission_id,) in some]

    def _counted(self, ids: Iterable[str]) -> Iterator[tuple[str]]:
        for submission_id in ids:
            self._given.count += 1
            yield (submission_id,)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(error) from error


def _explain(error: sqlite3.Error) -> RtiSmsStorageUnavailableError:
    return RtiSmsStorageUnavailableError(
        f"Keeping the submission ids in a temporary SQLite database failed ({error}). Free some space in the "
        "folder for temporary files, or set the environment variable SQLITE_TMPDIR to a larger folder."
    )
