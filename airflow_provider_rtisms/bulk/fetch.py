"""A bulk fetch from submission ids to records: in memory, or into an output that appears once it is complete."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import heapq
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, RtiSmsNotFoundError, shape
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.bulk.counts import Counter, FetchStats, Progress
from airflow_provider_rtisms.bulk.formats import (
    RAW,
    LineReader,
    Record,
    columns_of,
    converter,
    missing_columns,
    stamp,
    suffix_of,
    write_rows,
)
from airflow_provider_rtisms.bulk.part import Part
from airflow_provider_rtisms.bulk.store import STORAGE_ERRORS, Output, RtiSmsStorageUnavailableError, is_local

if TYPE_CHECKING:
    from airflow_provider_rtisms.api import AsyncRtiSmsClient
    from airflow_provider_rtisms.bulk.store import StoragePath

log = logging.getLogger(__name__)

OnMissing: TypeAlias = Literal["fail", "skip"]
#: Seconds for which records may wait until they are written. To write each one by itself takes more CPU time.
COLLECT = 0.02
#: How old a record of an earlier attempt may be. It bounds what a fetch outside of a DAG run takes over.
RESUMED_FOR = timedelta(hours=24)


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
    log.info("Bulk fetch done: %s", stats.summary(client.stats, None, str(missing) if missing else None))
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

    Until the file is complete, the records are kept in a :class:`~airflow_provider_rtisms.bulk.part.Part`. If the same
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
            size = output.commit(lambda file: convert(lines, file))
            part.remove()
            return {"path": str(path), "bytes": size}

        # In a store, the part writes an object that stays until the end.
        return Target(str(path), part, output.probe if is_local(path) else part.probe, write)

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
            Progress(lambda: f"{looking}: {stats.resumed:,} so far, {stats.requested:,} submissions in all")
        )
        digest = _digest(client, ids)
        missing = _open_missing(missing_path, digest)
        target = open_target(digest)
        part = stack.enter_context(closing(target.part))
        _resume(part, ids, stats)
        target.probe()
        if stats.resumed:
            log.info("An earlier attempt has fetched %d of %d submissions", stats.resumed, stats.requested)
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
                kept = f"{stats.fetched} of {stats.requested} submissions are kept in {part.kept_at}"
                error.args = (f"{error} {kept}; the same fetch goes on from there.",)
            raise
        summary = stats.summary(client.stats, None, str(missing) if missing else None) | written
    log.info("Bulk fetch done: %s", summary)
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
