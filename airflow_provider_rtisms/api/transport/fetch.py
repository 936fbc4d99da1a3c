"""
Fetch many submissions at once, with one GET for each.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import chain, islice
from typing import Any, TypeAlias, TypeVar

from airflow_provider_rtisms.api.errors import (
    RtiSmsConfigError,
    RtiSmsError,
    RtiSmsNotFoundError,
    RtiSmsPermanentError,
)
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient

T = TypeVar("T")
#: A submission id, with the details or the error that its fetch gave.
Outcome: TypeAlias = tuple[str, SmsDetails | RtiSmsError]

#: Outcomes that may wait for the consumer. If there are more, the workers pause.
BACKLOG = 1000


async def fetch_batches(
    client: AsyncRtiSmsClient, submission_ids: Iterable[str], collect: float = 0.0, *, raw: bool = False
) -> AsyncGenerator[Sequence[Outcome], None]:
    """
    Fetch many submissions, ``max_concurrency`` at a time, and yield outcomes as soon as there are some.

    :param client: an opened client.
    :param submission_ids: checked ids; read as they are needed.
    :param collect: seconds for which outcomes may wait for further ones, so that there are fewer batches.
    :param raw: whether details keep the JSON of the response.
    :return: outcomes, in the order in which they were fetched. After a permanent error other than a 404 it fetches no
        further ids. Close the generator to stop early.
    """
    ids = iter(submission_ids)
    outcomes: asyncio.Queue[Outcome | BaseException | None] = asyncio.Queue(BACKLOG)
    workers = asyncio.ensure_future(_work_all(client, ids, outcomes, raw))
    try:
        while True:
            came = [await outcomes.get()]
            if collect:
                await asyncio.sleep(collect)
            while not outcomes.empty():
                came.append(outcomes.get_nowait())
            if batch := [one for one in came if isinstance(one, tuple)]:
                yield batch
            end = came[-1]
            if end is None:
                return
            if isinstance(end, BaseException):
                raise end
    finally:
        workers.cancel()
        await asyncio.gather(workers, return_exceptions=True)


async def fetch(client: AsyncRtiSmsClient, submission_ids: Iterable[str]) -> AsyncGenerator[Outcome, None]:
    """Do what :func:`fetch_batches` does, and yield one outcome at a time."""
    async with aclosing(fetch_batches(client, submission_ids)) as batches:
        async for batch in batches:
            for outcome in batch:
                yield outcome


async def _work_all(
    client: AsyncRtiSmsClient, ids: Iterator[str], outcomes: asyncio.Queue[Outcome | BaseException | None], raw: bool
) -> None:
    """
    Run ``max_concurrency`` workers, or one per id if there are fewer ids.

    The last item of the queue is None, or the exception that ended the workers.
    """
    workers: list[asyncio.Task[None]] = []
    end: BaseException | None = None
    try:
        for first in islice(ids, client.settings.max_concurrency):
            workers.append(asyncio.ensure_future(_work(client, chain([first], ids), outcomes, raw)))
        await asyncio.gather(*workers)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # AirflowTaskTimeout too, which a signal handler raises wherever it finds us
        end = error
    finally:
        for worker in workers:
            worker.cancel()
    await outcomes.put(end)


async def _work(
    client: AsyncRtiSmsClient, ids: Iterator[str], outcomes: asyncio.Queue[Outcome | BaseException | None], raw: bool
) -> None:
    for submission_id in ids:
        outcome: SmsDetails | RtiSmsError
        try:
            outcome = await client.perform(endpoints.get_sms(submission_id, raw=raw))
        except RtiSmsError as error:
            outcome = error
        if outcomes.full():
            await outcomes.put((submission_id, outcome))
        else:
            outcomes.put_nowait((submission_id, outcome))
        if isinstance(outcome, RtiSmsPermanentError) and not isinstance(outcome, RtiSmsNotFoundError):
            return  # every other id would get the same error


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run(main: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine from blocking code, even if a loop is running in this thread already, as in a notebook.

    :param main: the coroutine.
    :return: its result.
    :raises RtiSmsConfigError: gevent has replaced threads, and another greenlet runs a loop. Nothing has been done.
    """
    if not _has_running_loop():
        return asyncio.run(main)
    results: list[T] = []
    failures: list[BaseException] = []

    def in_thread() -> None:
        try:
            if _has_running_loop():  # this is no thread, but a greenlet, and shares the loop of the caller's thread
                main.close()
                raise RtiSmsConfigError(
                    "Another greenlet of gevent sends or fetches already, and greenlets share one event loop. Nothing "
                    "was sent by this call. Do these calls one after another, for instance inside of one "
                    "gevent.lock.BoundedSemaphore(1), or in processes of their own."
                )
            results.append(asyncio.run(main))
        except BaseException as error:  # handed to the caller
            failures.append(error)

    thread = threading.Thread(target=in_thread, name="rtisms-fetch", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
