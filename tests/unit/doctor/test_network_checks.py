"""What the checks of the way to the API say of each failure, without a network; ``test_network.py`` has a real one."""

from __future__ import annotations

import base64
import socket
import ssl
import time
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.doctor import wire
from airflow_provider_rtisms.doctor.checks import network
from airflow_provider_rtisms.doctor.wire import ProxyRefusedError, Route
from tests.unit.doctor.test_checks import context, found

HTTPS = "https://api.example"
REFUSED = ConnectionRefusedError(111, "Connection refused")


class Certified:
    """A TLS connection with a certificate."""

    def __init__(self, days: float, **issuer: str) -> None:
        self.days = days
        self.issuer = tuple(((name, value),) for name, value in issuer.items())

    def __enter__(self) -> Certified:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def version(self) -> str:
        return "TLSv1.3"

    def getpeercert(self) -> dict[str, Any]:
        expires = formatdate(time.time() + self.days * 86400 + 60, usegmt=True)  # "Tue, 24 Nov 2026 10:00:00 GMT"
        _, day, month, year, clock, zone = expires.split()
        return {"notAfter": f"{month} {day} {clock} {year} {zone}", "issuer": self.issuer}

    def close(self) -> None:
        pass


def unspoken(reason: str | None) -> ssl.SSLError:
    """Return the error of a server that does not speak TLS."""
    error = ssl.SSLError(1, "x")
    error.reason = reason  # type: ignore[assignment]
    return error


def patch(monkeypatch: pytest.MonkeyPatch, method: str, result: Any) -> None:
    """Let a method of the route return or raise something."""

    def replaced(*_: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(Route, method, replaced)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            Certified(15, organizationName="Org", commonName="CN"),
            "ok: TLSv1.3, certificate by Org, 15 days left, verified",
        ),
        (Certified(14, commonName="CN"), "ok: TLSv1.3, certificate by CN, 14 days left, verified by"),
        (Certified(13.9), "differs: TLSv1.3, certificate by an authority without a name, 14 days left, verified by"),
        (Certified(90, organizationName="x" * 61), f"ok: TLSv1.3, certificate by {'x' * 60}, 90 days left"),
        (unspoken("WRONG_VERSION_NUMBER"), "failed: no TLS connection: WRONG_VERSION_NUMBER"),
        (unspoken(None), "failed: no TLS connection: SSLError"),
        (TimeoutError(), "failed: the TLS handshake was not complete after 1 s"),
        (ProxyRefusedError(403), "failed: the proxy refused the connection: HTTP 403"),
        (ConnectionResetError(), "failed: the connection broke during the TLS handshake (ConnectionResetError)"),
    ],
)
def test_tls(monkeypatch: pytest.MonkeyPatch, result: Any, expected: str) -> None:
    patch(monkeypatch, "start_tls", result)
    assert found(network.check_tls, context(base_url=HTTPS)).startswith(expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"base_url": "http://127.0.0.1:1"}, "skipped: plain http to this machine itself"),
        (
            {"base_url": "http://api.example", "allow_http": True},
            "differs: plain http: everyone on the network can read the client secret",
        ),
    ],
)
def test_no_tls(settings: dict[str, Any], expected: str) -> None:
    assert found(network.check_tls, context(**settings)) == expected


@pytest.mark.parametrize(
    ("code", "remedy"), [(9, "clock"), (10, "clock"), (62, "Host"), (64, "Host"), (18, "ca_bundle")]
)
def test_each_defect_of_a_certificate_has_its_remedy(monkeypatch: pytest.MonkeyPatch, code: int, remedy: str) -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message = code, "it is bad."
    patch(monkeypatch, "start_tls", error)
    finding = network.check_tls(context(base_url=HTTPS, ca_bundle=ssl.get_default_verify_paths().openssl_cafile or ""))
    assert finding.got.startswith("the certificate is not trusted: it is bad. Verified by ")
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "certifi 2"),
        ({"SSL_CERT_FILE": "/b.pem"}, "the environment variable SSL_CERT_FILE (/b.pem)"),
        (
            {"SSL_CERT_FILE": "/b.pem", "REQUESTS_CA_BUNDLE": "/a.pem"},
            "the environment variable REQUESTS_CA_BUNDLE (/a.pem)",
        ),
    ],
)
def test_it_says_what_verified_a_certificate(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert network._verifier(context()).startswith(expected)


PROXY = "http://proxy.example:3128 from extra 'proxy' of the Connection: "


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Certified(1), f"ok: {PROXY}it connects to the API"),
        (ProxyRefusedError(407), f"failed: {PROXY}the proxy refused the connection: HTTP 407"),
        (ProxyRefusedError(502), f"failed: {PROXY}the proxy refused the connection: HTTP 502"),
        (ProxyRefusedError(None), f"failed: {PROXY}the proxy refused the connection: a response that is not HTTP"),
        (ssl.SSLError(1, "x"), f"failed: {PROXY}no TLS connection to the proxy"),
        (TimeoutError(), f"failed: {PROXY}the proxy did not respond in 1 s"),
        (ConnectionResetError(), f"failed: {PROXY}the connection to the proxy broke (ConnectionResetError)"),
    ],
)
def test_the_proxy(monkeypatch: pytest.MonkeyPatch, result: Any, expected: str) -> None:
    patch(monkeypatch, "open_tunnel", result)
    assert found(network.check_proxy, context(base_url=HTTPS, proxy="http://proxy.example:3128")) == expected


def test_a_refused_login_and_a_refused_tunnel_have_different_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    remedies = []
    for status in (407, 403):
        patch(monkeypatch, "open_tunnel", ProxyRefusedError(status))
        remedies.append(network.check_proxy(context(base_url=HTTPS, proxy="http://proxy.example:3128")).remedy)
    assert "password" in remedies[0]
    assert "administrator" in remedies[1]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (REFUSED, "failed: no connection to 127.0.0.1 port 1: Connection refused"),
        (TimeoutError("x"), "failed: no connection to 127.0.0.1 port 1: timeout"),
        (OSError(), "failed: no connection to 127.0.0.1 port 1: OSError"),
        (Certified(1), "ok: connected to 127.0.0.1 port 1 in 0 ms"),
    ],
)
def test_tcp(monkeypatch: pytest.MonkeyPatch, result: Any, expected: str) -> None:
    patch(monkeypatch, "connect", result)
    assert found(network.check_tcp, context()) == expected


def test_who_refuses_a_connection_decides_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    patch(monkeypatch, "connect", REFUSED)
    assert "host and port of the Connection" in network.check_tcp(context()).remedy
    with_proxy = network.check_tcp(context(base_url=HTTPS, proxy="http://proxy.example:3128"))
    assert with_proxy.got == "no connection to proxy.example port 3128: Connection refused"
    assert "which come from extra 'proxy' of the Connection" in with_proxy.remedy


@pytest.mark.parametrize(
    ("found_addresses", "expected"),
    [
        (4, "ok: api.example: 10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3, in 0 ms"),
        (5, "ok: api.example: 10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3 and others, in 0 ms"),
        (socket.gaierror(-2, "Name or service not known"), "failed: the name api.example cannot be resolved: Name or"),
        (UnicodeError(), "failed: the name api.example cannot be resolved: UnicodeError"),
    ],
)
def test_names(monkeypatch: pytest.MonkeyPatch, found_addresses: Any, expected: str) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        assert (host, port) == ("api.example", 443)
        if isinstance(found_addresses, Exception):
            raise found_addresses
        return [(0, 0, 0, "", (f"10.0.0.{number}", port)) for number in reversed(range(found_addresses))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert found(network.check_name, context(base_url=HTTPS)).startswith(expected)


def test_an_address_is_not_looked_up() -> None:
    assert found(network.check_name, context()) == "ok: 127.0.0.1 is an address, not a name"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://api.example", ("api.example", 443)),
        ("http://localhost", ("localhost", 80)),
        ("https://api.example:8443/x", ("api.example", 8443)),
    ],
)
def test_where_a_connection_goes(url: str, target: tuple[str, int]) -> None:
    assert Route(context(base_url=url).settings).first_hop == target
    proxied = Route(context(base_url=url, proxy="http://proxy.example").settings)
    assert (proxied.target, proxied.first_hop) == (target, ("proxy.example", 80))


class Socket:
    """A connection to a proxy, which sends some bytes."""

    def __init__(self, response: bytes) -> None:
        self.response = response
        self.sent = b""
        self.is_closed = False

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, seconds: float) -> None:
        assert 0 < seconds <= 5

    def recv(self, size: int) -> bytes:
        data, self.response = self.response[:size], self.response[size:]
        return data

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("base_url", "proxy", "sent", "tls_names"),
    [
        (HTTPS, "http://proxy.example", ["CONNECT api.example:443 HTTP/1.1", "Host: api.example:443"], []),
        (
            HTTPS,
            "https://proxy.example",
            ["CONNECT api.example:443 HTTP/1.1", "Host: api.example:443"],
            ["proxy.example"],
        ),
        (
            "https://[2001:db8::1]:8443",
            "http://me:p%40ss@proxy.example",
            [
                "CONNECT [2001:db8::1]:8443 HTTP/1.1",
                "Host: [2001:db8::1]:8443",
                f"Proxy-Authorization: Basic {base64.b64encode(b'me:p@ss').decode()}",
            ],
            [],
        ),
    ],
)
def test_a_tunnel(
    monkeypatch: pytest.MonkeyPatch, base_url: str, proxy: str, sent: list[str], tls_names: list[str]
) -> None:
    """TLS to the proxy itself only where its URL says so; what follows the response belongs to the API."""
    wrapped: list[str] = []

    def wrap_socket(sock: Any, server_hostname: str) -> Any:
        wrapped.append(server_hostname)
        return sock

    monkeypatch.setattr(wire, "tls_context", lambda _: SimpleNamespace(wrap_socket=wrap_socket))
    sock = Socket(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nTLS")
    patch(monkeypatch, "connect", sock)
    assert Route(context(base_url=base_url, proxy=proxy).settings).open_tunnel(5) is sock
    assert sock.sent.decode().split("\r\n") == [*sent, "", ""]
    assert (wrapped, sock.response, sock.is_closed) == (tls_names, b"TLS", False)


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (b"HTTP/1.0 403 No\r\n\r\n", 403),
        (b"HTTP/1.1 407 No", 407),
        (b"SSH-2.0\r\n\r\n", None),
        (b"", None),
        (b"x" * 70000, None),
    ],
)
def test_a_tunnel_that_is_refused(monkeypatch: pytest.MonkeyPatch, response: bytes, status: int | None) -> None:
    sock = Socket(response)
    patch(monkeypatch, "connect", sock)
    with pytest.raises(ProxyRefusedError) as caught:
        Route(context(base_url=HTTPS, proxy="http://proxy.example").settings).open_tunnel(5)
    assert (caught.value.status, sock.is_closed) == (status, True)
    assert len(response) - len(sock.response) <= 65536


def test_a_proxy_that_sends_nothing_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sock = Socket(b"HTTP/1.1 200 OK\r\n\r\n")
    patch(monkeypatch, "connect", sock)
    with pytest.raises(TimeoutError, match="did not respond in time"):
        Route(context(base_url=HTTPS, proxy="http://proxy.example").settings).open_tunnel(0)
    assert sock.is_closed
