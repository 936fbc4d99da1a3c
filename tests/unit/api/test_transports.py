"""What goes over the wire, and what hostile responses come to, on both transports."""

from __future__ import annotations

import json
import time
import tracemalloc
from decimal import Decimal
from typing import ClassVar

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from tests.hostile import Step, drip, flood, grant, hang, head, message, raw, reset, response
from tests.patience import with_more_time
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

MIB = 1024 * 1024
SMS = endpoints.get_sms("4193366853543393")
BALANCE = {"balance": "457.00"}

pytestmark = pytest.mark.usefixtures("quick_retries")


class TestWhatGoesOut:
    @pytest.mark.parametrize("path", ["", "/", "/api", "/api/"])
    def test_base_url_may_name_the_api(self, transport: Transport, serve: Serve, path: str) -> None:
        server = serve(response(BALANCE))
        transport.perform(server, endpoints.get_balance(), base_url=f"{server.url}/a%20gateX{path}")
        assert [request.target for request in server.requests] == ["/a%20gateX/api/auth", "/a%20gateX/api/balance"]

    def test_cookies_are_not_kept(self, transport: Transport, serve: Serve) -> None:
        server = serve(response(BALANCE, headers=[("Set-Cookie", "session=tracked; Path=/")]))
        transport.perform_all(server, [endpoints.get_balance()] * 2)
        assert [request.header("Cookie") for request in server.calls] == [None, None]


class TestOddButFine:
    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(raw(b"HTTP/1.1 100 Continue\r\n\r\n" + message(BALANCE)), id="after 100"),
            pytest.param(raw(head() + b'{"balance": "457.00"}', then="close"), id="until the end of the connection"),
            pytest.param(
                raw(head(headers=[("Transfer-Encoding", "chunked")]) + b'15\r\n{"balance": "457.00"}\r\n0\r\n\r\n'),
                id="chunked",
            ),
            pytest.param(raw(message(b'\xef\xbb\xbf{"balance": "457.00"}')), id="BOM"),
            pytest.param(response(BALANCE, headers=[("Content-Type", "text/html")] * 3), id="repeated headers"),
            pytest.param(response({**BALANCE, "new": [None, {}]}), id="unknown fields"),
            pytest.param(drip(message(BALANCE), pause=0.001), id="a byte at a time"),
        ],
    )
    def test_is_read(self, transport: Transport, serve: Serve, step: Step) -> None:
        server = serve(step)
        assert transport.perform(server, endpoints.get_balance(), max_attempts=1) == Decimal("457.00")

    def test_a_connection_closed_between_requests_is_retried(self, transport: Transport, serve: Serve) -> None:
        server = serve(response(BALANCE, close=True))
        first, second = transport.perform_all(server, [endpoints.get_balance()] * 2, max_attempts=2)
        assert first == second == Decimal("457.00")


class TestBroken:
    LOST = errors.RtiSmsConnectionLostError
    INVALID = errors.RtiSmsInvalidResponseError
    CHUNKED = head(headers=[("Transfer-Encoding", "chunked")])
    STEPS: ClassVar[dict[str, tuple[Step, type[errors.RtiSmsError], str]]] = {
        "reset": (
            reset,
            LOST,
            r"broke \((ClientOSError|ConnectionResetError): Connection reset by peer\)",
        ),
        "closed": (raw(b"", then="close"), LOST, r"the connection broke \((Remote|Server)Disconnected\w*\)"),
        "cut in the headers": (raw(head()[:20], then="close"), errors.RtiSmsTransientError, "broke|HTTP|empty body"),
        "cut in the body": (raw(message(BALANCE, headers=[])[:-3], then="close"), LOST, "the connection broke"),
        "chunks without end": (raw(CHUNKED + b'15\r\n{"balance": "457.00"}\r\n', then="close"), LOST, "broke"),
        "chunks without length": (raw(CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n", then="close"), LOST, "broke|not HTTP"),
        "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", then="close"), LOST, r"(broke|not HTTP) \(\w+\)"),
        "long header": (raw(head(headers=[("Padding", "x" * 100_000)]), then="close"), LOST, "broke|not HTTP"),
        "HTML": (response(b"<html>Sign in to the Wi-Fi</html>"), INVALID, "<html>Sign in"),
        "empty": (response(b""), INVALID, "an empty body"),
        "cut-off JSON of the right length": (response(b'{"balance": "457'), INVALID, "cannot be read"),
        "no UTF-8": (response(b"\xff\xfe\x00"), INVALID, "cannot be read"),
        "NaN": (response(b'{"balance": NaN}'), INVALID, "cannot be read"),
        "infinite": (response(b'{"balance": 1e999}'), INVALID, "cannot be read"),
        "long number": (response(b'{"balance": ' + b"9" * 10_000 + b"}"), INVALID, "cannot be read"),
        "deep JSON": (response(b"[" * 100_000), INVALID, "cannot be read"),
        "a list": (response([]), INVALID, "'balance' is not a decimal string"),
        "a boolean": (response({"balance": True}), INVALID, "'balance' is not a decimal string"),
        "compressed": (response(b"\x1f\x8b\x08", headers=[("Content-Encoding", "gzip")]), INVALID, "is compressed"),
    }

    @pytest.mark.parametrize(("step", "kind", "what"), STEPS.values(), ids=STEPS)
    def test_is_retried_or_reported(
        self, transport: Transport, serve: Serve, step: Step, kind: type[errors.RtiSmsError], what: str
    ) -> None:
        assert transport.perform(serve(step, response(BALANCE)), endpoints.get_balance()) == Decimal("457.00")
        server = serve(step)
        with pytest.raises(kind, match=rf"^get_balance: .*({what}).* Gave up after 2 attempts"):
            transport.perform(server, endpoints.get_balance(), max_attempts=2)
        assert len(server.calls) == 2

    def test_a_connection_reset_before_anything_was_read_is_retried(self, transport: Transport, serve: Serve) -> None:
        server = serve(response(BALANCE), refuse_first=2)
        assert transport.perform(server, endpoints.get_balance()) == Decimal("457.00")


class TestSlow:
    """A timeout ends a call for which bytes keep coming. The server goes on for longer than any test waits."""

    LONG = json.dumps({**BALANCE, "padding": "x" * 10_000}).encode()

    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(hang, id="hangs"),
            pytest.param(drip(message(LONG)), id="drips from the status line on"),
            pytest.param(drip(message(LONG), whole=20), id="drips from the headers on"),
            pytest.param(drip(message(LONG), whole=len(head()) + 40), id="drips from the body on"),
            pytest.param(
                drip(head(headers=[("Transfer-Encoding", "chunked")]) + b"1\r\n \r\n" * 3000, whole=len(head()) + 40),
                id="drips chunks",
            ),
            pytest.param(drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 600, pause=0.2), id="drips 100 Continue"),
        ],
    )
    def test_ends_with_the_timeout(self, transport: Transport, serve: Serve, step: Step) -> None:
        server = serve(step)

        def attempt(timeout: float) -> None:
            began = time.monotonic()
            with pytest.raises(errors.RtiSmsTimeoutError, match=rf"no complete response within {timeout:g} s"):
                transport.perform(server, endpoints.get_balance(), timeout=timeout, max_attempts=1)
            assert time.monotonic() - began > timeout - 0.1

        with_more_time(attempt, lambda _: server.calls)


class TestHuge:
    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            pytest.param(200, [], id="200"),
            pytest.param(404, [], id="404"),
            pytest.param(302, [("Location", "/elsewhere")], id="redirect"),
        ],
    )
    def test_responses_are_given_up_early(
        self, transport: Transport, serve: Serve, framing: str, status: int, headers: list[tuple[str, str]]
    ) -> None:
        server = serve(flood(300 * MIB, framing, status, headers))
        tracemalloc.start()
        try:
            with pytest.raises(errors.RtiSmsResponseTooLargeError, match=f"HTTP {status} with more than 1048576 bytes"):
                transport.perform(server, SMS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10 * MIB
        assert server.bytes_sent < 50 * MIB
        assert len(server.calls) == 1

    def test_the_largest_response_is_read(self, transport: Transport, serve: Serve) -> None:
        server = serve(*(response(b'{"balance": "457.00"}'.ljust(1_048_576 + extra)) for extra in (0, 1)))
        assert transport.perform(server, endpoints.get_balance()) == Decimal("457.00")
        with pytest.raises(errors.RtiSmsResponseTooLargeError):
            transport.perform(server, endpoints.get_balance())


class TestRedirects:
    @pytest.mark.parametrize(
        ("status", "location"),
        [
            *((status, "{}/api/balance") for status in (301, 302, 303, 307, 308)),
            *(
                (302, odd)
                for odd in ("/api/balance", "http://[::1", "", "http://:0/\x7f", "//\\", "file:///etc/passwd")
            ),
        ],
    )
    def test_are_refused_without_a_second_request(
        self, transport: Transport, serve: Serve, status: int, location: str
    ) -> None:
        elsewhere = serve(response(BALANCE))
        server = serve(response(status=status, headers=[("Location", location.replace("{}", elsewhere.url))]))
        with pytest.raises(errors.RtiSmsRedirectError, match=f"HTTP {status}") as caught:
            transport.perform(server, endpoints.get_balance())
        assert caught.value.status == status
        assert len(server.calls) == 1
        assert elsewhere.requests == []

    def test_credentials_are_not_sent_on(self, transport: Transport, serve: Serve) -> None:
        elsewhere = serve(auth=[grant()])
        server = serve(auth=[response(status=307, headers=[("Location", f"{elsewhere.url}/api/auth")])])
        with pytest.raises(errors.RtiSmsRedirectError):
            transport.perform(server, endpoints.get_balance())
        assert len(server.grants) == 1
        assert elsewhere.requests == []
