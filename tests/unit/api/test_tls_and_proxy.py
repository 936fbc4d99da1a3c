"""Certificates and proxies, on both transports, over real sockets; a proxy's password stands nowhere."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import traceback
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.errors import (
    RtiSmsCertificateError,
    RtiSmsConnectError,
    RtiSmsError,
    RtiSmsTimeoutError,
)
from airflow_provider_rtisms.sandbox import Sandbox
from tests.hostile import HostileServer, Step, raw, response
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

BALANCE = endpoints.get_balance()
SPENT = response({"balance": "457.00"})

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
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


class TestTls:
    @pytest.mark.parametrize("source", ["ca_bundle", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
    def test_a_bundle_of_the_connection_or_of_the_environment_is_trusted(
        self, transport: Transport, serve_tls: Serve, bundle: str, source: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fields = {source: bundle} if source == "ca_bundle" else {}
        if not fields:
            monkeypatch.setenv(source, bundle)
        assert transport.perform(serve_tls("127.0.0.1"), BALANCE, **fields) == Decimal("457.00")

    @pytest.mark.parametrize(("name", "is_trusted"), [("127.0.0.1", False), ("other.example", True)])
    def test_an_unknown_authority_or_another_host_is_refused_at_once(
        self, transport: Transport, serve_tls: Serve, bundle: str, name: str, is_trusted: bool
    ) -> None:
        server = serve_tls(name)
        with pytest.raises(RtiSmsCertificateError, match=r"not trusted: .*ca_bundle") as caught:
            transport.perform(server, BALANCE, ca_bundle=bundle if is_trusted else None)
        assert not caught.value.may_have_acted
        assert server.requests == []

    @pytest.mark.parametrize(("name", "is_trusted"), [("127.0.0.1", True), ("127.0.0.1", False), ("a.example", True)])
    def test_the_certificate_of_a_proxy_is_verified_for_plain_http_too(
        self, transport: Transport, serve_tls: Serve, bundle: str, name: str, is_trusted: bool
    ) -> None:
        proxy = serve_tls(name)
        fields = {"base_url": "http://api.invalid", "proxy": proxy.url, "allow_http": True}
        fields |= {"ca_bundle": bundle} if is_trusted else {}
        if is_trusted and name == "127.0.0.1":
            assert transport.perform(proxy, BALANCE, **fields) == Decimal("457.00")
        else:
            for base_url in ("http://api.invalid", "https://api.invalid"):
                what = r"the certificate of the proxy 127\.0\.0\.1 is not trusted"
                with pytest.raises(RtiSmsCertificateError, match=what):
                    transport.perform(proxy, BALANCE, **{**fields, "base_url": base_url})
            assert proxy.requests == []

    def test_a_handshake_that_hangs_ends_with_the_timeout(self, transport: Transport, serve: Serve) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            there = f"https://127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises((RtiSmsTimeoutError, RtiSmsConnectError)):
                transport.perform(serve(), BALANCE, base_url=there, timeout=0.5, max_attempts=1)


def test_a_closed_port_is_a_request_that_never_left(transport: Transport, serve: Serve) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        there = f"http://127.0.0.1:{taken.getsockname()[1]}"
    what = r"nothing listens on this port.* Gave up after 2 attempts"
    with pytest.raises(RtiSmsConnectError, match=what) as caught:
        transport.perform(serve(), BALANCE, base_url=there, max_attempts=2)
    assert not caught.value.may_have_acted


@pytest.mark.parametrize("source", ["proxy", "http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_of_the_connection_or_else_of_the_environment_carries_plain_http(
    transport: Transport, serve: Serve, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(SPENT)
    fields = {"proxy": proxy.url} if source == "proxy" else {}
    monkeypatch.setenv("http_proxy" if fields else source, "http://127.0.0.1:9" if fields else proxy.url)
    found = transport.perform(proxy, BALANCE, base_url="http://api.example", allow_http=True, **fields)
    assert found == Decimal("457.00")
    assert [one.target for one in proxy.requests] == ["http://api.example/api/auth", "http://api.example/api/balance"]


def test_no_proxy_of_the_environment(transport: Transport, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert transport.perform(serve(SPENT), BALANCE) == Decimal("457.00")
    assert proxy.requests == []


@pytest.mark.parametrize(
    ("base_url", "proxy", "said"),
    [
        (
            "https://no-such-host.invalid",
            None,
            r"the name of no-such-host\.invalid cannot be resolved \(DNS\)\. {host}",
        ),
        ("https://127.0.0.1:{closed}", None, r"no connection to 127\.0\.0\.1 port \d+: nothing listens on .* {host}"),
        ("https://localhost:{closed}", None, r"no connection to localhost port \d+: nothing listens on .* {host}"),
        ("https://127.0.0.1:{http}", None, r"no connection to 127\.0\.0\.1 port \d+: TLS failed: maybe .* {host}"),
        ("https://127.0.0.1:{silent}", None, r"no connection to 127\.0\.0\.1 port \d+: none within 0\.5 s.* {host}"),
        (
            "https://127.0.0.1:{tls}",
            None,
            r"the certificate of 127\.0\.0\.1 is not trusted: its authority .* {host} If",
        ),
        ("https://127.0.0.1:{tls}", "known", r"the certificate of 127\.0\.0\.1 is not trusted: it is for .* {host} If"),
        ("https://api.example", "http://localhost:{closed}", r"no connection to the proxy localhost port .* {proxy}"),
        (
            "https://api.example",
            "http://no.invalid:1",
            r"the name of the proxy no\.invalid cannot be resolved .*{proxy}",
        ),
        (
            "https://api.example",
            "http://me:s3cret@127.0.0.1:{plain}",
            r"the proxy refused the connection with HTTP 407",
        ),
    ],
)
def test_a_wrong_host_is_told_in_our_words(
    transport: Transport,
    serve: Serve,
    serve_tls: Serve,
    rtisms_sandbox: Sandbox,
    bundle: str,
    base_url: str,
    proxy: str | None,
    said: str,
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        ports = {"closed": taken.getsockname()[1]}
    refusing = serve(response("s3cret", status=407))
    urls = {"plain": refusing.url, "tls": serve_tls("other.example").url, "http": rtisms_sandbox.url}
    fields: dict[str, Any] = {"timeout": 0.5} if "silent" in base_url else {}
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        ports |= {name: urlsplit(url).port for name, url in urls.items()} | {"silent": silent.getsockname()[1]}
        fields |= {"ca_bundle": bundle} if proxy == "known" else {"proxy": proxy and proxy.format(**ports)}
        there = base_url.format(**ports)
        with pytest.raises((RtiSmsConnectError, RtiSmsCertificateError)) as caught:
            transport.perform(refusing, BALANCE, base_url=there, conn_id="sms_prod", max_attempts=1, **fields)
    host = r'Check "Base URL \(Host\)" of the Connection sms_prod\.'
    proxy_field = r"Check the field 'proxy' in the extra of the Connection sms_prod\."
    message = str(caught.value)
    assert re.search(said.replace("{host}", host).replace("{proxy}", proxy_field), message)
    assert not re.search(r"Connect(ion|or)[A-Z(]|object at|Errno|Error|_ssl|\('|s3cret", message)


PASSWORD = "pr0xy+pass/word"
QUOTED = "pr0xy%2Bpass%2Fword"
BASIC = base64.b64encode(f"someone:{PASSWORD}".encode()).decode()
ECHO = f"someone:{PASSWORD} {QUOTED} {BASIC}".encode()


def url_of(proxy: HostileServer) -> str:
    return proxy.url.replace("http://", f"http://someone:{QUOTED}@")


@pytest.mark.usefixtures("everything_is_logged")
class TestPassword:
    """A proxy refuses, echoes and lies."""

    @staticmethod
    def assert_redacted(error: RtiSmsError, logged: str) -> None:
        shown = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error) + logged
        assert [one for one in (PASSWORD, QUOTED, BASIC, "pr0xy") if one in shown] == []

    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(response(b"no", 503), id="503"),
            pytest.param(response(ECHO, 407, [("Proxy-Authenticate", f'Basic realm="{PASSWORD}"')]), id="407"),
            pytest.param(raw(b"HTTP/1.1 403 " + ECHO + b"\r\n\r\n", then="close"), id="reason"),
            pytest.param(raw(ECHO + b"\r\n\r\n", then="close"), id="no HTTP"),
            pytest.param(raw(b"HTTP/1.1 200 OK\r\n\r\n" + ECHO, then="close"), id="no TLS"),
            pytest.param(raw(b"", then="close"), id="closed"),
        ],
    )
    @pytest.mark.parametrize("source", ["extra", "https_proxy", "ALL_PROXY"])
    def test_of_a_refused_tunnel_is_not_shown(
        self,
        transport: Transport,
        serve: Serve,
        step: Step,
        source: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        proxy = serve(step)
        if source != "extra":
            monkeypatch.setenv(source, url_of(proxy))
        fields = {"proxy": url_of(proxy)} if source == "extra" else {}
        with pytest.raises(RtiSmsError) as caught:
            transport.perform(proxy, BALANCE, max_attempts=2, base_url="https://api.example", **fields)
        assert proxy.calls[0].method == "CONNECT"
        assert proxy.calls[0].header("Proxy-Authorization") == f"Basic {BASIC}"
        self.assert_redacted(caught.value, caplog.text)

    @pytest.mark.parametrize("status", [200, 403, 407, 502])
    def test_that_a_plain_proxy_echoes_is_not_shown(
        self, transport: Transport, serve: Serve, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy = serve(response(ECHO, status))
        there = {"base_url": "http://api.example", "allow_http": True, "proxy": url_of(proxy)}
        with pytest.raises(RtiSmsError) as caught:
            transport.perform(proxy, endpoints.get_sms("1"), max_attempts=2, **there)
        self.assert_redacted(caught.value, caplog.text)


@pytest.mark.parametrize("status", [503, 407])
def test_a_refused_tunnel_sends_nothing(transport: Transport, serve: Serve, status: int) -> None:
    proxy = serve(response(b"", status))
    with pytest.raises(RtiSmsConnectError, match=rf"HTTP {status}|no connection.*{status}") as caught:
        transport.perform(proxy, BALANCE, base_url="https://api.example", proxy=proxy.url)
    assert not caught.value.may_have_acted
