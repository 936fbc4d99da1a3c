"""The way to the API: names, ports, certificates and proxies. Each fault is named by exactly its check."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from airflow_provider_rtisms.sandbox import Sandbox
from tests.hostile import HostileServer
from tests.unit.doctor.vendor import Reply, connect_proxy, examine, examine_slow, not_ok, port_of, result, vendor


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


def tls_vendor(certificate: trustme.LeafCert) -> HostileServer:
    return vendor(context=context_of(certificate))


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def localhost(server: HostileServer) -> str:
    return f"https://localhost:{port_of(server)}"


@pytest.mark.parametrize(
    ("address", "proxy", "finds"),
    [
        ("http://127.0.0.1:{port}", None, "tcp"),
        ("https://api.invalid", None, "name_resolution"),
        ("https://api.invalid", "http://127.0.0.1:{port}", "tcp"),
    ],
)
def test_nothing_is_there(address: str, proxy: str | None, finds: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    report = examine(address.format(port=port), proxy=proxy and proxy.format(port=port))
    assert not_ok(report) == {finds: "failed"}
    assert ("of the proxy" if proxy else "Base URL (Host)") in result(report, finds).remedy


def test_a_server_that_is_silent() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        examine_slow(f"http://{address}", finds={"http": "failed"})
        examine_slow(f"https://{address}", finds={"tls": "failed"})


@pytest.mark.parametrize(
    ("days", "name", "is_trusted", "outcome", "words"),
    [
        (90, "localhost", True, None, r"^TLSv1\.3, certificate by .+, 90 days left, verified by /.+/ca\.pem$"),
        (3, "localhost", True, "differs", "3 days left"),
        (-3, "localhost", True, "failed", "certificate has expired"),
        (30, "other.example", True, "failed", "mismatch"),
        (30, "localhost", False, "failed", "certifi"),
    ],
)
def test_certificates(
    authority: trustme.CA, bundle: str, days: int, name: str, is_trusted: bool, outcome: str | None, words: str
) -> None:
    certificate = authority.issue_cert(name, not_after=datetime.now(UTC) + timedelta(days=days, hours=1))
    with tls_vendor(certificate) as server:
        report = examine(localhost(server), ca_bundle=bundle if is_trusted else None)
    assert not_ok(report) == ({"tls": outcome} if outcome else {})
    assert re.search(words, result(report, "tls").got)
    assert (server.requests == []) is (outcome == "failed")
    assert ("Base URL (Host)" in result(report, "tls").remedy) is (name == "other.example")


def test_a_self_signed_certificate_and_no_tls_at_all(tmp_path: Path) -> None:
    own = trustme.CA()
    pem = tmp_path / "own.pem"
    pem.write_bytes(own.private_key_pem.bytes() + own.cert_pem.bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with vendor(context=context) as self_signed, Sandbox() as plain:
        signed = examine(localhost(self_signed))
        clear = examine(plain.url.replace("http://127.0.0.1", "https://localhost"))
    assert not_ok(signed) == not_ok(clear) == {"tls": "failed"}
    assert re.search("self.signed", result(signed, "tls").got)


@pytest.mark.parametrize("password", [None, "proxy-pass"])
def test_a_proxy_is_needed(authority: trustme.CA, bundle: str, password: str | None) -> None:
    """The name of the API resolves behind the proxy alone."""
    credentials, userinfo = (f"us er:{password}", f"us%20er:{password}@") if password else ("", "")
    with (
        tls_vendor(authority.issue_cert("api.invalid")) as server,
        connect_proxy(port_of(server), credentials) as (proxy, heads),
    ):
        with_proxy = examine("https://api.invalid", ca_bundle=bundle, proxy=f"http://{userinfo}127.0.0.1:{proxy}")
        without_proxy = examine("https://api.invalid", ca_bundle=bundle)
    assert {check.outcome for check in with_proxy.checks} == {"ok"}, with_proxy.to_text()
    assert f"http://127.0.0.1:{proxy} from the field 'proxy' in the extra" in result(with_proxy, "proxy").got
    assert all(head.startswith(b"CONNECT api.invalid:443 HTTP/1.") for head in heads)
    assert not_ok(without_proxy) == {"name_resolution": "failed"}
    assert "proxy" in result(without_proxy, "name_resolution").remedy


@pytest.mark.parametrize(
    ("status", "scheme", "finds"),
    [
        (407, "https", {"proxy": "failed"}),
        (403, "https", {"proxy": "failed"}),
        (407, "http", {"tls": "differs", "http": "failed"}),
    ],
)
def test_a_proxy_that_refuses(status: int, scheme: str, finds: dict[str, str]) -> None:
    with vendor(lambda request, reply: Reply(status)) as server:
        proxy = f"http://user:proxy-pass@127.0.0.1:{port_of(server)}"
        report = examine(f"{scheme}://api.invalid", allow_http=True, proxy=proxy)
    assert not_ok(report) == finds
    failed = result(report, list(finds)[-1])
    assert f"HTTP {status}" in failed.got
    assert ("password" in failed.remedy) is (status == 407)
    if scheme == "https":
        assert [request.method for request in server.requests] == ["CONNECT"]


def test_a_proxy_of_the_environment_that_speaks_tls(
    authority: trustme.CA, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        tls_vendor(authority.issue_cert("api.invalid")) as server,
        connect_proxy(port_of(server), context=context_of(authority.issue_cert("localhost"))) as (proxy, _),
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{proxy}")
        report = examine("https://api.invalid", ca_bundle=bundle)
    assert not_ok(report) == {}
    assert "not checked by itself" in result(report, "tls").got
    assert "from the environment (HTTPS_PROXY)" in result(report, "proxy").got
