"""A bulk fetch from distinct ids to records: in memory, or into an output that appears once it is complete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient, fetch_batches
from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, RtiSmsNotFoundError, shape
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.fetch_stats import FetchStats
from airflow_provider_rtisms.bulk.formats import converter
from airflow_provider_rtisms.bulk.missing import MissingFile
from airflow_provider_rtisms.bulk.part import PartFile
from airflow_provider_rtisms.bulk.progress import Counter, Progress
from airflow_provider_rtisms.bulk.records import RAW, Record, columns_of, stamp
from airflow_provider_rtisms.bulk.storage_errors import STORAGE_ERRORS, RtiSmsStorageUnavailableError
from airflow_provider_rtisms.bulk.target import Target, open_target

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.storage import StoragePath

log = logging.getLogger(__name__)

OnMissing: TypeAlias = Literal["fail", "skip"]
#: Seconds for which records may wait until they are written. To write each one by itself takes more CPU time.
COLLECT = 0.02
#: How old a record of an earlier attempt may be. It bounds what a fetch outside of a DAG run takes over.
RESUMED_FOR = timedelta(hours=24)
Keep: TypeAlias = Callable[[Sequence[Record]], Awaitable[None]]


async def fetch_to_memory(
    client: AsyncRtiSmsClient,
    ids: DistinctIds,
    on_missing: OnMissing = "fail",
    missing_path: StoragePath | None = None,
) -> list[Record]:
    """
    Fetch many submissions into memory.

    :param client: an opened client.
    :param ids: what to fetch.
    :param on_missing: what to do about ids that the API does not know, after having fetched the rest.
    :param missing_path: a file for these ids, see :class:`~airflow_provider_rtisms.bulk.missing.MissingFile`.
    :return: records, in the order of arrival.
    :raises RtiSmsError: as :func:`fetch_to_file`; nothing is kept.
    """
    check_on_missing(on_missing)
    missing_file = _open_missing(client, ids, missing_path)
    records: list[Record] = []
    stats = FetchStats(len(ids), ids.duplicates)

    async def keep(batch: Sequence[Record]) -> None:
        records.extend(batch)

    with Progress(lambda: stats.progress(client.stats)):
        await _fetch(client, ids, stats, keep)
    _handle_missing(ids, stats, on_missing, missing_file)
    log.info("Bulk fetch done: %s", stats.summary(client.stats, None, _name(missing_path)))
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
    Fetch many submissions into a file, as a stream.

    Until the file is complete, the records are kept beside it. If the same account fetches the same ids into the same
    file again in the same DAG run, only the rest is requested: what has no record, a record that was not final, or one
    that is older than :data:`RESUMED_FOR`. What another DAG run has left is replaced.

    :param client: an opened client, on an event loop that no one else needs: files are written on it.
    :param ids: what to fetch; the ids that an earlier attempt has fetched are removed.
    :param path: its suffix selects the format, see :func:`~airflow_provider_rtisms.bulk.formats.converter`.
    :param on_missing: what to do about ids that the API does not know, after having fetched the rest.
    :param missing_path: a file for these ids, see :class:`~airflow_provider_rtisms.bulk.missing.MissingFile`.
    :param raw: whether the file has a column of the JSON as it came.
    :param run: identifies the DAG run; None outside of one.
    :return: the summary, see :meth:`~airflow_provider_rtisms.bulk.fetch_stats.FetchStats.summary`.
    :raises RtiSmsPermanentError: missing ids, at the end; anything else, such as 403, at once.
    :raises RtiSmsTransientError: the attempts of some ids were used up: at the end, or at once if the API seems down.
    :raises RtiSmsStorageError: a file cannot be written; found out before the first request, if it can be.
    :raises RtiSmsStorageUnavailableError: a file cannot be written at the moment.
    """
    if _name(missing_path) == str(path):
        raise RtiSmsInputError("missing_path is the same as output_path: use another name.")
    columns = columns_of(raw)
    convert = converter(path.name, columns)

    def open_file(digest: str) -> Target:
        return open_target(path, digest, convert, columns, run)

    return await fetch_to_target(client, ids, open_file, on_missing, missing_path)


async def fetch_to_target(
    client: AsyncRtiSmsClient,
    ids: DistinctIds,
    open_output: Callable[[str], Target],
    on_missing: OnMissing = "fail",
    missing_path: StoragePath | None = None,
) -> dict[str, Any]:
    """
    Do what :func:`fetch_to_file` does, for any output.

    :param client: an opened client, on an event loop that no one else needs.
    :param ids: what to fetch; the ids that an earlier attempt has fetched are removed.
    :param open_output: called with what identifies the account and the ids; returns the output and its part.
    :param on_missing: what to do about ids that the API does not know, after having fetched the rest.
    :param missing_path: a file for these ids.
    :return: the summary.
    :raises RtiSmsError: as :func:`fetch_to_file`.
    """
    check_on_missing(on_missing)
    stats = FetchStats(len(ids), ids.duplicates)
    looking = "Looking for records of an earlier attempt"
    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress(lambda: f"{looking}: {stats.resumed:,} so far, {stats.requested:,} submissions in all")
        )
        missing_file = _open_missing(client, ids, missing_path)
        target = stack.enter_context(closing(open_output(_digest(client, ids))))
        oldest = (datetime.now(UTC) - RESUMED_FOR).isoformat()
        target.resume(lambda record: _take_over(record, ids, stats, oldest))
        target.probe()
        if stats.resumed:
            log.info("An earlier attempt has fetched %d of %d submissions", stats.resumed, stats.requested)
        log.info("Records are kept in %s until %s is complete", target.kept_at, target)
        try:
            progress.describe = lambda: stats.progress(client.stats)
            await _fetch(client, ids, stats, _keep_in(target), raw=RAW in target.part.columns)
            _handle_missing(ids, stats, on_missing, missing_file)
            lines = _AllLines(target.part, stats, str(target))
            progress.describe = lines.progress
            target.commit(lines)
        except BaseException as error:
            target.save(is_last=_is_worth_waiting(error))
            if isinstance(error, RtiSmsError):
                kept = f"{stats.fetched} of {stats.requested} submissions are kept in {target.kept_at}"
                error.args = (f"{error} {kept}; the same fetch goes on from there.",)
            raise
        summary = stats.summary(client.stats, None, _name(missing_path)) | target.summary()
    log.info("Bulk fetch done: %s", summary)
    return summary


def check_on_missing(value: Any) -> None:
    """
    Check an operator's ``on_missing``.

    :raises RtiSmsInputError: it is neither ``fail`` nor ``skip``.
    """
    if value not in ("fail", "skip"):
        raise RtiSmsInputError(f'on_missing is {shape(value)}: use "fail" or "skip".')


def _digest(client: AsyncRtiSmsClient, ids: DistinctIds) -> str:
    return ids.digest(client.settings.base_url, client.settings.client_id)


def _name(path: StoragePath | None) -> str | None:
    return None if path is None else str(path)


def _open_missing(client: AsyncRtiSmsClient, ids: DistinctIds, path: StoragePath | None) -> MissingFile | None:
    return None if path is None else MissingFile(path, _digest(client, ids))


def _handle_missing(
    ids: DistinctIds, stats: FetchStats, on_missing: OnMissing, missing_file: MissingFile | None
) -> None:
    """Write the missing ids before raising for them, so that a person can look at them."""
    if missing_file is not None:
        missing_file.write(ids)
    missing_path = None if missing_file is None else str(missing_file)
    stats.handle_missing(missing_ok=on_missing == "skip", missing_path=missing_path)


class _AllLines:
    """The lines of a part, as many as were fetched; may be read again."""

    def __init__(self, part: PartFile, stats: FetchStats, name: str) -> None:
        self._part = part
        self._stats = stats
        self._name = name
        self._read = Counter()

    def __iter__(self) -> Iterator[bytes]:
        self._read = Counter()
        for line in self._part.lines():
            self._read.count += 1
            yield line
        if self._read.count != self._stats.fetched:
            raise RtiSmsStorageUnavailableError(
                f"{self._part.path} holds {self._read} records, but {self._stats.fetched:,} were fetched: "
                "another program has changed it."
            )

    def progress(self) -> str:
        """Return a line for people."""
        total = f"{self._stats.fetched:,}"
        if self._read.count >= self._stats.fetched:
            return f"Writing {self._name}: all {total} records are converted, saving them"
        return f"Writing {self._name}: {self._read} of {total} records converted, {self._read.per_second}"


def _take_over(record: Record, ids: DistinctIds, stats: FetchStats, oldest: str) -> bool:
    """Use a record of an earlier attempt, unless it may have changed since then, or belongs to other ids."""
    is_current = record["is_final"] and record["fetched_at"] >= oldest  # both are UTC in ISO 8601
    is_ours = is_current and ids.discard(record["submission_id"])
    if is_ours:
        stats.add(record, is_resumed=True)
    return is_ours


def _is_worth_waiting(error: BaseException) -> bool:
    """Return whether a refused save should be repeated: not if the store has just failed, or the task is killed."""
    return isinstance(error, RtiSmsError) and not isinstance(error, STORAGE_ERRORS)


def _keep_in(target: Target) -> Keep:
    async def keep(batch: Sequence[Record]) -> None:
        stamp(batch, datetime.now(UTC))
        target.part.append(batch)
        if target.is_due():
            await asyncio.to_thread(target.save)

    return keep


async def _fetch(
    client: AsyncRtiSmsClient, ids: DistinctIds, stats: FetchStats, keep: Keep, *, raw: bool = False
) -> None:
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
            await keep(records)
            if records:
                client.stats.on_records(len(records))
            if stats.fatal is not None:
                raise stats.fatal
    stats.raise_for_failures()
