"""Rules of fetching many submissions, with a client that is none and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.aio import fetch, fetch_batches
from airflow_provider_rtisms.api.models import SmsDetails
from tests import virtual_time
from tests.unit.api.conftest import in_virtual_time
from tests.virtual_time import START, now


class Client:
    """
    Takes calls in place of a client.

    :param max_concurrency: as of the settings.
    :param seconds: how long each call takes, by id; default none.
    :param failures: what calls raise, by id.
    """

    def __init__(self, max_concurrency: int, seconds: Any = None, failures: Any = None) -> None:
        self.settings = SimpleNamespace(max_concurrency=max_concurrency)
        self.seconds = seconds or {}
        self.failures = failures or {}
        self.performed: list[str] = []
        self.under_way = 0

    async def perform(self, call: Any) -> SmsDetails:
        self.performed.append(call.subject)
        self.under_way += 1
        try:
            await asyncio.sleep(self.seconds.get(call.subject, 0))
        finally:
            self.under_way -= 1
        if call.subject in self.failures:
            raise self.failures[call.subject]
        return SmsDetails(call.subject)


async def outcomes_of(client: Any, ids: Any) -> dict[str, str]:
    return {one: type(outcome).__name__ async for one, outcome in fetch(client, ids)}


def tasks() -> set[Any]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def test_one_at_a_time_goes_in_the_order_of_the_ids() -> None:
    client = Client(1)
    assert list(virtual_time.run(outcomes_of(client, "1234"))) == list("1234") == client.performed


@in_virtual_time
async def test_outcomes_come_when_they_are_there() -> None:
    client: Any = Client(3, {"1": 5, "2": 1, "3": 3})
    came = [(one, now() - START) async for one, _ in fetch(client, "123")]
    assert came == [("2", 1), ("3", 3), ("1", 5)]


@in_virtual_time
async def test_a_batch_is_all_that_has_come() -> None:
    client: Any = Client(4, {"4": 9})
    batches = [[one for one, _ in batch] async for batch in fetch_batches(client, "1234")]
    assert [one for batch in batches for one in batch] == ["1", "2", "3", "4"]
    assert batches[-1] == ["4"]
    assert all(batches)


@in_virtual_time
async def test_outcomes_may_be_collected_for_a_while() -> None:
    client: Any = Client(4, {"1": 1.0, "2": 1.5, "3": 2.5, "4": 9.0})
    batches = [([one for one, _ in batch], now() - START) async for batch in fetch_batches(client, "1234", collect=1.0)]
    assert batches == [(["1", "2"], 2.0), (["3"], 3.5), (["4"], 10.0)]


@in_virtual_time
async def test_a_slow_consumer_gets_the_last_outcomes_and_then_the_end() -> None:
    client: Any = Client(1)
    batches = []
    async for batch in fetch_batches(client, "1234"):
        batches.append([one for one, _ in batch])
        await asyncio.sleep(10)
    assert batches == [["1"], ["2", "3", "4"]]


@pytest.mark.parametrize("max_concurrency", [1, 7])
@in_virtual_time
async def test_workers_wait_for_a_slow_consumer(max_concurrency: int) -> None:
    client: Any = Client(max_concurrency)
    async with aclosing(fetch_batches(client, map(str, range(10_000)))) as batches:
        first = await anext(batches)
        await asyncio.sleep(10)
        assert len(client.performed) == len(first) + 1000 + max_concurrency
    assert tasks() == set()


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (errors.RtiSmsNotFoundError("404"), True),
        (errors.RtiSmsServerError("503"), True),
        (errors.RtiSmsForbiddenError("403"), False),
    ],
)
def test_a_permanent_error_other_than_404_ends_it(error: errors.RtiSmsError, goes_on: bool) -> None:
    outcomes = virtual_time.run(outcomes_of(Client(1, failures={"2": error}), "123"))
    assert list(outcomes) == (["1", "2", "3"] if goes_on else ["1", "2"])
    assert outcomes["2"] == type(error).__name__


@in_virtual_time
async def test_an_error_of_the_ids_comes_after_the_outcomes_and_stops_the_rest() -> None:
    def ids() -> Iterator[str]:
        yield from "12"
        raise OSError("the file has gone")

    client: Any = Client(2, {"1": 3600})
    outcomes = fetch(client, ids())
    assert (await anext(outcomes))[0] == "2"
    with pytest.raises(OSError, match="gone"):
        await anext(outcomes)
    assert now() < START + 1
    assert (client.under_way, tasks()) == (0, set())


@in_virtual_time
async def test_closing_it_stops_the_calls_under_way() -> None:
    client: Any = Client(3, {"2": 3600, "3": 3600})
    async with aclosing(fetch_batches(client, "123")) as batches:
        await anext(batches)
        assert client.under_way == 2
    assert (client.under_way, tasks(), now()) == (0, set(), START)
