"""
A bulk fetch from submission ids to records: in memory, or into an output that appears once it is complete.

:func:`fetch_to_target` has the steps. Until the output is complete, a :class:`Part` keeps the records. Each record is
in a local file at once. For an object store, which cannot append to an object, the new ones are also uploaded every few
seconds, as part objects in a folder beside the output, where an attempt on another machine finds them. What a fetch
counts, for the lines of progress, the summary and the errors, is in :class:`FetchStats`.
"""

from __future__ import annotations

import asyncio
import collections
import copy
import fcntl
import hashlib
import heapq
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, cast

from airflow_provider_rtisms.api.errors import (
    RtiSmsError,
    RtiSmsInputError,
    RtiSmsNotFoundError,
    RtiSmsRateLimitError,
    RtiSmsTransientError,
    shape,
)
from airflow_provider_rtisms.api.models import SmsDetails, parse_utc
from airflow_provider_rtisms.api.values.arguments import describe_progress, plural
from airflow_provider_rtisms.bulk.store import (
    COLUMNS,
    RAW,
    STORAGE_ERRORS,
    ObjectStore,
    Output,
    Record,
    RtiSmsStorageError,
    RtiSmsStorageUnavailableError,
    columns_of,
    converter,
    explained,
    is_local,
    missing_columns,
    open_private,
    suffix_of,
    to_line,
    work_file,
    write_rows,
)

if TYPE_CHECKING:
    from airflow_provider_rtisms.api import AsyncRtiSmsClient
    from airflow_provider_rtisms.api.retrying import Stats
    from airflow_provider_rtisms.bulk.store import StoragePath
    from airflow_provider_rtisms.compat import ObjectStoragePath

log = logging.getLogger(__name__)

OnMissing: TypeAlias = Literal["fail", "skip"]
#: Seconds for which records may wait until they are written. To write each one by itself takes more CPU time.
COLLECT = 0.02
#: How old a record of an earlier attempt may be. It bounds what a fetch outside of a DAG run takes over.
RESUMED_FOR = timedelta(hours=24)
#: Seconds between two lines of progress.
PROGRESS_EVERY = 5.0
#: How many ids an error message names.
NAMED_IN_MESSAGE = 10
#: After this many submissions in a row that could not be fetched, the fetch ends: the API is down.
GIVE_UP_AFTER = 50
#: The part of :meth:`FetchStats.summary` that describes the records. It names no id and no path.
COUNTS = ("requested", "fetched", "missing", "duplicates", "by_status", "by_operator", "cost", "bytes")
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
#: How far the clocks of two workers may differ. A record that claims to be newer would keep later ones out of a table.
MAX_CLOCK_SKEW = timedelta(minutes=5)


class DistinctIds:
    """Distinct submission ids in their order, read to the end at once. A million of them take about 75 MiB."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids: dict[int, None] = {}  # of numbers, which take half of the memory of strings
        self._missing: list[int] = []
        self._reasons: list[str] = []
        self._texts: dict[str, str] = {}
        given = Counter()
        with Progress(lambda: f"Reading submission ids: {given} so far, {given.per_second}"):
            for submission_id in ids:
                self._ids[int(submission_id)] = None
                given.count += 1
        #: How many ids were repeats.
        self.duplicates: int = given.count - len(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._ids)

    def discard(self, submission_id: int | str) -> bool:
        return self._ids.pop(int(submission_id), self) is None

    def add_missing(self, submission_id: str, reason: str) -> None:
        """Remember an id that the API does not know. Reasons that differ in the id only are kept once."""
        text = reason.replace(submission_id, "\0")
        self._missing.append(int(submission_id))
        self._reasons.append(self._texts.setdefault(text, text))

    def missing(self) -> Iterator[tuple[str, str]]:
        """Yield the ids that the API does not know, with the reasons, in the order of arrival."""
        for number, reason in zip(self._missing, self._reasons, strict=True):
            yield str(number), reason.replace("\0", str(number))

    def digest(self, *context: str) -> str:
        """Return what identifies this set of ids, whatever their order: 16 hexadecimal digits."""
        by_length: dict[int, list[int]] = {}
        for number in self._ids:
            by_length.setdefault(len(str(number)), []).append(number)
        # Numbers of equal length have the order of their texts. A digest of texts is what older releases have stored.
        ordered = [map(str, sorted(numbers)) for numbers in by_length.values()]
        texts = ordered[0] if len(ordered) == 1 else heapq.merge(*ordered)
        digest = hashlib.sha256("\n".join(context).encode())
        while some := list(islice(texts, 1000)):
            digest.update(("\n" + "\n".join(some)).encode())
        return digest.hexdigest()[:16]


@dataclass
class Target:
    """The output of a bulk fetch. ``write`` takes JSON lines, maybe twice, and returns what the summary says of it."""

    name: str
    part: Part
    probe: Callable[[], None]
    write: Callable[[Iterable[bytes]], dict[str, Any]]


async def fetch_to_memory(
    client: AsyncRtiSmsClient,
    ids: DistinctIds,
    on_missing: OnMissing = "fail",
    missing_path: StoragePath | None = None,
) -> list[Record]:
    """Return records in the order of arrival. Arguments and errors are those of :func:`fetch_to_target`."""
    check_on_missing(on_missing)
    missing = _open_missing(missing_path, _digest(client, ids))
    records: list[Record] = []
    stats = FetchStats(len(ids), ids.duplicates)
    with Progress(lambda: stats.progress(client.stats)):
        async with aclosing(_fetch(client, ids, stats)) as batches:
            async for batch in batches:
                records += batch
    _handle_missing(ids, stats, on_missing, missing)
    stats.log_summary(stats.summary(client.stats, None, str(missing) if missing else None))
    return records


async def fetch_to_file(
    client: AsyncRtiSmsClient,
    ids: DistinctIds,
    path: StoragePath,
    on_missing: OnMissing = "fail",
    missing_path: StoragePath | None = None,
    *,
    raw: bool = False,
    run: str | None = None,
) -> dict[str, Any]:
    """
    Fetch many submissions into a file, as a stream, and return the summary.

    Until the file is complete, the records are kept in a :class:`Part`. If the same
    account fetches the same ids into the same file again in the same DAG run, only the rest is requested: what has no
    record, a record that was not final, or one that is older than :data:`RESUMED_FOR`.

    :param client: an opened client, on an event loop that no one else needs: files are written on it.
    :param ids: what to fetch; the ids that an earlier attempt has fetched are removed.
    :param run: identifies the DAG run; None outside of one.
    :raises RtiSmsPermanentError: missing ids, at the end; anything else, such as 403, at once.
    :raises RtiSmsTransientError: the attempts of some ids were used up: at the end, or at once if the API seems down.
    :raises RtiSmsStorageError: a file cannot be written; found out before the first request, if it can be.
    :raises RtiSmsStorageUnavailableError: a file cannot be written at the moment.
    """
    if str(missing_path) == str(path):
        raise RtiSmsInputError("missing_path is the same as output_path: use another name.")
    columns = columns_of(raw)
    convert = converter(path.name, columns)

    def open_file(digest: str) -> Target:
        part, output = Part(path, digest, columns, run), Output(path, digest)

        def write(lines: Iterable[bytes]) -> dict[str, Any]:
            part.save(is_last=True)
            size = output.commit(partial(convert, lines))
            part.remove()
            return {"path": str(path), "bytes": size}

        # In a store, the part writes an object that stays until the end.
        return Target(str(path), part, part.probe if part.is_copied else output.probe, write)

    return await fetch_to_target(client, ids, open_file, on_missing, missing_path)


async def fetch_to_target(
    client: AsyncRtiSmsClient,
    ids: DistinctIds,
    open_target: Callable[[str], Target],
    on_missing: OnMissing = "fail",
    missing_path: StoragePath | None = None,
) -> dict[str, Any]:
    """Do what :func:`fetch_to_file` does, for the output that identifies the account and the ids by a digest."""
    check_on_missing(on_missing)
    stats = FetchStats(len(ids), ids.duplicates)
    looking = "Looking for records of an earlier attempt"
    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress(lambda: f"{looking}: {stats.resumed:,} so far, {plural(stats.requested, 'submission')} in all")
        )
        digest = _digest(client, ids)
        missing = _open_missing(missing_path, digest)
        target = open_target(digest)
        part = stack.enter_context(closing(target.part))
        _resume(part, ids, stats)
        target.probe()
        if stats.resumed:
            log.info("Fetched in an earlier attempt: %d of %s", stats.resumed, plural(stats.requested, "submission"))
        log.info("Records are kept in %s until %s is complete", part.kept_at, target.name)
        try:
            progress.describe = lambda: stats.progress(client.stats)
            async with aclosing(_fetch(client, ids, stats, raw=RAW in part.columns)) as batches:
                async for batch in batches:
                    stamp(batch, datetime.now(UTC))
                    part.append(batch)
                    if part.is_due():
                        await asyncio.to_thread(part.save)
            _handle_missing(ids, stats, on_missing, missing)
            lines = _AllLines(target, stats)
            progress.describe = lines.progress
            written = target.write(lines)
        except BaseException as error:
            # A refused save is not repeated if the store has just failed, or if the task is killed.
            part.save(is_last=isinstance(error, RtiSmsError) and not isinstance(error, STORAGE_ERRORS))
            if isinstance(error, RtiSmsError):
                total = plural(stats.requested, "submission is", "submissions are")
                kept = f"{stats.fetched} of {total} kept in {part.kept_at}"
                error.args = (f"{error} {kept}; the same fetch goes on from there.",)
            raise
        summary = stats.summary(client.stats, None, str(missing) if missing else None) | written
    stats.log_summary(summary)
    return summary


def check_on_missing(value: Any) -> None:
    """Check an operator's ``on_missing``."""
    if value not in ("fail", "skip"):
        raise RtiSmsInputError(f'on_missing is {shape(value)}: use "fail" or "skip".')


def _digest(client: AsyncRtiSmsClient, ids: DistinctIds) -> str:
    return ids.digest(client.settings.base_url, client.settings.client_id)


async def _fetch(
    client: AsyncRtiSmsClient, ids: DistinctIds, stats: FetchStats, *, raw: bool = False
) -> AsyncGenerator[list[Record], None]:
    """Yield records in batches. At the end, raise for what could not be fetched."""
    from airflow_provider_rtisms.api.aio import fetch_batches

    async with aclosing(fetch_batches(client, ids, COLLECT, raw=raw)) as batches:
        async for batch in batches:
            records = []
            for submission_id, outcome in batch:
                record = stats.note(submission_id, outcome)
                if record is not None:
                    if raw and isinstance(outcome, SmsDetails):
                        record[RAW] = outcome.raw
                    records.append(record)
                elif isinstance(outcome, RtiSmsNotFoundError):
                    ids.add_missing(submission_id, str(outcome))
            yield records
            if records:
                client.stats.on_records(len(records))
            if stats.fatal is not None:
                raise stats.fatal
    stats.raise_for_failures()


def _open_missing(path: StoragePath | None, digest: str) -> Output | None:
    """Return the file for ids that the API does not know; find out whether it can be written."""
    if path is None:
        return None
    if suffix_of(path.name)[0] == ".parquet":
        raise RtiSmsInputError(f"missing_path ends in {path.name[-20:]!r}: use .txt, .csv or .jsonl.")
    output = Output(path, digest)
    output.probe()
    return output


def _handle_missing(ids: DistinctIds, stats: FetchStats, on_missing: OnMissing, output: Output | None) -> None:
    """Write the file of ids that the API does not know, so that a person can look at them, and log or raise them."""
    if output is not None:
        name = output.path.name
        rows = ({"submission_id": one, "reason": reason} for one, reason in ids.missing())
        output.commit(lambda file: write_rows(name, missing_columns(name), rows, file))
    stats.handle_missing(missing_ok=on_missing == "skip", missing_path=str(output) if output else None)


def _resume(part: Part, ids: DistinctIds, stats: FetchStats) -> None:
    """Use the records of earlier attempts, unless they may have changed since then, or belong to other ids."""
    reader = LineReader(part.columns)
    oldest = (datetime.now(UTC) - RESUMED_FOR).isoformat(timespec="seconds")
    taken: collections.Counter[tuple[Any, Any, Any]] = collections.Counter()

    def take(line: bytes) -> bool | None:
        found = reader.read(line)
        if found is None:
            return None
        submission_id, fetched_at, example = found
        is_current = example["is_final"] and fetched_at >= oldest  # both are UTC in ISO 8601
        if not is_current or not ids.discard(submission_id):
            return False
        taken[example["status"], example["operator_name"], example["cost"]] += 1
        stats.resumed += 1
        return True

    part.resume(take)
    for (status, operator_name, cost), count in taken.items():
        stats.add({"status": status, "operator_name": operator_name, "cost": cost}, count)


class _AllLines:
    """The lines of a part, as many as were fetched; may be read again."""

    def __init__(self, target: Target, stats: FetchStats) -> None:
        self._target, self._stats, self._read = target, stats, Counter()

    def __iter__(self) -> Iterator[bytes]:
        if self._read.count:
            self._read = Counter()
        for line in self._target.part.lines():
            self._read.count += 1
            yield line
        if self._read.count != self._stats.fetched:
            raise RtiSmsStorageUnavailableError(
                f"{self._target.part.path} holds {self._read} records, but {self._stats.fetched:,} were fetched: "
                "another program has changed it."
            )

    def progress(self) -> str:
        total = f"{self._stats.fetched:,}"
        if self._read.count >= self._stats.fetched:
            return f"Writing {self._target.name}: all {total} records are converted, saving them"
        return f"Writing {self._target.name}: {self._read} of {total} records converted, {self._read.per_second}"


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
        self._descriptor = -1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = _open_locked(self.path)
            self._begin()
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                raise explained(f"Writing {self.path}", error) from error
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

    @property
    def is_copied(self) -> bool:
        """Whether the output is in a store, so that the records are copied there."""
        return self._copies is not None

    def probe(self) -> None:
        """Find out whether the store takes copies."""
        if self._copies is not None:
            self._copies.write("header", b"")

    def append(self, records: Sequence[Record]) -> None:
        """Add records; once this returns, they outlive the process."""
        self.append_lines(map(to_line, records))

    def append_lines(self, lines: Iterable[bytes]) -> None:
        try:
            self._write(b"".join(lines))
        except OSError as error:
            raise explained(f"Writing {self.path}", error) from error

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


def stamp(records: Iterable[Record], moment: datetime) -> None:
    fetched_at = moment.isoformat(timespec="seconds")
    for record in records:
        raw = record.pop(RAW, None)
        record["fetched_at"] = fetched_at
        if raw is not None:
            record[RAW] = raw


def parse_record(line: bytes, columns: Sequence[str] = COLUMNS) -> Record | None:
    """
    Return the record of a line of a part; None if it is damaged, or if this version would not write this very line.

    Anybody who may write to the folder or to the bucket may have written it, so it is checked as a response is.
    """
    try:
        record = json.loads(line)
        details = SmsDetails.from_record(record)
        fetched_at = parse_utc(record["fetched_at"])
        if fetched_at is None or fetched_at > datetime.now(UTC) + MAX_CLOCK_SKEW:
            return None
        expected = {**details.to_record(), "fetched_at": fetched_at.isoformat()}
        if RAW in columns:
            expected[RAW] = record[RAW]
            if SmsDetails.from_response(details.submission_id, json.loads(record[RAW])) != details:
                return None
        return expected if line == to_line(expected) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


_TIME = rb"([0-9]{4}-[0-9]{2}-[0-9]{2})T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\+00:00"
_VALUE = rb"[^,\n]++"
#: A line as :func:`to_line` writes it, if no value holds a comma: the id, what repeats from line to line, and times.
_LINE = re.compile(
    rb'\{"submission_id": "(0|[1-9][0-9]{0,99})", '
    rb'("status": %(value)b, "status_code": %(value)b, "is_final": (?:true|false)), '
    rb'"registered_at": (?:"%(time)b"|null), "sent_at": (?:"%(time)b"|null), "done_at": (?:"%(time)b"|null), '
    rb'("cost": %(value)b, "operator_id": %(value)b, "operator_name": %(value)b, "operator_mcc": %(value)b, '
    rb'"operator_mnc": %(value)b), "fetched_at": "(%(time)b)"\}\n' % {b"value": _VALUE, b"time": _TIME}
)


class LineReader:
    """
    Reads many lines of a part, at a fraction of the cost of :func:`parse_record`, which decides what is good.

    The values of a line are good each by itself, except that ``is_final`` follows from the status and from whether
    there is a ``done_at``. So a line is good if its status, cost and network stood together in a good line, and the
    dates of its times in others. Everything else is asked of :func:`parse_record`.
    """

    #: What is remembered, at most.
    MOST = 10_000

    def __init__(self, columns: Sequence[str] = COLUMNS) -> None:
        self._columns = columns
        self._newest = (datetime.now(UTC) + MAX_CLOCK_SKEW).isoformat(timespec="seconds").encode()
        self._examples: dict[tuple[bytes, bool, bytes], Record] = {}
        self._dates: set[bytes | None] = {None}

    def read(self, line: bytes) -> tuple[int, str, Record] | None:
        """
        Return a line's submission id, when it was fetched, and a record with the same status, ``is_final``, cost and
        network, which may be that of another line; None if the line is damaged.
        """
        found = _LINE.fullmatch(line) if self._columns == COLUMNS else None
        if found is None:
            record = parse_record(line, self._columns)
            if record is None or record["submission_id"] != str(number := int(record["submission_id"])):
                return None
            return number, record["fetched_at"], record
        submission_id, status, registered, sent, done, rest, fetched_at, fetched = found.groups()
        key, dates = (status, done is None, rest), self._dates
        example = self._examples.get(key)
        if (
            example is None
            or fetched_at > self._newest
            or not (registered in dates and sent in dates and done in dates and fetched in dates)
        ):
            example = parse_record(line)
            if example is None:
                return None
            if len(dates) < self.MOST and len(self._examples) < self.MOST:
                dates.update((registered, sent, done, fetched))
                self._examples[key] = example
        return int(submission_id), fetched_at.decode(), example


class Progress:
    """Logs a line every few seconds, from a thread of its own, until its ``with`` block ends."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self.describe = describe
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rtisms-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(PROGRESS_EVERY):
            log.info("%s", self.describe())


class Counter:
    """Counts something since now, and tells how fast it grows."""

    def __init__(self) -> None:
        self.count = 0
        self._started = time.monotonic()

    def __str__(self) -> str:
        return f"{self.count:,}"

    @property
    def per_second(self) -> str:
        return f"{self.count / max(time.monotonic() - self._started, 0.001):,.0f} a second"


class FetchStats:
    """Counts of one bulk fetch."""

    def __init__(self, requested: int, duplicates: int) -> None:
        self.requested = requested
        self.duplicates = duplicates
        self.fetched = self.resumed = self.missing = self.failed = 0
        #: What ends the fetch before all is done.
        self.fatal: RtiSmsError | None = None
        self._failed_in_a_row = 0
        self._first_failure: RtiSmsError | None = None
        self._first_missing: RtiSmsError | None = None
        self._named_missing: list[str] = []
        self._by_status: collections.Counter[str] = collections.Counter()
        self._by_operator: collections.Counter[str] = collections.Counter()
        self._cost: int | Decimal = 0
        self._started = time.monotonic()

    def note(self, submission_id: str, outcome: SmsDetails | RtiSmsError) -> dict[str, Any] | None:
        """Count what came for an id, and return the record to keep, if there is one."""
        if isinstance(outcome, SmsDetails):
            self._failed_in_a_row = 0
            record = outcome.to_record()
            self.add(record)
            return record
        if isinstance(outcome, RtiSmsNotFoundError):
            self._failed_in_a_row = 0
            self.missing += 1
            self._first_missing = self._first_missing or outcome
            if self.missing <= NAMED_IN_MESSAGE:
                self._named_missing.append(submission_id)
            return None
        self.failed += 1
        self._failed_in_a_row += 1
        self._first_failure = self._first_failure or outcome
        # A rate limit that persists concerns the other ids as well, like every permanent error.
        concerns_all = isinstance(outcome, RtiSmsRateLimitError) or not isinstance(outcome, RtiSmsTransientError)
        if concerns_all or self._failed_in_a_row >= GIVE_UP_AFTER:
            self.fatal = self.fatal or outcome
        return None

    def add(self, record: Mapping[str, Any], count: int = 1) -> None:
        """Count records, as many as there are with this status, network and cost."""
        self.fetched += count
        self._by_status[record["status"] or "no status"] += count
        self._by_operator[record["operator_name"] or "no operator"] += count
        if cost := record["cost"]:
            self._cost += count * (cost if type(cost) is int else Decimal(str(cost)))

    def raise_for_failures(self) -> None:
        """Raise, with the class of the first failure, if any submission is neither fetched nor unknown to the API."""
        if (first := self._first_failure) is not None:
            raise _like(
                first,
                f"{self.failed} of {plural(self.requested, 'submission')} could not be fetched. The first: {first}",
            )
        if lost := self.requested - self.fetched - self.missing:
            raise RtiSmsTransientError(
                f"{lost} of {plural(self.requested, 'submission')} got no response. This is a defect of this "
                "package: report it."
            )

    def handle_missing(self, *, missing_ok: bool, missing_path: str | None) -> None:
        """Log the ids that the API does not know, or raise RtiSmsNotFoundError for them; it names the first few."""
        if self._first_missing is not None:
            more = self.missing - len(self._named_missing)
            names = ", ".join(self._named_missing) + (f" and {more} more" if more else "")
            count = f"{self.missing} of {plural(self.requested, 'submission is', 'submissions are')}"
            what = f"{count} unknown to the API (HTTP 404): {names}."
            what += f" All of them are in {missing_path}." if missing_path else ""
            if not missing_ok:
                raise _like(self._first_missing, f'{what} Check the ids, or set on_missing="skip".')
            log.warning("%s", what)

    def progress(self, stats: Stats) -> str:
        """Return a line for people: done, total, per second, retries, time left."""
        done = self.fetched + self.missing + self.failed
        per_second = (done - self.resumed) / max(time.monotonic() - self._started, 0.001)
        line = describe_progress(done, self.requested, "submission", per_second)
        return f"{line}, {plural(stats.retries, 'retry', 'retries')}" if stats.retries else line

    def summary(self, stats: Stats, path: str | None, missing_path: str | None) -> dict[str, Any]:
        """
        Return the counts, JSON-safe.

        :param stats: of the client that has fetched.
        :param path: where the records are, or None.
        :param missing_path: where the missing ids are, or None.
        :return: ``path``, ``requested`` (distinct ids), ``fetched`` (records, those of earlier attempts included),
            ``missing`` (how many ids the API does not know), ``missing_ids`` (the first 10 of them), ``missing_path``,
            ``by_status``, ``by_operator``, ``cost`` (total), ``duplicates``, ``bytes`` (size of the file of records);
            and of this attempt alone ``resumed`` (records taken over), ``requests``, ``tokens``, ``retries``,
            ``throttled`` (429), ``seconds``.
        """
        return {
            "path": path,
            "requested": self.requested,
            "fetched": self.fetched,
            "missing": self.missing,
            "missing_ids": list(self._named_missing),
            "missing_path": missing_path,
            **self.totals(),
            "bytes": None,
            "resumed": self.resumed,
            "requests": stats.requests,
            "tokens": stats.tokens,
            "retries": stats.retries,
            "throttled": stats.throttled,
            "seconds": round(time.monotonic() - self._started, 3),
        }

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Log a summary in short lines: the UI cuts long ones."""
        log.info("Bulk fetch done in %.1f s:", summary["seconds"])
        earlier = f", {self.resumed:,} of them in an earlier attempt" if self.resumed else ""
        lines = {
            "fetched": f"{self.fetched:,} of {plural(self.requested, 'submission')}{earlier}",
            "unknown": self.missing and f"{self.missing:,} (HTTP 404), such as {', '.join(self._named_missing)}",
            "repeated ids": self.duplicates and f"{self.duplicates:,}",
            "status": ", ".join(f"{count:,} {name}" for name, count in self._by_status.most_common()),
            "network": ", ".join(f"{count:,} {name}" for name, count in self._by_operator.most_common(5)),
            "cost": f"{summary['cost']:,}",
            "requests": f"{summary['requests']:,}, {plural(summary['retries'], 'retry', 'retries')}, "
            f"{summary['throttled']:,} refused with 429",
            "file": summary["path"],
            "table": summary.get("table"),
            "unknown ids": summary["missing_path"],
        }
        for name, value in lines.items():
            if value:
                log.info("  %-13s %s", name, value)

    def totals(self) -> dict[str, Any]:
        """Return ``by_status``, ``by_operator``, ``cost`` and ``duplicates`` of :meth:`summary`."""
        return {
            "by_status": dict(self._by_status.most_common()),
            "by_operator": dict(self._by_operator.most_common()),
            "cost": int(self._cost) if self._cost == int(self._cost) else float(self._cost),
            "duplicates": self.duplicates,
        }


def counts_in(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the :data:`COUNTS` of a summary, which may be shown wherever it goes, without those that are None."""
    return {name: summary[name] for name in COUNTS if summary[name] is not None}


def counts_of(records: Iterable[Mapping[str, Any]], requested: int, duplicates: int) -> dict[str, Any]:
    """Return the same for a fetch into memory that has succeeded."""
    stats = FetchStats(requested, duplicates)
    for record in records:
        stats.add(record)
    missing = requested - stats.fetched
    return {"requested": requested, "fetched": stats.fetched, "missing": missing, **stats.totals()}


def _like(error: RtiSmsError, message: str) -> RtiSmsError:
    made = copy.copy(error)
    made.args = (message,)
    return made
