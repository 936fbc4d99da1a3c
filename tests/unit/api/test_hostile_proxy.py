"""A proxy that refuses, echoes and lies: its password stands nowhere."""

from __future__ import annotations

import base64
import traceback
from typing import Any

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsConnectError, RtiSmsError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import Step, raw, response
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

PASSWORD = "pr0xy+pass/word"
QUOTED = "pr0xy%2Bpass%2Fword"
BASIC = base64.b64encode(f"someone:{PASSWORD}".encode()).decode()

pytestmark = pytest.mark.usefixtures("quick_retries", "everything_is_logged")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def assert_redacted(text: str) -> None:
    for secret in (PASSWORD, QUOTED, BASIC, "pr0xy"):
        assert secret not in text


ECHO = f"someone:{PASSWORD} {QUOTED} {BASIC}".encode()
REFUSALS = [
    pytest.param(response(b"no", 503), id="503"),
    pytest.param(response(ECHO, 407, [("Proxy-Authenticate", f'Basic realm="{PASSWORD}"')]), id="407"),
    pytest.param(raw(b"HTTP/1.1 403 " + ECHO + b"\r\n\r\n", then="close"), id="reason"),
    pytest.param(raw(ECHO + b"\r\n\r\n", then="close"), id="no HTTP"),
    pytest.param(raw(b"HTTP/1.1 200 OK\r\n\r\n" + ECHO, then="close"), id="no TLS"),
    pytest.param(raw(b"", then="close"), id="closed"),
]


@pytest.mark.parametrize("step", REFUSALS)
@pytest.mark.parametrize("source", ["extra", "https_proxy", "ALL_PROXY"])
def test_a_refused_tunnel_shows_no_password(
    transport: Transport,
    serve: Serve,
    step: Step,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    proxy = serve(step)
    url = proxy.url.replace("http://", f"http://someone:{QUOTED}@")
    fields: dict[str, Any] = {"base_url": "https://api.example"}
    if source == "extra":
        fields["proxy"] = url
    else:
        monkeypatch.setenv(source, url)
    with pytest.raises(RtiSmsError) as caught:
        transport.perform(proxy, endpoints.get_balance(), max_attempts=2, **fields)
    assert proxy.calls[0].method == "CONNECT"
    assert proxy.calls[0].header("Proxy-Authorization") == f"Basic {BASIC}"
    assert_redacted("".join(traceback.format_exception(caught.value)))
    assert_redacted(repr(vars(caught.value)) + repr(caught.value) + caplog.text)


@pytest.mark.parametrize("status", [503, 407])
def test_a_refused_tunnel_sends_nothing(transport: Transport, serve: Serve, status: int) -> None:
    proxy = serve(response(b"", status))
    with pytest.raises(RtiSmsConnectError) as caught:
        transport.perform(proxy, endpoints.get_balance(), base_url="https://api.example", proxy=proxy.url)
    assert not caught.value.may_have_acted


@pytest.mark.parametrize("status", [200, 403, 407, 502])
def test_a_plain_proxy_that_echoes_its_credentials(
    transport: Transport, serve: Serve, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = serve(response(ECHO, status))
    url = proxy.url.replace("http://", f"http://someone:{QUOTED}@")
    with pytest.raises(RtiSmsError) as caught:
        transport.perform(
            proxy, endpoints.get_sms("1"), base_url="http://api.example", allow_http=True, proxy=url, max_attempts=2
        )
    assert_redacted("".join(traceback.format_exception(caught.value)) + caplog.text)


@pytest.mark.parametrize(
    "value",
    [
        "http://someone:pr0xy/word@proxy.example:3128",
        "http://someone:12/pr0xy@proxy.example:3128",
        "http://someone:12#pr0xy@proxy.example",
        "http://someone:12?pr0xy@proxy.example",
        "http://someone:pr0xy@[::1",
        "http://someone:pr0xy@proxy.example:pr0xy",
        "http://someone:pr0xy@a..b:1",
        "http://someone:pr0xy word@proxy.example",
        "socks5://someone:pr0xy@proxy.example",
    ],
)
@pytest.mark.parametrize("source", ["extra", "https_proxy"])
def test_a_malformed_proxy_is_refused_and_not_shown(value: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {}
    if source == "extra":
        fields["proxy"] = value
    else:
        monkeypatch.setenv(source, value)
    with pytest.raises(RtiSmsConfigError, match="proxy") as caught:
        ApiSettings(client_id="me", client_secret=Secret("s3cret"), **fields)
    assert "pr0xy" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "host",
    [
        *("https://client:s3cr3t/part@api.example", "https://client:12/s3cr3t@api.example"),
        *("https://client:s3cr3t@api.example", "https://client:s3cr3t\\part@api.example"),
        *("https://client:12?s3cr3t@api.example", "https://client:12#s3cr3t@api.example", "https://s3cr3t..b"),
        *("https://[s3cr3t", "https://api.example:s3cr3t", "https://api.example:0", "https://a s3cr3t"),
        "s3cr3t://api.example",
    ],
)
def test_a_malformed_host_is_refused_and_not_shown(host: str) -> None:
    with pytest.raises(RtiSmsConfigError, match="Host") as caught:
        ApiSettings(client_id="me", client_secret=Secret("x" * 9), base_url=host)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value, limit=0))
