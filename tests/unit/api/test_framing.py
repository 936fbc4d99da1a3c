"""Where one response ends and the next one begins: interim responses, and bytes that belong to no request."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.client import RtiSmsClient
from tests.hostile import Exchange, HostileServer, head, message, raw, response, until
from tests.patience import wait_until
from tests.unit.api.conftest import Blocking, Transport, settings_for
from tests.unit.conftest import Serve

GET = endpoints.get_balance()
SEND = endpoints.send_sms(recipients="+56912345678", text="hola", sender="96000")
BALANCE = {"balance": "457.00"}
STALE = {"balance": "666.00"}
SENT = {"submissions": [{"status": "submitted", "submissionId": "42"}]}
HINTS = b"HTTP/1.1 103 Early Hints\r\n\r\n"

pytestmark = pytest.mark.usefixtures("quick_retries")


def outcomes(transport: Transport, server: HostileServer, **settings: Any) -> list[str]:
    """Return the results and errors of three calls, one after the other."""
    found = transport.perform_in_turn(settings_for(server, max_attempts=1, **settings), [GET] * 3)
    return [str(one) for one in found]


class TestInterimResponses:
    """RFC 9110, section 15.2: a client passes over any number of them, whatever their status and headers are."""

    @pytest.mark.parametrize(
        "interim",
        [
            pytest.param(b"HTTP/1.1 102 Processing\r\n\r\n", id="102"),
            pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nX: y\r\n\r\n", id="103"),
            pytest.param(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", id="100 with a header"),
            pytest.param(b"HTTP/1.1 199 Whatever\r\n\r\n", id="199"),
            pytest.param(b"HTTP/1.1 103 A\r\n\r\n" + b"HTTP/1.1 102 B\r\n\r\n" * 5, id="many"),
        ],
    )
    def test_are_passed_over(self, transport: Transport, serve: Serve, interim: bytes) -> None:
        granted = raw(interim + message({"access_token": "t", "validity_period": "3600"}))
        server = serve(*[raw(interim + message(BALANCE))] * 2, raw(interim + message(SENT)), auth=[granted])
        first, second, (sent,) = transport.perform_all(server, [GET, GET, SEND], max_attempts=1)
        assert (first, second, sent.submission_id) == (Decimal("457.00"), Decimal("457.00"), "42")
        assert len(server.calls) == 3

    def test_without_end_end_with_an_error(self, transport: Transport, serve: Serve) -> None:
        async def endless(exchange: Exchange) -> None:
            while True:
                await exchange.write(HINTS * 10)
                await asyncio.sleep(0.01)

        error = transport.give_up(serve(endless), GET, max_attempts=1)
        assert isinstance(error, errors.RtiSmsTimeoutError | errors.RtiSmsConnectionLostError)
        assert isinstance(transport.give_up(serve(endless), SEND), errors.RtiSmsUncertainError)

    def test_of_many_headers_end_with_an_error(self, transport: Transport, serve: Serve) -> None:
        many = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </a>\r\n" * 5000 + b"\r\n"
        with pytest.raises(errors.RtiSmsTransientError):
            transport.perform(serve(raw(many, then="close")), GET, max_attempts=1)

    def test_as_many_are_passed_over_by_the_blocking_client_as_a_server_may_need(self, serve: Serve) -> None:
        server = serve(raw(HINTS * 19 + message(BALANCE)), raw(HINTS * 20 + message(BALANCE)))
        first, second, _ = outcomes(Blocking(), server)
        assert first == "457.00"
        assert "the connection broke (HTTPException)" in second

    def test_are_passed_over_behind_a_proxy_too(self, transport: Transport, serve: Serve) -> None:
        proxy = serve(raw(HINTS + message(BALANCE)))
        there = {"base_url": "http://api.invalid", "allow_http": True, "proxy": proxy.url}
        assert outcomes(transport, proxy, **there) == ["457.00"] * 3
        assert proxy.calls[0].target == "http://api.invalid/api/balance"

    def test_a_switch_of_protocols_is_refused(self, transport: Transport, serve: Serve) -> None:
        switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n" + message(STALE)
        first, *others = outcomes(transport, serve(raw(switch), response(BALANCE)))
        assert "HTTP 101" in first
        assert others == ["457.00"] * 2


@pytest.mark.parametrize("line", [b"no colon s3cret", b": s3cret", b"s3cret\r\nX: y"])
def test_header_lines_that_cannot_be_parsed_are_not_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    start = head(headers=[("Content-Length", "21")]).rstrip()
    server = serve(raw(start + b"\r\n" + line + b'\r\n\r\n{"balance": "457.00"}'))
    assert Blocking().perform(server, GET, max_attempts=1) == Decimal("457.00")
    assert [one for one in caplog.records if one.levelname != "DEBUG"] == []


class TestUnreadBytes:
    """A connection on which bytes have come that belong to no request is never used again."""

    EXTRA = (
        pytest.param(message(STALE), id="a second response"),
        pytest.param(b"x", id="a byte"),
        pytest.param(HINTS, id="an interim response"),
        pytest.param(b"\r\n", id="a line break"),
        pytest.param(message(STALE) * 3000, id="more than a buffer holds"),
    )

    @pytest.mark.parametrize("extra", EXTRA)
    def test_that_came_along(self, transport: Transport, serve: Serve, extra: bytes) -> None:
        server = serve(raw(message(BALANCE) + extra), response(BALANCE))
        first, *later = outcomes(transport, server)
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

        async def wait_on_a_busy_loop() -> None:  # the kernel holds what has come
            wait_until(may_go_on, "more bytes")

        server = serve(late, response(BALANCE))
        if client == "requests":
            found = _blocking(server, lambda: wait_until(may_go_on, "more bytes"))
        else:
            found = asyncio.run(_asyncio(server, wait_on_a_busy_loop if "busy" in client else lambda: until(may_go_on)))
        assert [str(one) for one in found] == ["457.00"] * 3
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
        assert outcomes(transport, server, ca_bundle=str(tmp_path / "ca.pem")) == ["457.00"] * 3
        assert server.connections == 2

    @pytest.mark.parametrize("status", [204, 304, 401, 404, 500])
    def test_after_a_redirect_an_error_or_nothing(self, transport: Transport, serve: Serve, status: int) -> None:
        step = raw(message(b"", status) + message(STALE))
        assert outcomes(transport, serve(step, response(BALANCE)))[-1] == "457.00"
        assert "666" not in repr(outcomes(transport, serve(step)))

    def test_a_body_that_is_longer_than_it_says(self, transport: Transport, serve: Serve) -> None:
        long = head(headers=[("Content-Length", "21")]) + b'{"balance": "457.00"}{"balance": "666.00"}'
        assert outcomes(transport, serve(raw(long), response(BALANCE)))[1:] == ["457.00"] * 2


def _blocking(server: HostileServer, wait: Callable[[], object]) -> list[Any]:
    """Do three calls; after each of them, wait until the server has written more."""
    found = []
    with RtiSmsClient(settings_for(server, max_attempts=1)) as client:
        for _ in range(3):
            found.append(client.get_balance())
            wait()
    return found


async def _asyncio(server: HostileServer, wait: Callable[[], Awaitable[None]]) -> list[Any]:
    found = []
    async with AsyncRtiSmsClient(settings_for(server, max_attempts=1)) as client:
        for _ in range(3):
            found.append(await client.get_balance())
            await wait()
    return found
