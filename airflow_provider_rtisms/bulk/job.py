"""A bulk fetch from distinct ids to records: in memory, or into a file that gets its name once it is complete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.transport.fetch import fetch_batches
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.fetch_stats import FetchStats
from airflow_provider_rtisms.bulk.formats import converter
from airflow_provider_rtisms.bulk.lineage import report_output
from airflow_provider_rtisms.bulk.records import Record
from airflow_provider_rtisms.bulk.storage_errors import STORAGE_ERRORS
from airflow_provider_rtisms.bulk.target import Target, open_target

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.storage import StoragePath

log = logging.getLogger(__name__)

OnMissing: TypeAlias = Literal["fail", "skip"]
Keep: TypeAlias = Callable[[Sequence[Record]], Awaitable[None]]

#: Seconds between two lines of progress.
PROGRESS_EVERY = 5.0


async def fetch_to_memory(client: AsyncRtiSmsClient, ids: DistinctIds, on_missing: OnMissing = "fail") -> list[Record]:
    """
    Fetch many submissions into memory.

    :param client: an opened client.
    :param ids: what to fetch.
    :param on_missing: what to do about ids that the API does not know, after having fetched the rest.
    :return: records, in the order of arrival.
    :raises RtiSmsError: as :func:`fetch_to_file`; nothing is kept.
    """
    records: list[Record] = []
    stats = FetchStats(len(ids), ids.duplicates)

    async def keep(batch: Sequence[Record]) -> None:
        records.extend(batch)

    await _fetch(client, ids, stats, keep, on_missing)
    log.info("Bulk fetch done: %s", stats.summary(client.stats, None))
    return records


async def fetch_to_file(
    client: AsyncRtiSmsClient, ids: DistinctIds, path: StoragePath, on_missing: OnMissing = "fail"
) -> dict[str, Any]:
    """
    Fetch many submissions into a file, as a stream.

    What has been fetched is kept beside it until it is complete; if the same account fetches the same ids
    into the same file again, only the rest is requested. Missing ids are requested again.

    :param client: an opened client, on an event loop that no one else needs: files are written on it.
    :param ids: what to fetch; the ids that an earlier attempt has fetched are removed.
    :param path: its suffix selects the format, see :func:`~airflow_provider_rtisms.bulk.formats.converter`.
    :param on_missing: what to do about ids that the API does not know, after having fetched the rest.
    :return: the summary, see :meth:`~airflow_provider_rtisms.bulk.fetch_stats.FetchStats.summary`.
    :raises RtiSmsPermanentError: missing ids, at the end; anything else, such as 403, at once.
    :raises RtiSmsTransientError: the attempts of some ids were used up: at the end, or at once if the API seems down.
    :raises RtiSmsStorageError: the file cannot be written; found out before the first request, if it can be.
    :raises RtiSmsStorageUnavailableError: the file cannot be written at the moment.
    """
    check_on_missing(on_missing)
    convert = converter(path.name)
    stats = FetchStats(len(ids), ids.duplicates)
    settings = client.settings
    with closing(open_target(path, ids.digest(settings.base_url, settings.client_id))) as target:
        target.resume(lambda record: _take_over(record, ids, stats))
        target.probe()
        if stats.resumed:
            log.info("An earlier attempt has fetched %d of %d submissions", stats.resumed, stats.requested)
        log.info("Records are kept in %s until %s is complete", target.kept_at, path)
        try:
            await _fetch(client, ids, stats, _keep_in(target), on_missing)
            target.commit(lambda file: convert(target.part.lines(), file))
        except BaseException as error:
            target.save(is_last=_is_worth_waiting(error))
            if isinstance(error, RtiSmsError):
                kept = f"{stats.fetched} of {stats.requested} submissions are kept in {target.kept_at}"
                error.args = (f"{error} {kept}; the same fetch goes on from there.",)
            raise
    report_output(path)
    summary = stats.summary(client.stats, str(path))
    log.info("Bulk fetch done: %s", summary)
    return summary


def check_on_missing(value: Any) -> None:
    """
    Check an operator's ``on_missing``.

    :raises RtiSmsInputError: it is neither ``fail`` nor ``skip``.
    """
    if value not in ("fail", "skip"):
        raise RtiSmsInputError(f'on_missing is {shape(value)}: use "fail" or "skip".')


def _take_over(record: Record, ids: DistinctIds, stats: FetchStats) -> bool:
    is_ours = ids.discard(record["submission_id"])
    if is_ours:
        stats.add(record, is_resumed=True)
    return is_ours


def _is_worth_waiting(error: BaseException) -> bool:
    """Return whether a refused save should be repeated: not if the store has just failed, or the task is killed."""
    return isinstance(error, RtiSmsError) and not isinstance(error, STORAGE_ERRORS)


def _keep_in(target: Target) -> Keep:
    async def keep(batch: Sequence[Record]) -> None:
        target.part.append(batch)
        if target.is_due():
            await asyncio.to_thread(target.save)

    return keep


async def _fetch(
    client: AsyncRtiSmsClient, ids: DistinctIds, stats: FetchStats, keep: Keep, on_missing: OnMissing
) -> None:
    reporter = asyncio.create_task(_report(client, stats))
    try:
        async with aclosing(fetch_batches(client, ids)) as batches:
            async for batch in batches:
                records = [stats.note(submission_id, outcome) for submission_id, outcome in batch]
                await keep([record for record in records if record is not None])
                if stats.fatal is not None:
                    raise stats.fatal
    finally:
        reporter.cancel()
    stats.raise_for_failures(missing_ok=on_missing == "skip")


async def _report(client: AsyncRtiSmsClient, stats: FetchStats) -> None:
    while True:
        await asyncio.sleep(PROGRESS_EVERY)
        log.info("%s", stats.progress(client.stats))
