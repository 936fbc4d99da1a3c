"""Certificates and proxies, on both transports, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.client import RtiSmsClient
from airflow_provider_rtisms.api.errors import (
    RtiSmsCertificateError,
    RtiSmsConnectError,
    RtiSmsTimeoutError,
    RtiSmsTransientError,
)
from airflow_provider_rtisms.api.settings import ApiSettings

Ask = Callable[..., Decimal]


def _ask_blocking(settings: ApiSettings) -> Decimal:
    with RtiSmsClient(settings) as client:
        return client.perform(endpoints.get_balance())


def _ask_asyncio(settings: ApiSettings) -> Decimal:
    async def main() -> Decimal:
        async with AsyncRtiSmsClient(settings) as client:
            return await client.perform(endpoints.get_balance())

    return asyncio.run(main())


@pytest.fixture(params=[_ask_blocking, _ask_asyncio], ids=["requests", "aiohttp"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Read the balance with some settings."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def ask(**settings: Any) -> Decimal:
        return request.param(ApiSettings(client_id="me", client_secret="s3cret", **settings))

    return ask


class _Api(BaseHTTPRequestHandler):
    """Just enough of the API to read a balance; every target that was asked for is kept."""

    protocol_version = "HTTP/1.1"
    seen: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._response({"access_token": "a.b$c", "validity_period": "3600"})

    def do_GET(self) -> None:
        self._response({"balance": "457.00"})

    def _response(self, content: dict[str, str]) -> None:
        self.seen.append(f"{self.command} {self.path}")
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., ThreadingHTTPServer]]:
    servers: list[ThreadingHTTPServer] = []

    def serve(authority: trustme.CA | None = None, name: str = "localhost") -> ThreadingHTTPServer:
        handler = type("Handler", (_Api,), {"seen": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name).configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


def test_ca_bundle_is_trusted(ask: Ask, serve: Any, authority: trustme.CA, bundle: str) -> None:
    server = serve(authority)
    assert ask(base_url=f"https://localhost:{server.server_port}", ca_bundle=bundle) == Decimal("457.00")


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_ca_bundle_of_the_environment(
    ask: Ask, serve: Any, authority: trustme.CA, bundle: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, bundle)
    assert ask(base_url=f"https://localhost:{serve(authority).server_port}") == Decimal("457.00")


def test_unknown_authority_is_refused_at_once(ask: Ask, serve: Any, authority: trustme.CA) -> None:
    server = serve(authority)
    with pytest.raises(RtiSmsCertificateError, match="ca_bundle") as caught:
        ask(base_url=f"https://localhost:{server.server_port}")
    assert not caught.value.may_have_acted
    assert server.RequestHandlerClass.seen == []


def test_certificate_for_another_host_is_refused(ask: Ask, serve: Any, bundle: str, authority: trustme.CA) -> None:
    server = serve(authority, "other.example")
    with pytest.raises(RtiSmsCertificateError):
        ask(base_url=f"https://localhost:{server.server_port}", ca_bundle=bundle)


def test_proxy_of_the_connection_carries_plain_http(ask: Ask, serve: Any) -> None:
    proxy = serve()
    host = "http://api.example"
    assert ask(base_url=host, allow_http=True, proxy=f"http://127.0.0.1:{proxy.server_port}") == Decimal("457.00")
    assert proxy.RequestHandlerClass.seen == [f"POST {host}/api/auth", f"GET {host}/api/balance"]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_proxy_of_the_environment(ask: Ask, serve: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve()
    monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    assert ask(base_url="http://api.example", allow_http=True) == Decimal("457.00")
    assert len(proxy.RequestHandlerClass.seen) == 2


def test_no_proxy_of_the_environment(ask: Ask, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api, proxy = serve(), serve()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert ask(base_url=f"http://127.0.0.1:{api.server_port}") == Decimal("457.00")
    assert proxy.RequestHandlerClass.seen == []


def test_a_tls_handshake_that_hangs_ends_with_the_timeout(ask: Ask) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, pytest.raises(RtiSmsTransientError) as caught:
        ask(base_url=f"https://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5, max_attempts=1)
    assert isinstance(caught.value, RtiSmsTimeoutError | RtiSmsConnectError)


def test_a_closed_port_is_a_request_that_never_left(ask: Ask) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RtiSmsConnectError) as caught:
        ask(base_url=f"http://127.0.0.1:{port}", max_attempts=2)
    assert not caught.value.may_have_acted
    assert "Gave up after 2 attempts" in str(caught.value)
