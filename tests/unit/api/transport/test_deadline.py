"""How the blocking client reads a response: within one deadline, and not past its end."""

from __future__ import annotations

import io
import queue
import socket
import ssl
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from airflow_provider_rtisms.api.errors import RtiSmsConnectionLostError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport import deadline
from airflow_provider_rtisms.api.transport.blocking import RtiSmsClient
from airflow_provider_rtisms.api.transport.deadline import MAX_INTERIM_RESPONSES, _DeadlineResponse, _Stack
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import HostileServer, head, message, raw
from tests.patience import PATIENCE
from tests.unit.conftest import Serve

BALANCE = {"balance": "457.00"}
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return the ends of a connection: the client's and the server's."""
    client, server = socket.socketpair()
    client.settimeout(PATIENCE)
    server.settimeout(PATIENCE)
    with client, server:
        yield client, server


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let a test set the time: ``clock.now``, in seconds."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def respond(client: socket.socket) -> _DeadlineResponse:
    response = _DeadlineResponse(client, 0, method="GET")  # as http.client does where its debugging output is on
    response.begin()
    return response


def get_balance(server: HostileServer, **settings: Any) -> Decimal:
    values = {"base_url": server.url, "max_attempts": 1, **settings}
    with RtiSmsClient(ApiSettings(client_id="me", client_secret=Secret("s3cret"), **values)) as client:
        return client.get_balance()


class TestDeadline:
    def test_it_counts_from_the_request_and_not_from_the_last_byte(self, ends: Any, clock: SimpleNamespace) -> None:
        client, server = ends
        client.settimeout(10)
        server.sendall(message(b"12345")[:-3])
        response = respond(client)
        clock.now += 4
        assert response.read(2) == b"12"
        clock.now += 5.5
        server.sendall(b"3")
        assert response.read(1) == b"3"
        assert client.gettimeout() == 0.5
        clock.now += 0.5
        server.sendall(b"4")
        with pytest.raises(TimeoutError, match="the deadline of the request has passed"):
            response.read(1)

    def test_without_a_timeout_it_reads_like_http_client(self, ends: Any) -> None:
        client, server = ends
        client.settimeout(None)
        server.sendall(message(b"12345") + message(b"unread"))
        response = respond(client)
        assert response.read() == b"12345"
        assert response.isclosed()


class TestInterimResponses:
    @pytest.mark.parametrize("interim", [INTERIM, b"HTTP/1.1 100 Continue\r\n\r\n"])
    def test_as_many_are_passed_over_as_a_server_may_need_and_no_more(self, serve: Serve, interim: bytes) -> None:
        most = MAX_INTERIM_RESPONSES - 1
        assert MAX_INTERIM_RESPONSES == 20
        assert get_balance(serve(raw(interim * most + message(BALANCE)))) == Decimal("457.00")
        with pytest.raises(RtiSmsConnectionLostError, match=r"the connection broke \(HTTPException\)"):
            get_balance(serve(raw(interim * (most + 1) + message(BALANCE))))

    @pytest.mark.parametrize("status", [200, 201, 299])
    def test_a_status_of_200_or_more_is_the_response(self, ends: Any, status: int) -> None:
        client, server = ends
        server.sendall(message(b"12345", status))
        assert respond(client).read() == b"12345"


class TestWhatTheLogRepeats:
    @pytest.mark.parametrize("line", [b"no colon s3cret", b": s3cret", b"s3cret\r\nX: y"])
    def test_header_lines_that_cannot_be_parsed_are_not_logged(
        self, serve: Serve, caplog: pytest.LogCaptureFixture, line: bytes
    ) -> None:
        body = b'{"balance": "457.00"}'
        first, rest = head(headers=[("Content-Length", str(len(body)))]).split(b"\r\n", 1)
        server = serve(raw(first + b"\r\n" + rest.rstrip() + b"\r\n" + line + b"\r\n\r\n" + body))
        assert get_balance(server) == Decimal("457.00")
        assert [one for one in caplog.records if one.levelname != "DEBUG"] == []


class TestEndOfAResponse:
    def test_a_connection_without_unread_bytes_stays_open(self, ends: Any) -> None:
        client, server = ends
        server.sendall(message(b"12345"))
        assert respond(client).read() == b"12345"
        client.sendall(b"the next request")
        assert server.recv(100) == b"the next request"

    def test_one_with_unread_bytes_is_shut_down(self, ends: Any) -> None:
        client, server = ends
        server.sendall(message(b"12345") + b"x")
        assert respond(client).read() == b"12345"
        assert server.recv(100) == b""

    def test_bytes_that_tls_holds_back_count_too(self, ends: Any) -> None:
        client, server = ends

        class TlsSocket(socket.socket):
            def pending(self) -> int:
                return 1

        with TlsSocket(fileno=client.detach()) as tls:
            tls.settimeout(PATIENCE)
            server.sendall(message(b"12345"))
            assert respond(tls).read() == b"12345"
            assert server.recv(100) == b""

    def test_one_that_the_server_has_closed_is_no_error(self, ends: Any) -> None:
        client, server = ends
        server.sendall(message(b"12345") + b"x")
        response = respond(client)
        client.shutdown(socket.SHUT_RDWR)
        client.detach()
        response.close()

    def test_nothing_is_read_after_the_end(self, ends: Any) -> None:
        client, server = ends
        server.sendall(message(b"12345"))
        response = respond(client)
        fp, reader = response.fp, response._reader
        assert isinstance(fp, io.BufferedReader)
        assert response.read() == b"12345"
        assert reader is not None
        server.sendall(b"of the next response")
        assert reader.readinto(bytearray(10)) == 0
        assert fp.closed
        assert reader.closed
        assert client.recv(100) == b"of the next response"

    def test_closing_it_lets_the_socket_go(self, ends: Any) -> None:
        client, server = ends
        server.sendall(message(b"12345")[:-1])
        response = respond(client)
        assert response.read(4) == b"1234"
        client.close()
        response.close()
        assert server.recv(100) == b""


class TestIdleConnections:
    def test_the_one_that_was_used_last_comes_first(self) -> None:
        stack = _Stack(2)
        stack.put("a")
        stack.put("b", block=False)
        assert stack.qsize() == 2
        with pytest.raises(queue.Full):
            stack.put("c", block=False)
        assert [stack.get(block=False, timeout=None), stack.get()] == ["b", "a"]
        with pytest.raises(queue.Empty):
            stack.get(block=False)


def test_responses_over_tls_are_read_in_the_same_way(serve: Serve, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = serve(raw(INTERIM + message(BALANCE)), tls=context)
    assert get_balance(server, ca_bundle=str(tmp_path / "ca.pem")) == Decimal("457.00")


def test_responses_that_a_proxy_passes_on_are_read_in_the_same_way(serve: Serve) -> None:
    proxy = serve(raw(INTERIM + message(BALANCE)))
    found = get_balance(proxy, base_url="http://api.invalid", allow_http=True, proxy=proxy.url)
    assert found == Decimal("457.00")
    assert proxy.calls[0].target == "http://api.invalid/api/balance"
