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

from tests.unit.doctor.examination import examine, examine_slow, got, not_ok, remedy, url
from tests.unit.doctor.vendor import Reply, connect_proxy, vendor


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def unused_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "proxy", "finds"),
    [
        ("http://127.0.0.1:{port}", None, "tcp"),
        ("https://api.invalid", None, "name_resolution"),
        ("https://api.invalid", "http://127.0.0.1:{port}", "tcp"),
    ],
)
def test_nothing_is_there(address: str, proxy: str | None, finds: str) -> None:
    port = unused_port()
    report = examine(address.format(port=port), proxy=proxy and proxy.format(port=port))
    assert not_ok(report) == {finds: "failed"}
    assert "Base URL (Host)" in remedy(report, finds) or (proxy and "of the proxy" in remedy(report, finds))


def test_a_server_that_is_silent() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        examine_slow(url(port), finds={"http": "failed"})
        examine_slow(f"https://127.0.0.1:{port}", finds={"tls": "failed"})


class TestTls:
    def test_trusted(self, authority: trustme.CA, bundle: str) -> None:
        with vendor(context=context_of(authority.issue_cert("localhost"))) as (port, _):
            report = examine(f"https://localhost:{port}", ca_bundle=bundle)
        assert {check.outcome for check in report.checks} == {"ok"}, report.to_text()
        assert re.fullmatch(
            rf"TLSv1\.3, certificate by .+, [0-9]+ days left, verified by {re.escape(bundle)}",
            got(report, "tls"),
        )

    @pytest.mark.parametrize(
        ("days", "name", "is_trusted", "outcome", "words"),
        [
            (3, "localhost", True, "differs", "3 days left"),
            (-3, "localhost", True, "failed", "certificate has expired"),
            (30, "other.example", True, "failed", "mismatch"),
            (30, "localhost", False, "failed", "certifi"),
        ],
    )
    def test_certificates(
        self, authority: trustme.CA, bundle: str, days: int, name: str, is_trusted: bool, outcome: str, words: str
    ) -> None:
        certificate = authority.issue_cert(name, not_after=datetime.now(UTC) + timedelta(days=days, hours=1))
        with vendor(context=context_of(certificate)) as (port, requests):
            report = examine(f"https://localhost:{port}", ca_bundle=bundle if is_trusted else None)
        assert not_ok(report) == {"tls": outcome}
        assert words in got(report, "tls")
        assert (requests == []) is (outcome == "failed")
        assert ("Base URL (Host)" in remedy(report, "tls")) is (name == "other.example")

    def test_self_signed(self, tmp_path: Path) -> None:
        own = trustme.CA()
        pem = tmp_path / "own.pem"
        pem.write_bytes(own.private_key_pem.bytes() + own.cert_pem.bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        with vendor(context=context) as (port, _):
            report = examine(f"https://localhost:{port}")
        assert not_ok(report) == {"tls": "failed"}
        assert "self-signed" in got(report, "tls").replace("self signed", "self-signed")

    def test_no_tls_at_all(self) -> None:
        with vendor() as (port, _):
            assert not_ok(examine(f"https://localhost:{port}")) == {"tls": "failed"}


class TestProxy:
    @pytest.mark.parametrize("password", [None, "proxy-pass"])
    def test_a_proxy_is_needed(self, authority: trustme.CA, bundle: str, password: str | None) -> None:
        """The name of the API resolves behind the proxy alone."""
        credentials = None if password is None else f"us er:{password}"
        userinfo = "" if password is None else f"us%20er:{password}@"
        with (
            vendor(context=context_of(authority.issue_cert("api.invalid"))) as (port, _),
            connect_proxy(port, credentials) as (proxy, heads),
        ):
            with_proxy = examine("https://api.invalid", ca_bundle=bundle, proxy=f"http://{userinfo}127.0.0.1:{proxy}")
            without_proxy = examine("https://api.invalid", ca_bundle=bundle)
        assert {check.outcome for check in with_proxy.checks} == {"ok"}, with_proxy.to_text()
        assert f"http://127.0.0.1:{proxy} from extra 'proxy'" in got(with_proxy, "proxy")
        assert all(head.startswith(b"CONNECT api.invalid:443 HTTP/1.") for head in heads)
        assert not_ok(without_proxy) == {"name_resolution": "failed"}
        assert "proxy" in remedy(without_proxy, "name_resolution")

    @pytest.mark.parametrize("status", [407, 403])
    def test_a_proxy_that_refuses(self, status: int) -> None:
        with vendor(lambda request, reply: Reply(status)) as (port, requests):
            report = examine("https://api.invalid", proxy=f"http://user:proxy-pass@127.0.0.1:{port}")
        assert not_ok(report) == {"proxy": "failed"}
        assert f"HTTP {status}" in got(report, "proxy")
        assert ("password" in remedy(report, "proxy")) is (status == 407)
        assert [request.method for request in requests] == ["CONNECT"]

    def test_a_proxy_for_plain_http_that_wants_a_password(self) -> None:
        with vendor(lambda request, reply: Reply(407)) as (port, _):
            report = examine("http://api.invalid", allow_http=True, proxy=url(port))
        assert not_ok(report) == {"tls": "differs", "http": "failed"}
        assert "password" in remedy(report, "http")

    def test_a_proxy_of_the_environment_that_speaks_tls(
        self, authority: trustme.CA, bundle: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (
            vendor(context=context_of(authority.issue_cert("api.invalid"))) as (port, _),
            connect_proxy(port, context=context_of(authority.issue_cert("localhost"))) as (proxy, _),
        ):
            monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{proxy}")
            report = examine("https://api.invalid", ca_bundle=bundle)
        assert not_ok(report) == {}
        assert "not checked by itself" in got(report, "tls")
        assert "from the environment (HTTPS_PROXY)" in got(report, "proxy")
