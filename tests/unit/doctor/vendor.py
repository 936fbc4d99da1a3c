"""
A second implementation of docs/vendor-api.md, which a test lets deviate in one point; a proxy; and the doctor's report.

The implementation shares nothing with the sandbox, so the two check each other through the doctor.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import takewhile
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import encodings
from airflow_provider_rtisms.doctor import CheckResult, Report, diagnose
from airflow_provider_rtisms.doctor.checks import CHECKS, TEXT
from tests.hostile import Exchange, HostileServer, Request
from tests.patience import PATIENCE, with_more_time

CLIENT_ID = "the-client"
SECRET = "Zx9+&% é/=q"
TOKEN = "eyJhbGciOi.tok3n-body$signature"
BALANCE = "98765.43"
SUBMISSION_ID = "4193366853543393"
NUMBER = "+56911122233"
SENT_ID = "4200000000000777"
#: The options of a run with all checks.
ALL: dict[str, Any] = {
    **{"submission_id": SUBMISSION_ID, "probe_credentials": True, "send_to": NUMBER, "sender": "96000"},
    "conn_id": "my_sms",
}
NAMES = [check.name for check in CHECKS]


@dataclass
class Reply:
    """A response before it is sent. The body is bytes, or what JSON can hold; it pauses between two bytes."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Deviation = Callable[[Request, Reply], Reply]


def has_token(request: Request) -> bool:
    return request.header("Authorization") == f"Bearer {TOKEN}"


def details(submission_id: str) -> dict[str, Any]:
    return {
        "id": submission_id,
        "timestamps": {"registered": 1600351683, "sent": 1600351694, "done": 1600355610},
        "info": {
            "status": {"code": "1", "status": "DELIVERED"},
            "cost": 1,
            "operator": {"id": "188", "name": "Entel Pcs", "mcc": "730", "mnc": "01"},
        },
    }


def respond(request: Request) -> Reply:
    """Respond as documented."""
    path, submission_id = request.target, request.target.removeprefix("/api/sms/")
    if path == "/api/auth" and request.method == "POST":
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if form != {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": SECRET}:
            return Reply(401, b"who are you?")
        return Reply(200, {"access_token": TOKEN, "validity_period": "3600"})
    if not has_token(request):
        return Reply(401)
    if request.header("Content-Type") != "application/json":
        return Reply(400, b"no content type")
    if request.method != ("POST" if path in ("/api/auth", "/api/sms") else "GET"):
        return Reply(405)
    if path == "/api/balance":
        return Reply(200, {"balance": BALANCE})
    if path == "/api/sms":
        return Reply(200, {"submissions": [{"status": "submitted", "submissionId": SENT_ID}]})
    return Reply(200, details(submission_id)) if submission_id in (SUBMISSION_ID, SENT_ID) else Reply(404, b"nothing")


def vendor(deviate: Deviation = lambda request, reply: reply, context: ssl.SSLContext | None = None) -> HostileServer:
    """Serve the API, each response changed by ``deviate``."""

    async def step(exchange: Exchange) -> None:
        reply = deviate(exchange.request, respond(exchange.request))
        body = reply.encoded()
        headers = {"Date": formatdate(usegmt=True), "Content-Length": str(len(body)), **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        await exchange.write("\r\n".join(lines).encode())
        for piece in [body] if not reply.pause else [bytes([byte]) for byte in body]:
            await exchange.write(piece)
            await asyncio.sleep(reply.pause)

    return HostileServer([step], auth=[step], tls=context)


def port_of(server: HostileServer) -> int:
    return int(server.url.rpartition(":")[2])


@contextmanager
def connect_proxy(
    target: int, credentials: str = "", context: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Run a proxy for CONNECT that leads to one port; yield its own port, and the heads of the requests."""
    heads: list[bytes] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                near = context.wrap_socket(self.request, server_side=True) if context else self.request
                head = b"".join(takewhile(lambda line: line != b"\r\n", near.makefile("rb")))
                if not head:
                    return  # a look whether anybody listens
                heads.append(head)
                if base64.b64encode(credentials.encode()) not in head:
                    near.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                    return
                with socket.create_connection(("127.0.0.1", target)) as far:
                    near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    threading.Thread(target=_copy, args=(near, far), daemon=True).start()
                    _copy(far, near)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_address[1], heads
        server.shutdown()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def examine(base_url: str, options: dict[str, Any] | None = None, timeout: float = PATIENCE, **settings: Any) -> Report:
    """Run the doctor with all checks, and look for leaks in each form of the report."""
    values = {"client_id": CLIENT_ID, "client_secret": SECRET, "base_url": base_url, **settings}
    report = diagnose(ApiSettings(**values), timeout=timeout, **(ALL if options is None else options))
    assert [check.name for check in report.checks] == NAMES
    text = report.to_text() + report.to_text(verbose=True) + report.to_json()
    leaks = [SECRET, TOKEN, BALANCE, NUMBER, NUMBER[1:], TEXT, "proxy-pass", CLIENT_ID]
    assert [leak for leak in leaks if any(one in text for one in encodings(leak))] == []
    return report


def examine_slow(base_url: str, finds: dict[str, str]) -> Report:
    """Run the doctor with a timeout that something exceeds, and look for what it has to find."""
    return with_more_time(
        lambda timeout: examine(base_url, timeout=2 * timeout), was_enough=lambda report: not_ok(report) == finds
    )


def not_ok(report: Report) -> dict[str, str]:
    """Return the checks that found something."""
    return {check.name: str(check.outcome) for check in report.checks if check.outcome in ("differs", "failed")}


def result(report: Report, name: str) -> CheckResult:
    return next(check for check in report.checks if check.name == name)
