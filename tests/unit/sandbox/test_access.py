"""Which clients can make control calls: no web page in a browser can (CSRF, DNS rebinding)."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests

from airflow_provider_rtisms.sandbox import Sandbox, SandboxClient
from airflow_provider_rtisms.sandbox.control import why_refused
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from tests.unit.sandbox.conftest import Api

CALLS = [("GET", "state"), ("GET", "settings"), ("POST", "balance"), ("POST", "reset"), ("POST", "nothing")]
ORIGINS = [
    *("http://evil.example", "null", "http://127.0.0.1:9", "http://localhost", "https://{host}"),
    "http://{host}.example",
]
HOSTS = [
    *("evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example:{port}", ""),
    *("192.0.2.1:{port}", "[2001:db8::1]:{port}", "evil.example:{port}@127.0.0.1", "[127.0.0.1"),
]


def call(url: str, headers: dict[str, str], method: str = "POST", name: str = "balance") -> requests.Response:
    body = json.dumps({"balance": "1.00"}) if name == "balance" else ""
    return requests.request(method, f"{url}/sandbox/{name}", data=body, headers=headers, timeout=PATIENCE)


@pytest.mark.parametrize(("method", "name"), CALLS)
@pytest.mark.parametrize(
    ("header", "value"), [*(("Origin", value) for value in ORIGINS), *(("Host", value) for value in HOSTS)]
)
def test_another_site_is_403(api: Api, header: str, value: str, method: str, name: str) -> None:
    address = urlsplit(api.sandbox.url)
    headers = {header: value.format(host=address.netloc, port=address.port), "Content-Type": "text/plain"}
    response = call(api.sandbox.url, headers, method, name)
    assert (response.status_code, header in response.text) == (403, True)
    assert api.sandbox.state().balance == "457.00"


def test_the_host_is_mandatory(api: Api) -> None:
    with api.connect() as connection:
        connection.sendall(b"GET /sandbox/state HTTP/1.0\r\n\r\n")
        assert b" 403 " in connection.recv(65536)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:{port}", "127.0.0.1", "127.0.0.2:1", "[::1]:{port}", "[0:0:0:0:0:0:0:1]"]
)
def test_loopback_can_control(api: Api, host: str) -> None:
    host = host.format(port=urlsplit(api.sandbox.url).port)
    assert call(api.sandbox.url, {"Host": host}).status_code == 200
    assert call(api.sandbox.url, {"Host": host, "Origin": f"http://{host}"}).status_code == 200
    assert api.sandbox.state().balance == "1.00"


@pytest.mark.parametrize("host", ["sandbox.internal", "Sandbox.Internal:8099", "[2001:db8::1]:8099"])
def test_own_names_and_addresses_can_control(host: str) -> None:
    own_hosts = ["sandbox.INTERNAL", "2001:db8::1"]
    assert why_refused({"Host": host, "Origin": f"http://{host}"}, own_hosts) is None
    assert why_refused({"Host": f"evil.{host}"}, own_hosts) is not None


def test_the_address_that_the_sandbox_is_bound_to_or_reached_at_can_control() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but selects the address of this machine in its network
        except OSError:
            pytest.skip("this machine has no address besides loopback")
        address = probe.getsockname()[0]
    with Sandbox(host="0.0.0.0") as sandbox:  # noqa: S104  # on purpose
        port = urlsplit(sandbox.url).port
        assert sandbox.url == f"http://0.0.0.0:{port}"
        sandbox.set_balance("1.00")
        SandboxClient(f"http://{address}:{port}").set_balance("1.00")
        assert call(f"http://127.0.0.1:{port}", {"Host": address}).status_code == 403
        assert call(sandbox.url, {"Host": "evil.example"}).status_code == 403


def test_api_calls_take_any_host(api: Api) -> None:
    headers = {**api.headers, "Host": "sms.example", "Origin": "http://evil.example"}
    assert api.request("GET", "balance", headers=headers).status_code == 200
