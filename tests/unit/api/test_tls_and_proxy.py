"""Certificates and proxies, on both transports, over real sockets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import trustme

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.errors import RtiSmsCertificateError, RtiSmsConnectError, RtiSmsTimeoutError
from tests.hostile import HostileServer, response
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

BALANCE = endpoints.get_balance()
SPENT = response({"balance": "457.00"})


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.fixture
def serve_tls(serve: Serve, authority: trustme.CA) -> Callable[[str], HostileServer]:
    """Start a server with a certificate for a name."""

    def serve_tls(name: str) -> HostileServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return serve(SPENT, tls=context)

    return serve_tls


@pytest.mark.parametrize("source", ["ca_bundle", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_bundle_of_the_connection_or_of_the_environment_is_trusted(
    transport: Transport, serve_tls: Serve, bundle: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {source: bundle} if source == "ca_bundle" else {}
    if not fields:
        monkeypatch.setenv(source, bundle)
    assert transport.perform(serve_tls("127.0.0.1"), BALANCE, **fields) == Decimal("457.00")


def test_an_unknown_authority_is_refused_at_once(transport: Transport, serve_tls: Serve) -> None:
    server = serve_tls("127.0.0.1")
    with pytest.raises(RtiSmsCertificateError, match="ca_bundle") as caught:
        transport.perform(server, BALANCE)
    assert not caught.value.may_have_acted
    assert server.requests == []


def test_a_certificate_for_another_host_is_refused(transport: Transport, serve_tls: Serve, bundle: str) -> None:
    with pytest.raises(RtiSmsCertificateError):
        transport.perform(serve_tls("other.example"), BALANCE, ca_bundle=bundle)


@pytest.mark.parametrize("source", ["proxy", "http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_of_the_connection_or_of_the_environment_carries_plain_http(
    transport: Transport, serve: Serve, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(SPENT)
    fields = {"proxy": proxy.url} if source == "proxy" else {}
    if not fields:
        monkeypatch.setenv(source, proxy.url)
    found = transport.perform(proxy, BALANCE, base_url="http://api.example", allow_http=True, **fields)
    assert found == Decimal("457.00")
    assert [one.target for one in proxy.requests] == ["http://api.example/api/auth", "http://api.example/api/balance"]


def test_no_proxy_of_the_environment(transport: Transport, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert transport.perform(serve(SPENT), BALANCE) == Decimal("457.00")
    assert proxy.requests == []


def test_a_tls_handshake_that_hangs_ends_with_the_timeout(transport: Transport, serve: Serve) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        there = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises((RtiSmsTimeoutError, RtiSmsConnectError)):
            transport.perform(serve(), BALANCE, base_url=there, timeout=0.5, max_attempts=1)


@pytest.mark.usefixtures("quick_retries")
def test_a_closed_port_is_a_request_that_never_left(transport: Transport, serve: Serve) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        there = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(RtiSmsConnectError, match="Gave up after 2 attempts") as caught:
        transport.perform(serve(), BALANCE, base_url=there, max_attempts=2)
    assert not caught.value.may_have_acted
