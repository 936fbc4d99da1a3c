"""The asyncio client: what failures of aiohttp mean, what it counts, and what it keeps between two calls."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp.client_reqrep import ConnectionKey

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient, _failure, _tls_context
from airflow_provider_rtisms.api.auth import TokenCache
from airflow_provider_rtisms.api.calls import MAX_RESPONSE_BYTES, HttpRequest
from airflow_provider_rtisms.api.retrying import Stats
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import TOKEN, Exchange, HostileServer, details, grant, message, raw, response, until
from tests.patience import PATIENCE
from tests.unit.conftest import Serve

KEY = ConnectionKey("api.invalid", 443, True, True, None, None, None)
REFUSED = OSError(111, "Connection refused")
BALANCE = {"balance": "1"}

pytestmark = pytest.mark.usefixtures("quick_retries")


def _certificate_error() -> Exception:
    return aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError(1, "self-signed"))


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (_certificate_error(), errors.RtiSmsCertificateError, "the certificate is not trusted"),
        (
            aiohttp.ClientHttpProxyError(None, (), status=407, message="pr0xy-password"),  # type: ignore[arg-type]
            errors.RtiSmsConnectError,
            "the proxy refused the connection with HTTP 407",
        ),
        (aiohttp.ClientConnectorError(KEY, REFUSED), errors.RtiSmsConnectError, "no connection could be made"),
        (aiohttp.ConnectionTimeoutError(), errors.RtiSmsConnectError, "no connection could be made"),
        (TimeoutError(), errors.RtiSmsTimeoutError, "no complete response within 2.5 s"),
        (aiohttp.ServerTimeoutError(), errors.RtiSmsTimeoutError, "no complete response within 2.5 s"),
        (
            aiohttp.ClientResponseError(None, (), message="s3cret"),  # type: ignore[arg-type]
            errors.RtiSmsConnectionLostError,
            "the response is not HTTP (ClientResponseError)",
        ),
        (
            aiohttp.ClientOSError(104, "Connection reset by peer"),
            errors.RtiSmsConnectionLostError,
            "the connection broke (ClientOSError: Connection reset by peer)",
        ),
        (
            aiohttp.ClientPayloadError("s3cret"),
            errors.RtiSmsConnectionLostError,
            "the connection broke (ClientPayloadError)",
        ),
    ],
)
def test_each_failure_of_aiohttp_means_one_of_ours(error: Exception, kind: type[Exception], what: str) -> None:
    meaning = _failure(error, 2.5)
    assert (meaning.kind, meaning.what) == (kind, what)
    assert "s3cret" not in meaning.detail
    assert "pr0xy-password" not in meaning.detail


def test_a_failure_to_connect_has_the_words_of_the_library_as_its_detail() -> None:
    assert "Connection refused" in _failure(aiohttp.ClientConnectorError(KEY, REFUSED), 1).detail
    assert "self-signed" in _failure(_certificate_error(), 1).detail


def settings_for(server: HostileServer, **others: Any) -> ApiSettings:
    values = {"base_url": server.url, "client_id": "me", "client_secret": Secret("s3cret"), "max_attempts": 3}
    return ApiSettings(**values | others)


def ask(server: HostileServer, *calls: Callable[[AsyncRtiSmsClient], Awaitable[Any]], **settings: Any) -> Any:
    """Do calls at once; return their results, and the client."""

    async def main() -> Any:
        async with AsyncRtiSmsClient(settings_for(server, **settings)) as client:
            return [*await asyncio.gather(*(call(client) for call in calls)), client]

    return asyncio.run(main())


def get_balance(client: AsyncRtiSmsClient) -> Awaitable[Decimal]:
    return client.get_balance()


CALLS: dict[str, tuple[Callable[[AsyncRtiSmsClient], Awaitable[Any]], Any, str, Any]] = {
    "get_sms": (lambda client: client.get_sms(7), None, "GET /api/sms/7", "7"),
    "get_balance": (get_balance, {"balance": "4.5"}, "GET /api/balance", Decimal("4.5")),
    "send_sms": (
        lambda client: client.send_sms(recipients="+56912345678", text="hola", sender="96000"),
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
    call, content, target, expected = CALLS[name]
    server = serve(details() if content is None else response(content))
    result, _ = ask(server, call)
    result = result[0] if isinstance(result, list) else result
    assert getattr(result, "submission_id", result) == expected
    assert [f"{one.method} {one.target}" for one in server.calls] == [target]


class TestStats:
    def test_they_begin_with_zero(self, serve: Serve) -> None:
        stats = AsyncRtiSmsClient(settings_for(serve())).stats
        assert (stats.requests, stats.tokens, stats.retries, stats.throttled) == (0, 0, 0, 0)

    def test_requests_tokens_and_retries_are_counted(self, serve: Serve) -> None:
        server = serve(response(status=503), response(status=503), response(BALANCE))
        _, client = ask(server, get_balance)
        assert client.stats == Stats(requests=4, tokens=1, retries=2, throttled=0)

    def test_after_a_success_a_429_is_counted_and_is_no_failed_attempt(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_provider_rtisms.api.limiter.MIN_PAUSE", 0.001)
        server = serve(response(BALANCE), response(status=429), response(BALANCE))

        async def twice(client: AsyncRtiSmsClient) -> Decimal:
            await client.get_balance()
            return await client.get_balance()

        _, client = ask(server, twice, max_attempts=1)
        assert client.stats == Stats(requests=4, tokens=1, retries=1, throttled=1)


class TestState:
    def test_a_call_that_waits_for_its_turn_takes_no_token_that_may_expire_meanwhile(self, serve: Serve) -> None:
        server = serve(response(BALANCE), auth=[grant(validity_period="0")])
        ask(server, get_balance, get_balance, max_concurrency=1)
        assert [request.is_grant for request in server.requests] == [True, False, True, False]

    def test_calls_take_turns(self, serve: Serve) -> None:
        async def after_the_third(exchange: Exchange) -> None:
            await until(lambda: len(server.calls) >= 3)
            await exchange.write(message(BALANCE))

        server = serve(after_the_third)
        ask(server, *[get_balance] * 20, max_concurrency=3)
        assert server.connections_peak == 3

    def test_a_cache_of_tokens_may_be_shared_and_is_otherwise_its_own(self, serve: Serve) -> None:
        server, tokens, masked = serve(response(BALANCE)), TokenCache(), []

        async def mask(secret: str) -> None:
            await asyncio.sleep(0)
            masked.append(secret)

        async def main() -> None:
            for shared, on_secret in ((tokens, mask), (tokens, None), (None, masked.append), (None, None)):
                async with AsyncRtiSmsClient(settings_for(server), shared, on_secret) as client:
                    await client.get_balance()

        asyncio.run(main())
        assert len(server.grants) == 3
        assert masked == [TOKEN, TOKEN]

    def test_opening_it_again_keeps_its_connections_and_closing_it_again_is_no_error(self, serve: Serve) -> None:
        server = serve(response(BALANCE))

        async def main() -> None:
            client = AsyncRtiSmsClient(settings_for(server))
            for _ in range(3):
                await client.open()
                await client.get_balance()
            assert server.connections == 1
            await client.close()
            await client.close()
            async with client:
                await client.get_balance()
            with pytest.raises(RuntimeError, match="is not open: use it in 'async with'"):
                await client.get_balance()

        asyncio.run(main())

    def test_a_send_has_a_connection_of_its_own_and_others_share_one(self, serve: Serve) -> None:
        server = serve(response(BALANCE))

        async def main() -> None:
            async with AsyncRtiSmsClient(settings_for(server)) as client:
                for on_new_connection in (False, True, False, True):
                    await client.send(HttpRequest("GET", "/api/x", {}, on_new_connection=on_new_connection))

        asyncio.run(main())
        assert server.connections == 3

    def test_sends_are_under_way_together(self, serve: Serve) -> None:
        async def together(exchange: Exchange) -> None:
            await until(lambda: exchange.server.connections == 4)  # one was for the token
            await exchange.write(message({"submissions": [{"status": "submitted", "submissionId": "42"}]}))

        results = ask(serve(together), *[CALLS["send_sms"][0]] * 3, timeout=PATIENCE)
        assert [one.submission_id for (one,) in results[:3]] == ["42"] * 3

    def test_the_certificate_of_a_proxy_is_verified_for_plain_http_too(self, serve: Serve) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        proxy = serve(response(BALANCE), tls=context)
        with pytest.raises(errors.RtiSmsCertificateError):
            ask(proxy, get_balance, base_url="http://api.invalid", proxy=proxy.url, allow_http=True)
        assert proxy.requests == []

    def test_no_timeout_is_rounded_up_to_a_whole_second(self, serve: Serve) -> None:
        """aiohttp does that to save timers."""
        timeout = AsyncRtiSmsClient(settings_for(serve(), timeout=7.3))._timeout
        assert timeout.total == 7.3
        assert timeout.ceil_threshold > 7.3

    def test_netrc_adds_no_credentials(self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        server = serve(response(BALANCE))
        ask(server, get_balance)
        assert [request.header("Authorization") for request in server.requests] == [None, f"Bearer {TOKEN}"]


class TestBody:
    @pytest.mark.parametrize(("size", "is_read"), [(MAX_RESPONSE_BYTES, True), (MAX_RESPONSE_BYTES + 1, False)])
    def test_it_is_read_up_to_the_limit(self, serve: Serve, size: int, is_read: bool) -> None:
        server = serve(response(b'{"balance": "1"}'.ljust(size)))
        if is_read:
            assert ask(server, get_balance)[0] == 1
        else:
            with pytest.raises(errors.RtiSmsResponseTooLargeError, match="HTTP 200 with more than 1048576 bytes"):
                ask(server, get_balance)

    def test_a_compressed_one_is_not_unpacked(self, serve: Serve) -> None:
        packed = gzip.compress(b'{"balance": "1"}'.ljust(2 * MAX_RESPONSE_BYTES))
        with pytest.raises(errors.RtiSmsInvalidResponseError):
            ask(serve(response(packed, headers=[("Content-Encoding", "gzip")])), get_balance)

    def test_a_request_is_never_repeated_by_aiohttp_itself(self, serve: Serve) -> None:
        server = serve(response(BALANCE), raw(b"", then="close"), response(BALANCE))

        async def main() -> None:
            async with AsyncRtiSmsClient(settings_for(server, max_attempts=1)) as client:
                await client.get_balance()
                with pytest.raises(errors.RtiSmsConnectionLostError):
                    await client.get_balance()

        asyncio.run(main())
        assert len(server.calls) == 2

    def test_a_redirect_is_not_followed(self, serve: Serve) -> None:
        server = serve(raw(message(b"", 302, [("Location", "/api/elsewhere")])))
        with pytest.raises(errors.RtiSmsRedirectError):
            ask(server, get_balance)
        assert len(server.calls) == 1


@pytest.mark.parametrize("is_folder", [True, False])
def test_certificates_come_from_a_file_or_from_a_folder(tmp_path: Path, is_folder: bool) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    bundle = str(tmp_path if is_folder else tmp_path / "ca.pem")
    context = _tls_context(ApiSettings(client_id="me", client_secret=Secret("s3cret"), ca_bundle=bundle))
    assert len(context.get_ca_certs()) == (0 if is_folder else 1)  # those of a folder are read when they are needed
    assert context.verify_mode is ssl.CERT_REQUIRED
