"""The blocking client: what failures of requests mean, and what a client keeps between two calls."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from http.client import BadStatusLine, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3.exceptions as u

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.auth import TokenCache
from airflow_provider_rtisms.api.calls import MAX_RESPONSE_BYTES, HttpRequest
from airflow_provider_rtisms.api.client import RtiSmsClient, new_session, transport_error
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import TOKEN, Exchange, HostileServer, details, hang, message, response
from tests.unit.conftest import Serve

POOL: Any = "pool"
RESET = ConnectionResetError(104, "Connection reset by peer")
UNTRUSTED = ssl.SSLError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
HANDSHAKE = ssl.SSLError(1, "[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] handshake failure")


def retried(reason: Exception | None) -> u.MaxRetryError:
    return u.MaxRetryError(POOL, "/api/balance", reason)


def aborted(*reason: object) -> requests.ConnectionError:
    return requests.ConnectionError(u.ProtocolError(*reason))


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (
            requests.exceptions.SSLError(retried(u.SSLError(UNTRUSTED))),
            errors.RtiSmsCertificateError,
            "the certificate is not trusted",
        ),
        (
            requests.exceptions.SSLError(retried(u.SSLError(HANDSHAKE))),
            errors.RtiSmsConnectionLostError,
            "the connection broke (SSLError)",
        ),
        (
            aborted("CERTIFICATE_VERIFY_FAILED", BadStatusLine("CERTIFICATE_VERIFY_FAILED")),
            errors.RtiSmsConnectionLostError,
            "the connection broke (BadStatusLine)",
        ),
        (
            requests.ConnectTimeout(retried(u.ConnectTimeoutError(POOL, "timed out"))),
            errors.RtiSmsConnectError,
            "no connection could be made",
        ),
        (
            requests.ConnectionError(retried(u.NewConnectionError(POOL, "Connection refused"))),
            errors.RtiSmsConnectError,
            "no connection could be made",
        ),
        (
            requests.exceptions.ProxyError(retried(u.ProxyError("Unable to connect to proxy", OSError("407")))),
            errors.RtiSmsConnectError,
            "no connection could be made",
        ),
        (requests.ReadTimeout(u.ReadTimeoutError(POOL, "/", "timed out")), errors.RtiSmsTimeoutError, None),
        (u.ReadTimeoutError(POOL, "/", "timed out"), errors.RtiSmsTimeoutError, None),
        (
            aborted("Connection aborted.", RESET),
            errors.RtiSmsConnectionLostError,
            "the connection broke (ConnectionResetError: Connection reset by peer)",
        ),
        (
            aborted("Connection aborted.", RemoteDisconnected("Remote end closed connection")),
            errors.RtiSmsConnectionLostError,
            "the connection broke (RemoteDisconnected)",
        ),
        (u.ProtocolError("cut off"), errors.RtiSmsConnectionLostError, "the connection broke (ProtocolError)"),
        (aborted(), errors.RtiSmsConnectionLostError, "the connection broke (ProtocolError)"),
        (u.DecodeError("gzip", RESET), errors.RtiSmsConnectionLostError, "the connection broke (DecodeError)"),
        (requests.ConnectionError(), errors.RtiSmsConnectionLostError, "the connection broke (ConnectionError)"),
        (
            requests.ConnectionError(retried(None)),
            errors.RtiSmsConnectionLostError,
            "the connection broke (MaxRetryError)",
        ),
    ],
)
def test_each_failure_of_requests_means_one_of_ours(error: Exception, kind: type[Exception], what: str | None) -> None:
    meaning = transport_error(error, 2.5)
    assert (meaning.kind, meaning.what) == (kind, what or "no complete response within 2.5 s")


def test_a_failure_to_connect_has_the_words_of_the_library_as_its_detail() -> None:
    refused = u.NewConnectionError(POOL, "Connection refused")
    assert transport_error(requests.ConnectionError(retried(refused)), 1).detail == str(refused)
    untrusted = requests.exceptions.SSLError(retried(u.SSLError(UNTRUSTED)))
    assert "certificate verify failed" in transport_error(untrusted, 1).detail


def settings_for(server: HostileServer | None = None, **others: Any) -> ApiSettings:
    values = {"client_id": "me", "client_secret": Secret("s3cret"), "max_attempts": 1, **others}
    return ApiSettings(base_url=server.url if server else "https://api.invalid", **values)


class TestSession:
    def test_it_trusts_nothing_but_the_settings(self) -> None:
        session = new_session(settings_for(proxy="http://proxy.invalid:3128"))
        found = session.merge_environment_settings("https://api.invalid/api/balance", {}, True, None, None)
        assert session.trust_env is False
        assert requests.utils.select_proxy("https://api.invalid/", found["proxies"]) == "http://proxy.invalid:3128"
        assert requests.utils.select_proxy("http://api.invalid/", found["proxies"]) == "http://proxy.invalid:3128"
        assert new_session(settings_for()).proxies == {}

    def test_certificates_are_verified_with_those_of_the_settings(self, tmp_path: Any) -> None:
        assert new_session(settings_for()).verify == settings_for().trusted_certificates()
        plain = ApiSettings(client_id="me", client_secret=Secret("s3cret"), base_url="http://localhost:1")
        assert new_session(plain).verify is True


CALLS: dict[str, tuple[Callable[[RtiSmsClient], Any], Any, str, Any]] = {
    "get_sms": (lambda client: client.get_sms(7).submission_id, None, "GET /api/sms/7", "7"),
    "get_balance": (lambda client: client.get_balance(), {"balance": "4.5"}, "GET /api/balance", Decimal("4.5")),
    "send_sms": (
        lambda client: client.send_sms(recipients="+56912345678", text="hola", sender="96000")[0].submission_id,
        {"submissions": [{"status": "submitted", "submissionId": "42"}]},
        "POST /api/sms",
        "42",
    ),
    "request": (
        lambda client: client.request("GET", "/api/new", params={"a": "b"}),
        {"c": 1},
        "GET /api/new?a=b",
        {"c": 1},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_sends_its_request_and_returns_its_result(serve: Serve, name: str) -> None:
    call, content, target, result = CALLS[name]
    server = serve(details() if content is None else response(content))
    with RtiSmsClient(settings_for(server)) as client:
        assert call(client) == result
    assert [f"{one.method} {one.target}" for one in server.calls] == [target]


class TestState:
    def test_a_cache_of_tokens_may_be_shared_and_is_otherwise_its_own(self, serve: Serve) -> None:
        server, tokens, masked = serve(response({"balance": "1"})), TokenCache(), []
        with (
            RtiSmsClient(settings_for(server), tokens, masked.append) as first,
            RtiSmsClient(settings_for(server), tokens) as second,
        ):
            assert first.get_balance() == second.get_balance() == 1
        assert len(server.grants) == 1
        assert masked == ["header.payload$signature"]
        with RtiSmsClient(settings_for(server)) as third:
            third.get_balance()
        assert len(server.grants) == 2

    def test_leaving_it_closes_its_connections(self, serve: Serve) -> None:
        server = serve(response({"balance": "1"}))
        with RtiSmsClient(settings_for(server)) as client:
            client.get_balance()
            pool = client._session.adapters[server.url].poolmanager.pools
            assert len(pool) == 1
        assert len(pool) == 0

    def test_a_send_has_a_connection_of_its_own_and_others_share_one(self, serve: Serve) -> None:
        server = serve(response({"balance": "1"}))
        with RtiSmsClient(settings_for(server)) as client:
            for on_new_connection in (False, True, False, True):
                client.send(HttpRequest("GET", "/api/x", {}, on_new_connection=on_new_connection))
        assert server.connections == 3

    def test_as_many_connections_are_kept_as_threads_may_work(self, serve: Serve) -> None:
        client = RtiSmsClient(settings_for(serve(), max_concurrency=7, timeout=30))
        adapter = client._session.get_adapter(client.settings.base_url)
        assert adapter._pool_maxsize == 7
        client.close()

    def test_threads_take_turns(self, serve: Serve) -> None:
        async def slow(exchange: Exchange) -> None:
            await asyncio.sleep(0.01)
            await exchange.write(message({"balance": "1"}))

        server = serve(slow)
        with RtiSmsClient(settings_for(server, max_concurrency=3)) as client, ThreadPoolExecutor(20) as threads:
            assert set(threads.map(lambda _: client.get_balance(), range(60))) == {1}
        assert server.connections_peak <= 3

    def test_netrc_adds_no_credentials(self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        server = serve(response({"balance": "1"}))
        with RtiSmsClient(settings_for(server)) as client:
            client.get_balance()
        assert [request.header("Authorization") for request in server.requests] == [None, f"Bearer {TOKEN}"]


class TestBody:
    @pytest.mark.parametrize(("size", "is_read"), [(MAX_RESPONSE_BYTES, True), (MAX_RESPONSE_BYTES + 1, False)])
    def test_it_is_read_up_to_the_limit(self, serve: Serve, size: int, is_read: bool) -> None:
        body = b'{"balance": "1"}'.ljust(size)
        with RtiSmsClient(settings_for(serve(response(body)))) as client:
            if is_read:
                assert client.get_balance() == 1
            else:
                with pytest.raises(errors.RtiSmsResponseTooLargeError, match="HTTP 200 with more than 1048576 bytes"):
                    client.get_balance()

    def test_a_compressed_one_is_not_unpacked(self, serve: Serve) -> None:
        import gzip

        packed = gzip.compress(b'{"balance": "1"}'.ljust(2 * MAX_RESPONSE_BYTES))
        with (
            RtiSmsClient(settings_for(serve(response(packed, headers=[("Content-Encoding", "gzip")])))) as client,
            pytest.raises(errors.RtiSmsInvalidResponseError),
        ):
            client.get_balance()

    def test_a_response_that_does_not_come_ends_with_the_timeout(self, serve: Serve) -> None:
        with (
            RtiSmsClient(settings_for(serve(hang), timeout=0.2)) as client,
            pytest.raises(errors.RtiSmsTimeoutError, match=r"no complete response within 0\.2 s"),
        ):
            client.get_balance()
