"""One token for many callers: how long it is good, who gets the next one, and how many are got."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.auth import TokenCache
from airflow_provider_rtisms.api.calls import TokenGrant
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import Exchange, details, grant, message, response, until
from tests.patience import PATIENCE
from tests.unit.api.conftest import Asyncio, Blocking, Transport, settings_for
from tests.unit.conftest import Serve

SMS = endpoints.get_sms("4193366853543393")

pytestmark = pytest.mark.usefixtures("quick_retries")


class Issuer:
    """Gives a new token each time, after some seconds on the clock of a cache."""

    def __init__(self, validity: float | None, seconds: float = 0.0) -> None:
        self.validity = validity
        self.seconds = seconds
        self.issued = 0
        self.now = 1000.0
        self.cache = TokenCache(lambda: self.now)

    def __call__(self) -> TokenGrant:
        self.now += self.seconds
        self.issued += 1
        return TokenGrant(Secret(f"token-{self.issued}"), self.validity)

    def obtain(self) -> str:
        """Get a token from the cache."""
        return self.cache.get(self).value.get_secret_value()


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whoever_waits_takes_over_from_a_thread_that_is_interrupted(end: type[BaseException]) -> None:
    issuer, is_asked, may_end = Issuer(3600.0), threading.Event(), threading.Event()

    def interrupted() -> TokenGrant:
        is_asked.set()
        may_end.wait(PATIENCE)
        raise end

    with ThreadPoolExecutor() as threads:
        first = threads.submit(issuer.cache.get, interrupted)
        assert is_asked.wait(PATIENCE)
        second = threads.submit(issuer.obtain)
        may_end.set()
        with pytest.raises(end):
            first.result(PATIENCE)
        assert second.result(PATIENCE) == "token-1"


class TestRules:
    @pytest.mark.parametrize(
        ("validity", "used_for"),
        [(3600.0, 3480.0), (241.0, 121.0), (240.0, 120.0), (100.0, 50.0), (0.001, 0.0005), (None, 30.0)],
    )
    def test_a_token_is_used_until_exactly_then(self, validity: float | None, used_for: float) -> None:
        issuer = Issuer(validity)
        issuer.obtain()
        issuer.now += used_for - 0.0001
        assert issuer.obtain() == "token-1"
        issuer.now += 0.0001
        assert issuer.obtain() == "token-2"

    @pytest.mark.parametrize(("validity", "seconds"), [(0.0, 0.0), (100.0, 60.0)])
    def test_its_time_counts_from_when_it_was_asked_for(self, validity: float, seconds: float) -> None:
        issuer = Issuer(validity, seconds)
        assert [issuer.obtain(), issuer.obtain()] == ["token-1", "token-2"]

    def test_an_unreadable_validity_is_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        Issuer(None).obtain()
        assert "no validity_period that can be read. The token is used for 60 s" in caplog.text

    def test_a_task_that_waits_gets_the_token_of_the_first_one_even_if_it_has_no_validity(self) -> None:
        issuer = Issuer(0.0)
        tokens = asyncio.run(_together(issuer.cache, issuer))
        assert [token.value.get_secret_value() for token in tokens] == ["token-1"] * 5
        assert issuer.issued == 1

    def test_tasks_that_wait_raise_a_copy_of_the_error_of_the_first_one(self) -> None:
        refusal = errors.RtiSmsAuthenticationError("HTTP 401", call="authenticate", status=401)

        def refuse() -> TokenGrant:
            raise refusal

        first, *others = asyncio.run(_together(TokenCache(), refuse))
        assert first is refusal
        for other in others:
            assert other is not refusal
            assert (type(other), vars(other)) == (type(refusal), vars(refusal))
            assert other.__suppress_context__

    def test_discard_says_whether_the_token_was_the_newest_even_where_the_next_one_cannot_be_had(self) -> None:
        def refuse() -> TokenGrant:
            raise errors.RtiSmsServerError("HTTP 503")

        issuer = Issuer(3600.0)
        first = issuer.cache.get(issuer)
        assert issuer.cache.discard(first) is True
        with pytest.raises(errors.RtiSmsServerError):
            issuer.cache.get(refuse)
        assert issuer.cache.discard(first) is True  # refused for another caller as well; there is still no newer one
        issuer.obtain()
        assert issuer.cache.discard(first) is False


async def _together(cache: TokenCache, issuer: Callable[[], TokenGrant]) -> list[Any]:
    """Let five tasks ask at once; return their tokens and errors."""

    async def ask() -> Any:
        async with cache.renewal(on_wait=lambda: None) as (token, store):
            await asyncio.sleep(0.01)
            return token or store(issuer())

    return await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True)


class TestOverTheWire:
    def test_callers_at_once_share_one_token(self, transport: Transport, serve: Serve) -> None:

        async def slow_grant(exchange: Exchange) -> None:
            await asyncio.sleep(0.2)  # everyone else has time to ask
            await grant()(exchange)

        everyone = 64 if isinstance(transport, Blocking) else 300
        server = serve(details(), auth=[slow_grant])
        transport.perform_all(server, [SMS] * everyone, at_once=True)
        assert len(server.calls) == everyone
        assert len(server.grants) == 1
        assert server.connections_peak <= 64

    def test_callers_at_once_share_one_failure(
        self, transport: Transport, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each of them waits before the failure comes: threads here; tasks all begin before the loop sends anything."""
        waiting: list[TokenCache] = []
        lock = TokenCache._lock_of_threads
        monkeypatch.setattr(TokenCache, "_lock_of_threads", lambda cache: waiting.append(cache) or lock(cache))  # type: ignore[func-returns-value]

        async def refuse(exchange: Exchange) -> None:
            await until(lambda: isinstance(transport, Asyncio) or len(waiting) == 32)
            await exchange.write(message(status=401))

        server = serve(auth=[refuse])
        with pytest.raises(errors.RtiSmsAuthenticationError):
            transport.perform_all(server, [SMS] * 32, at_once=True)
        assert len(server.requests) == 1

    def test_a_storm_of_401_costs_one_token(self, transport: Transport, serve: Serve) -> None:
        """All 32 are under way with the old token before the first of them is refused."""
        barrier = asyncio.Barrier(32)

        async def refuse_old(exchange: Exchange) -> None:
            if exchange.request.header("Authorization") == "Bearer old":
                await barrier.wait()
                await exchange.write(message(status=401))
            else:
                await details()(exchange)

        server = serve(refuse_old, auth=[grant("old"), grant("new")])
        transport.perform_all(server, [SMS] * 32, at_once=True)
        assert len(server.grants) == 2
        assert len(server.calls) == 64

    def test_endless_401_ends_after_one_new_token(self, transport: Transport, serve: Serve) -> None:
        server = serve(response(status=401))
        with pytest.raises(errors.RtiSmsTokenRefusedError, match="HTTP 401 twice") as caught:
            transport.perform(server, SMS)
        assert caught.value.status == 401
        assert (len(server.grants), len(server.calls)) == (2, 2)

    def test_a_401_long_after_another_gets_a_new_token_too(self, transport: Transport, serve: Serve) -> None:
        refused, failed = response(status=401), response(status=503)
        server = serve(refused, failed, refused, details())
        assert transport.perform(server, SMS).status == "DELIVERED"
        assert len(server.grants) == 3

    def test_each_token_is_announced_before_it_is_used(self, transport: Transport, serve: Serve) -> None:
        seen: list[tuple[str, int]] = []
        server = serve(response(status=401), details(), auth=[grant("first"), grant("second")])
        announce = lambda token: seen.append((token, len(server.calls)))  # noqa: E731
        transport.use(settings_for(server), [lambda client: client.perform(SMS)], on_secret=announce)
        assert seen == [("first", 0), ("second", 1)]


def test_a_cache_is_shared_between_transports(serve: Serve) -> None:
    server, tokens = serve(details()), TokenCache()
    for transport in (Blocking(), Asyncio()):
        transport.use(settings_for(server), [lambda client: client.perform(SMS)], tokens=tokens)
    assert len(server.grants) == 1
