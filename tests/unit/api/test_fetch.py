"""Many submissions at once: over sockets, and in virtual time; and the client that users of one event loop share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient, fetch, fetch_batches, run, shared_client
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.api.settings import ApiSettings
from tests import virtual_time
from tests.hostile import Exchange, HostileServer, details, grant, hang, reset, response, until
from tests.unit.api.conftest import Asyncio, Work, in_event_loop, in_virtual_time, settings_for
from tests.unit.conftest import Serve
from tests.virtual_time import START, now

SMS = endpoints.get_sms("4193366853543393")

pytestmark = pytest.mark.usefixtures("quick_retries")


@asynccontextmanager
async def fetching(server: HostileServer, ids: Any, **settings: Any) -> AsyncIterator[Any]:
    async with (
        AsyncRtiSmsClient(settings_for(server, **settings)) as client,
        aclosing(fetch(client, ids)) as outcomes,
    ):
        yield outcomes


def fetch_all(server: HostileServer, ids: Any, **settings: Any) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        async with fetching(server, ids, **settings) as outcomes:
            return {submission_id: outcome async for submission_id, outcome in outcomes}

    return run(main())


class TestFetch:
    def test_every_id_has_its_outcome(self, serve: Serve) -> None:
        async def odd_ones_out(exchange: Exchange) -> None:
            await until(lambda: len(server.calls) >= 8)  # the first ones are under way together
            is_odd = int(exchange.request.target[-1]) % 2
            await (response(status=404) if is_odd else details())(exchange)

        server = serve(odd_ones_out)
        outcomes = fetch_all(server, map(str, range(1000, 1100)), max_concurrency=8)
        assert sorted(outcomes) == [str(number) for number in range(1000, 1100)]
        for submission_id, outcome in outcomes.items():
            kind = errors.RtiSmsNotFoundError if int(submission_id) % 2 else SmsDetails
            assert isinstance(outcome, kind)
            assert submission_id in (getattr(outcome, "subject", None), getattr(outcome, "submission_id", None))
        assert len(server.calls) == 100
        assert server.connections_peak == 8

    def test_nothing_to_fetch_asks_nothing(self, serve: Serve) -> None:
        server = serve(details())
        assert fetch_all(server, []) == {}
        assert server.requests == []

    def test_a_timeout_of_the_task_ends_it(self, serve: Serve) -> None:
        """Airflow raises AirflowTaskTimeout, no Exception, from a signal handler: anywhere, so in a worker too."""

        class TaskTimeoutError(BaseException):
            pass

        def ids() -> Iterator[str]:
            yield "1"
            raise TaskTimeoutError

        with pytest.raises(TaskTimeoutError):
            fetch_all(serve(details()), ids())

    def test_wrong_credentials_are_tried_once(self, serve: Serve) -> None:
        server = serve(auth=[response(status=401)])
        outcomes = fetch_all(server, map(str, range(500)))
        assert {type(one) for one in outcomes.values()} == {errors.RtiSmsAuthenticationError}
        assert len(server.requests) == 1

    def test_a_cancelled_fetch_leaves_no_task_and_no_socket(self, serve: Serve) -> None:
        async def fetch_for_ever() -> None:
            async with fetching(server, map(str, range(100))) as outcomes:
                async for _ in outcomes:
                    pass

        async def main() -> set[asyncio.Task[Any]]:
            task = asyncio.ensure_future(fetch_for_ever())
            await until(lambda: len(server.calls) == 32)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.connections_open == 0)
            return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

        server = serve(hang)
        assert asyncio.run(main()) == set()


class TestPlaces:
    """``max_concurrency`` calls are under way at once; what only waits is not."""

    def test_a_call_that_sleeps_makes_room(self, serve: Serve) -> None:
        server = serve(response(status=503, headers=[("Retry-After", "0.1")]), details())
        order: list[str] = []

        def get(submission_id: str) -> Work:
            async def work(client: Any) -> None:
                await client.get_sms(submission_id)
                order.append(submission_id)

            return work

        Asyncio().use(settings_for(server, max_concurrency=1), [get("1"), get("2"), get("3")], at_once=True)
        assert order == ["2", "3", "1"]
        assert server.connections_peak == 1

    def test_waiting_for_a_token_keeps_no_place_from_who_gets_it(self, serve: Serve) -> None:
        server = serve(details(), auth=[response(status=503), reset, grant()])
        assert len(Asyncio().perform_all(server, [SMS] * 20, at_once=True, max_concurrency=1)) == 20
        assert len(server.grants) == 3


def test_run_works_inside_a_running_loop_and_hands_failures_on(serve: Serve) -> None:
    """As in a notebook."""

    async def fail() -> None:
        raise KeyError("inner")

    async def notebook() -> dict[str, Any]:
        with pytest.raises(KeyError, match="inner"):
            run(fail())
        return fetch_all(server, ["1", "2"])

    server = serve(details())
    assert sorted(asyncio.run(notebook())) == ["1", "2"]


class TestSharedClient:
    @in_event_loop
    async def test_equal_settings_share_token_and_sockets(self, serve: Serve) -> None:
        async def use() -> None:
            async with shared_client(settings_for(server, max_concurrency=4)) as client:
                await asyncio.gather(*(client.perform(SMS) for _ in range(10)))

        server = serve(details())
        await asyncio.gather(*(use() for _ in range(20)))
        assert len(server.grants) == 1
        assert len(server.calls) == 200
        assert server.connections_peak <= 4

    @in_event_loop
    async def test_other_credentials_get_another_token(self, serve: Serve) -> None:
        server = serve(details())
        one, other = settings_for(server), settings_for(server, client_secret="rotated")
        async with shared_client(one) as first, shared_client(other) as second:
            assert first is not second
            await asyncio.gather(first.perform(SMS), second.perform(SMS))
        assert len(server.grants) == 2

    @in_event_loop
    async def test_the_last_to_leave_closes_the_sockets(self, serve: Serve) -> None:
        server = serve(details())
        async with shared_client(settings_for(server)) as client:
            async with shared_client(settings_for(server)):
                await client.perform(SMS)
            assert server.connections_open == 1
            await client.perform(SMS)
        with pytest.raises(RuntimeError, match="is not open"):  # else aiohttp closes the sockets 15 s later
            await client.perform(SMS)
        await until(lambda: server.connections_open == 0)
        async with shared_client(settings_for(server)) as another:
            assert another is not client

    @in_event_loop
    async def test_a_client_that_cannot_be_opened_is_forgotten(
        self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        junk = tmp_path / "junk.pem"
        junk.write_text("no certificate")
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        settings = ApiSettings(client_id="me", client_secret="s3cret")

        async def use() -> None:
            async with shared_client(settings):
                pass

        monkeypatch.setenv("SSL_CERT_FILE", str(junk))
        outcomes = await asyncio.gather(use(), use(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [errors.RtiSmsConfigError] * 2
        assert "SSL_CERT_FILE" in str(outcomes[0])
        monkeypatch.delenv("SSL_CERT_FILE")
        await use()


class ClientThatIsNone:
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


@in_virtual_time
async def test_outcomes_come_when_they_are_there_and_a_batch_is_all_that_has_come() -> None:
    client: Any = ClientThatIsNone(4, {"1": 5, "2": 1, "3": 1})
    assert [(one, now() - START) async for one, _ in fetch(client, "123")] == [("2", 1), ("3", 1), ("1", 5)]
    batches = [[one for one, _ in batch] async for batch in fetch_batches(client, "1234")]
    assert [one for batch in batches for one in batch] == ["4", "2", "3", "1"]
    assert batches[-1] == ["1"]
    assert all(batches)


@in_virtual_time
async def test_outcomes_may_be_collected_for_a_while() -> None:
    client: Any = ClientThatIsNone(4, {"1": 1.0, "2": 1.5, "3": 2.5, "4": 9.0})
    batches = [([one for one, _ in batch], now() - START) async for batch in fetch_batches(client, "1234", collect=1.0)]
    assert batches == [(["1", "2"], 2.0), (["3"], 3.5), (["4"], 10.0)]


@in_virtual_time
async def test_a_slow_consumer_gets_the_last_outcomes_and_then_the_end() -> None:
    client: Any = ClientThatIsNone(1)
    batches = []
    async for batch in fetch_batches(client, "1234"):
        batches.append([one for one, _ in batch])
        await asyncio.sleep(10)
    assert batches == [["1"], ["2", "3", "4"]]


@pytest.mark.parametrize("max_concurrency", [1, 7])
@in_virtual_time
async def test_workers_wait_for_a_slow_consumer(max_concurrency: int) -> None:
    client: Any = ClientThatIsNone(max_concurrency)
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
    outcomes = virtual_time.run(outcomes_of(ClientThatIsNone(1, failures={"2": error}), "123"))
    assert list(outcomes) == (["1", "2", "3"] if goes_on else ["1", "2"])
    assert outcomes["2"] == type(error).__name__


@in_virtual_time
async def test_an_error_of_the_ids_comes_after_the_outcomes_and_stops_the_rest() -> None:
    def ids() -> Iterator[str]:
        yield from "12"
        raise OSError("the file has gone")

    client: Any = ClientThatIsNone(2, {"1": 3600})
    outcomes = fetch(client, ids())
    assert (await anext(outcomes))[0] == "2"
    with pytest.raises(OSError, match="gone"):
        await anext(outcomes)
    assert now() < START + 1
    assert (client.under_way, tasks()) == (0, set())


@in_virtual_time
async def test_closing_it_stops_the_calls_under_way() -> None:
    client: Any = ClientThatIsNone(3, {"2": 3600, "3": 3600})
    async with aclosing(fetch_batches(client, "123")) as batches:
        await anext(batches)
        assert client.under_way == 2
    assert (client.under_way, tasks(), now()) == (0, set(), START)
