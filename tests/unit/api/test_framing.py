"""Where one response ends and the next one begins: interim responses, and bytes that belong to no request."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.calls import Call
from airflow_provider_rtisms.api.client import RtiSmsClient
from airflow_provider_rtisms.api.errors import (
    RtiSmsConnectionLostError,
    RtiSmsTimeoutError,
    RtiSmsTransientError,
    RtiSmsUncertainError,
    RtiSmsUnexpectedStatusError,
)
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import Exchange, HostileServer, Step, head, message, raw, response, until
from tests.unit.api.conftest import Blocking, Transport
from tests.unit.conftest import Serve

BALANCE = {"balance": "457.00"}
STALE = {"balance": "666.00"}
SENT = {"submissions": [{"status": "submitted", "submissionId": "42"}]}
SEND = endpoints.send_sms(recipients="+56912345678", text="hola", sender="96000")

pytestmark = pytest.mark.usefixtures("quick_retries")


class TestInterimResponses:
    """RFC 9110, section 15.2: a client passes over any number of them, whatever their status and headers are."""

    INTERIM = (
        pytest.param(b"HTTP/1.1 102 Processing\r\n\r\n", id="102"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nX: y\r\n\r\n", id="103"),
        pytest.param(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", id="100 with a header"),
        pytest.param(b"HTTP/1.1 199 Whatever\r\n\r\n", id="199"),
        pytest.param(b"HTTP/1.1 103 A\r\n\r\n" + b"HTTP/1.1 102 B\r\n\r\n" * 5, id="many"),
    )

    @pytest.mark.parametrize("interim", INTERIM)
    def test_precede_the_response_to_a_get(self, transport: Transport, serve: Serve, interim: bytes) -> None:
        server = serve(raw(interim + message(BALANCE)), auth=[_after(interim, {"access_token": "t"})])
        outcomes = transport.perform_all(server, [endpoints.get_balance()] * 3, max_attempts=1)
        assert outcomes == [Decimal("457.00")] * 3
        assert len(server.calls) == 3

    @pytest.mark.parametrize("interim", INTERIM)
    def test_precede_the_response_to_a_send(self, transport: Transport, serve: Serve, interim: bytes) -> None:
        server = serve(raw(interim + message(SENT)))
        (submission,) = transport.perform(server, SEND)
        assert submission.submission_id == "42"
        assert len(server.calls) == 1

    def test_without_end_end_with_an_error(self, transport: Transport, serve: Serve) -> None:
        async def endless(exchange: Exchange) -> None:
            while True:
                await exchange.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 10)
                await asyncio.sleep(0.01)

        error = transport.give_up(serve(endless), endpoints.get_balance(), max_attempts=1)
        assert isinstance(error, RtiSmsTimeoutError | RtiSmsConnectionLostError)
        assert isinstance(transport.give_up(serve(endless), SEND), RtiSmsUncertainError)

    def test_of_many_headers_end_with_an_error(self, transport: Transport, serve: Serve) -> None:
        many = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </a>\r\n" * 5000 + b"\r\n"
        with pytest.raises(RtiSmsTransientError):
            transport.perform(serve(raw(many, then="close")), endpoints.get_balance(), max_attempts=1)

    def test_as_many_are_passed_over_by_the_blocking_client_as_a_server_may_need(self, serve: Serve) -> None:
        interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
        server = serve(raw(interim * 19 + message(BALANCE)), raw(interim * 20 + message(BALANCE)))
        first, second = Blocking().perform_in_turn(_settings(server), [endpoints.get_balance()] * 2)
        assert first == Decimal("457.00")
        assert "the connection broke (HTTPException)" in str(second)

    def test_are_passed_over_behind_a_proxy_too(self, transport: Transport, serve: Serve) -> None:
        proxy = serve(raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" + message(BALANCE)))
        there = {"base_url": "http://api.invalid", "allow_http": True, "proxy": proxy.url, "max_attempts": 1}
        assert transport.perform(proxy, endpoints.get_balance(), **there) == Decimal("457.00")
        assert proxy.calls[0].target == "http://api.invalid/api/balance"

    def test_a_switch_of_protocols_is_refused(self, transport: Transport, serve: Serve) -> None:
        switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n" + message(STALE)
        server = serve(raw(switch), response(BALANCE))
        with pytest.raises(RtiSmsUnexpectedStatusError, match="HTTP 101"):
            transport.perform(server, endpoints.get_balance())
        assert [str(one) for one in _outcomes(transport, serve(raw(switch), response(BALANCE)))][1:] == ["457.00"] * 2


@pytest.mark.parametrize("line", [b"no colon s3cret", b": s3cret", b"s3cret\r\nX: y"])
def test_header_lines_that_cannot_be_parsed_are_not_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    body = b'{"balance": "457.00"}'
    start = head(headers=[("Content-Length", str(len(body)))]).rstrip()
    server = serve(raw(start + b"\r\n" + line + b"\r\n\r\n" + body))
    assert Blocking().perform(server, endpoints.get_balance(), max_attempts=1) == Decimal("457.00")
    assert [one for one in caplog.records if one.levelname != "DEBUG"] == []


class TestUnreadBytes:
    """A connection on which bytes have come that belong to no request is never used again."""

    EXTRA = (
        pytest.param(message(STALE), id="a second response"),
        pytest.param(b"x", id="a byte"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n", id="an interim response"),
        pytest.param(b"\r\n", id="a line break"),
        pytest.param(message(STALE) * 3000, id="more than a buffer holds"),
    )

    @pytest.mark.parametrize("extra", EXTRA)
    def test_that_came_along(self, transport: Transport, serve: Serve, extra: bytes) -> None:
        server = serve(raw(message(BALANCE) + extra), response(BALANCE))
        first, *later = [str(one) for one in _outcomes(transport, server)]
        assert first == "457.00" or "the response is not HTTP" in first  # aiohttp reads on before it gives a response
        assert later == ["457.00"] * 2
        assert server.connections == 2 or extra == b"\r\n"  # RFC 9112, section 2.2: a recipient may ignore it

    @pytest.mark.parametrize("extra", EXTRA)
    @pytest.mark.parametrize("client", ["requests", "aiohttp", "aiohttp on a busy loop"])
    def test_that_came_later(self, serve: Serve, extra: bytes, client: str) -> None:
        has_response, wrote_extra = threading.Event(), threading.Event()

        async def late(exchange: Exchange) -> None:
            await exchange.write(message(BALANCE))
            await until(has_response.is_set)
            await exchange.write(extra)
            wrote_extra.set()

        def may_go_on() -> bool:
            has_response.set()
            return wrote_extra.is_set()

        server = serve(late, response(BALANCE))
        perform = {"requests": _blocking, "aiohttp": _asyncio}.get(client, _asyncio_on_a_busy_loop)
        outcomes = perform(server, [endpoints.get_balance()] * 3, may_go_on)
        assert [str(one) for one in outcomes] == ["457.00"] * 3
        assert server.connections == 2 or extra == b"\r\n"

    def test_that_tls_holds_back(self, transport: Transport, serve: Serve, tmp_path: Path) -> None:
        """One TLS record brings both responses, and the first one ends where a buffer of the client ends."""
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        padding = 8192 - len(message({**BALANCE, "padding": "x" * 8000})) + 8000
        full = message({**BALANCE, "padding": "x" * padding})
        assert len(full) == 8192
        server = serve(raw(full + message(STALE)), response(BALANCE), tls=context)
        outcomes = transport.perform_in_turn(_settings(server, tmp_path / "ca.pem"), [endpoints.get_balance()] * 3)
        assert [str(one) for one in outcomes] == ["457.00"] * 3
        assert server.connections == 2

    def test_after_a_redirect_an_error_or_nothing(self, transport: Transport, serve: Serve) -> None:
        for status in (204, 304, 401, 404, 500):
            server = serve(raw(message(b"", status) + message(STALE)), response(BALANCE))
            assert str(_outcomes(transport, server)[-1]) == "457.00"
            assert "666" not in repr(_outcomes(transport, serve(raw(message(b"", status) + message(STALE)))))

    def test_a_body_that_is_longer_than_it_says(self, transport: Transport, serve: Serve) -> None:
        long = head(headers=[("Content-Length", "21")]) + b'{"balance": "457.00"}{"balance": "666.00"}'
        server = serve(raw(long), response(BALANCE))
        assert [str(one) for one in _outcomes(transport, server)][1:] == ["457.00"] * 2


def _after(interim: bytes, content: dict[str, Any]) -> Step:
    return raw(interim + message({**content, "validity_period": "3600"}))


def _settings(server: HostileServer, ca_bundle: Path | None = None) -> ApiSettings:
    return ApiSettings(
        client_id="me",
        client_secret=Secret("s3cret"),
        base_url=server.url,
        max_attempts=1,
        ca_bundle=None if ca_bundle is None else str(ca_bundle),
    )


def _outcomes(transport: Transport, server: HostileServer) -> list[Any]:
    """Return the results and errors of three calls, one after the other."""
    return transport.perform_in_turn(_settings(server), [endpoints.get_balance()] * 3)


def _blocking(server: HostileServer, calls: list[Call[Any]], may_go_on: Callable[[], bool]) -> list[Any]:
    """Do calls; after each of them, wait until the server has written more."""
    outcomes = []
    with RtiSmsClient(_settings(server)) as client:
        for call in calls:
            outcomes.append(client.perform(call))
            _wait(may_go_on)
    return outcomes


def _asyncio(server: HostileServer, calls: list[Call[Any]], may_go_on: Callable[[], bool]) -> list[Any]:
    return asyncio.run(_perform(server, calls, lambda: until(may_go_on)))


def _asyncio_on_a_busy_loop(server: HostileServer, calls: list[Call[Any]], may_go_on: Callable[[], bool]) -> list[Any]:
    """Do calls while the loop reads nothing between them: the kernel holds what has come."""

    async def wait() -> None:
        _wait(may_go_on)

    return asyncio.run(_perform(server, calls, wait))


async def _perform(server: HostileServer, calls: list[Call[Any]], wait: Callable[[], Awaitable[None]]) -> list[Any]:
    outcomes = []
    async with AsyncRtiSmsClient(_settings(server)) as client:
        for call in calls:
            outcomes.append(await client.perform(call))
            await wait()
    return outcomes


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)
