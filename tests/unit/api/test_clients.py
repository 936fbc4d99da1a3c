"""The two clients: what each call sends and returns, what is counted, and what is kept between two calls."""

from __future__ import annotations

import asyncio
import ssl
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme

from airflow_provider_rtisms import api
from airflow_provider_rtisms.api import aio
from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.auth import TokenCache
from airflow_provider_rtisms.api.calls import HttpRequest
from airflow_provider_rtisms.api.retrying import Stats
from airflow_provider_rtisms.api.settings import ApiSettings
from tests.hostile import TOKEN, Exchange, details, grant, message, reset, response, until
from tests.patience import PATIENCE, wait_until
from tests.unit.api.conftest import Asyncio, Transport, Work, in_event_loop, settings_for
from tests.unit.conftest import Serve

BALANCE = {"balance": "1"}

pytestmark = pytest.mark.usefixtures("quick_retries")


def get_balance(client: Any) -> Any:
    return client.get_balance()


CALLS: dict[str, tuple[Work, Any, str, Any]] = {
    "get_sms": (lambda client: client.get_sms(7), None, "GET /api/sms/7", "7"),
    "get_balance": (get_balance, {"balance": "4.5"}, "GET /api/balance", Decimal("4.5")),
    "send_sms": (
        lambda client: client.send_sms(recipients="+56912345678", text="hola", sender="96000"),
        {"submissions": [{"status": "submitted", "submissionId": "42"}]},
        "POST /api/sms",
        "42",
    ),
    "request": (
        lambda client: client.request("GET", "/api/new", params={"a": "b"}),
        {"c": 1},
        "GET /api/new?a=b",
        {"c": 1},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_sends_its_request_and_returns_its_result(transport: Transport, serve: Serve, name: str) -> None:
    call, content, target, expected = CALLS[name]
    server = serve(details() if content is None else response(content))
    (result,) = transport.use(settings_for(server), [call])
    result = result[0] if isinstance(result, list) else result
    assert getattr(result, "submission_id", result) == expected
    assert [f"{one.method} {one.target}" for one in server.calls] == [target]


def test_every_public_name_is_there() -> None:
    assert {name for name in api.__all__ if getattr(api, name).__name__.rpartition(".")[2] != name} == {"endpoints"}
    with pytest.raises(AttributeError, match="api' has no attribute 'nothing'"):
        _ = api.nothing  # type: ignore[attr-defined]


class TestStats:
    def test_requests_tokens_and_retries_are_counted(self, transport: Transport, serve: Serve) -> None:
        server, stats = serve(response(status=503), response(status=503), response(BALANCE)), Stats()
        assert transport.use(settings_for(server), [get_balance], stats=stats) == [1]
        assert stats == Stats(requests=4, tokens=1, retries=2, throttled=0)

    def test_after_a_success_a_429_is_counted_and_is_no_failed_attempt(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_provider_rtisms.api.aio.MIN_PAUSE", 0.001)
        server, stats = serve(response(BALANCE), response(status=429), response(BALANCE)), Stats()
        assert Asyncio().use(settings_for(server, max_attempts=1), [get_balance] * 2, stats=stats) == [1, 1]
        assert stats == Stats(requests=4, tokens=1, retries=1, throttled=1)

    def test_what_happens_is_reported(
        self, transport: Transport, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_provider_rtisms.api.aio.MIN_PAUSE", 0.001)
        came: list[Any] = []

        def report(name: str, value: float, *words: str) -> None:
            came.append((name, *words) if name == "call_duration" else (name, value, *words))

        sent = {"submissions": [{"status": "submitted", "submissionId": "42"}, {"status": "unknown_error"}]}
        steps = [response(status=503), response({"balance": "4.5"}), response(sent), response(status=429), details()]
        server = serve(*steps, reset, response(status=404), response(status=500))
        send: Work = lambda one: one.send_sms(recipients=["+56912345678", "+56912345679"], text="a", sender="b")  # noqa: E731
        get: Work = lambda one: one.get_sms(7)  # noqa: E731
        transport.use(
            settings_for(server, max_attempts=2), [get_balance, send, get, send, get, get], stats=Stats(report=report)
        )
        assert came == [
            *(("requests", 1, "authenticate", "2xx"), ("tokens", 1), ("call_duration", "authenticate", "success")),
            *(("requests", 1, "get_balance", "5xx"), ("retries", 1, "get_balance")),
            *(("requests", 1, "get_balance", "2xx"), ("call_duration", "get_balance", "success"), ("balance", 4.5)),
            *(("requests", 1, "send_sms", "2xx"), ("call_duration", "send_sms", "success")),
            *(("messages", 1, "submitted"), ("messages", 1, "refused")),
            *(("requests", 1, "get_sms", "4xx"), ("throttled", 1, "get_sms"), ("retries", 1, "get_sms")),
            *(("requests", 1, "get_sms", "2xx"), ("call_duration", "get_sms", "success")),
            *(("requests", 1, "send_sms", "no_response"), ("call_duration", "send_sms", "permanent_error")),
            ("messages", 2, "uncertain"),
            *(("requests", 1, "get_sms", "4xx"), ("call_duration", "get_sms", "permanent_error")),
            *(("requests", 1, "get_sms", "5xx"), ("retries", 1, "get_sms"), ("requests", 1, "get_sms", "5xx")),
            ("call_duration", "get_sms", "transient_error"),
        ]


class TestState:
    def test_a_cache_of_tokens_may_be_shared_and_is_otherwise_its_own(self, transport: Transport, serve: Serve) -> None:
        server, tokens, masked = serve(response(BALANCE)), TokenCache(), []
        for shared, on_secret in ((tokens, masked.append), (tokens, None), (None, masked.append), (None, None)):
            transport.use(settings_for(server), [get_balance], tokens=shared, on_secret=on_secret)
        assert len(server.grants) == 3
        assert masked == [TOKEN, TOKEN]

    def test_on_secret_may_be_a_coroutine_function(self, serve: Serve) -> None:
        masked = []

        async def mask(secret: str) -> None:
            await asyncio.sleep(0)
            masked.append(secret)

        Asyncio().use(settings_for(serve(response(BALANCE))), [get_balance], on_secret=mask)
        assert masked == [TOKEN]

    @pytest.mark.parametrize("most", [1, 2, 3])
    def test_as_many_calls_as_allowed_are_under_way_on_connections_that_are_kept(
        self, transport: Transport, serve: Serve, most: int
    ) -> None:
        async def together(exchange: Exchange) -> None:
            await until(lambda: len(server.calls) >= most)
            await exchange.write(message(BALANCE))

        server = serve(together)
        settings = settings_for(server, max_concurrency=most, timeout=PATIENCE, max_attempts=1)
        assert transport.use(settings, [get_balance] * 40, at_once=True) == [1] * 40
        assert server.connections <= most
        wait_until(lambda: server.connections_open == 0, "the end of the client's connections")

    def test_a_send_has_a_connection_of_its_own_and_others_share_one(self, transport: Transport, serve: Serve) -> None:
        server = serve(response(BALANCE))
        requests = [HttpRequest("GET", "/api/x", {}, on_new_connection=one) for one in (False, True, False, True)]
        transport.use(settings_for(server), [lambda client, one=one: client.send(one) for one in requests])  # type: ignore[misc]
        assert server.connections == 3

    def test_netrc_adds_no_credentials(
        self, transport: Transport, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        server = serve(response(BALANCE))
        transport.use(settings_for(server), [get_balance])
        assert [request.header("Authorization") for request in server.requests] == [None, f"Bearer {TOKEN}"]

    def test_a_call_that_waits_for_its_turn_takes_no_token_that_may_expire_meanwhile(self, serve: Serve) -> None:
        server = serve(response(BALANCE), auth=[grant(validity_period="0")])
        Asyncio().use(settings_for(server, max_concurrency=1), [get_balance] * 2, at_once=True)
        assert [request.is_grant for request in server.requests] == [True, False, True, False]

    @in_event_loop
    async def test_opening_it_again_keeps_its_connections_and_closing_it_again_is_no_error(self, serve: Serve) -> None:
        server = serve(response(BALANCE))
        client = AsyncRtiSmsClient(settings_for(server))
        for _ in range(3):
            await client.open()
            await client.get_balance()
        assert server.connections == 1
        await client.close()
        await client.close()
        async with client:
            await client.get_balance()
        with pytest.raises(RuntimeError, match="is not open: use it in 'async with'"):
            await client.get_balance()

    def test_sends_are_under_way_together(self, serve: Serve) -> None:
        async def together(exchange: Exchange) -> None:
            await until(lambda: exchange.server.connections == 4)  # one was for the token
            await exchange.write(message({"submissions": [{"status": "submitted", "submissionId": "42"}]}))

        settings = settings_for(serve(together), timeout=PATIENCE)
        results = Asyncio().use(settings, [CALLS["send_sms"][0]] * 3, at_once=True)
        assert [one.submission_id for (one,) in results] == ["42"] * 3

    def test_no_timeout_is_rounded_up_to_a_whole_second(self, serve: Serve) -> None:
        """aiohttp does that to save timers."""
        timeout = AsyncRtiSmsClient(settings_for(serve(), timeout=7.3))._timeout
        assert timeout.total == 7.3
        assert timeout.ceil_threshold > 7.3


@pytest.mark.parametrize("is_folder", [True, False])
def test_certificates_come_from_a_file_or_from_a_folder(tmp_path: Path, is_folder: bool) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    bundle = str(tmp_path if is_folder else tmp_path / "ca.pem")
    context = aio._tls_context(ApiSettings(client_id="me", client_secret="s3cret", ca_bundle=bundle))
    assert len(context.get_ca_certs()) == (0 if is_folder else 1)  # those of a folder are read when they are needed
    assert context.verify_mode is ssl.CERT_REQUIRED
