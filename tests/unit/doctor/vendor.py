"""
A second implementation of docs/vendor-api.md, as plain as can be, that a test lets deviate in one point; and a proxy.

It shares nothing with the sandbox, so the two check each other through the doctor.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

CLIENT_ID = "the-client"
SECRET = "Zx9+&% é/=q"
TOKEN = "eyJhbGciOi.tok3n-body$signature"
BALANCE = "98765.43"
SUBMISSION_ID = "4193366853543393"
NUMBER = "+56911122233"
SENT_ID = "4200000000000777"


@dataclass
class Reply:
    """A response before it is sent."""

    status: int
    body: Any = b""  # bytes, or anything that JSON can hold
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0  # seconds between two bytes of the body

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Request:
    """What came, and whether it has the token and the header Content-Type that it needs."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    has_token: bool


Deviation = Callable[[Request, Reply], Reply]


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
    submission_id = request.path.removeprefix("/api/sms/")
    allowed = "POST" if request.path in ("/api/auth", "/api/sms") else "GET"
    if request.path == "/api/auth" and request.method == "POST":
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if form != {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": SECRET}:
            return Reply(401, b"who are you?")
        return Reply(200, {"access_token": TOKEN, "validity_period": "3600"})
    if not request.has_token:
        return Reply(401)
    if request.headers.get("content-type") != "application/json":
        return Reply(400, b"no content type")
    if request.method != allowed:
        return Reply(405)
    if request.path == "/api/balance":
        return Reply(200, {"balance": BALANCE})
    if request.path == "/api/sms":
        return Reply(200, {"submissions": [{"status": "submitted", "submissionId": SENT_ID}]})
    if submission_id in (SUBMISSION_ID, SENT_ID):
        return Reply(200, details(submission_id))
    return Reply(404, b"nothing here")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    deviate: Deviation
    requests: list[Request]

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle_one_request()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        has_token = headers.get("authorization") == f"Bearer {TOKEN}"
        request = Request(self.command, self.path, headers, body, has_token)
        self.requests.append(request)
        reply = type(self).deviate(request, respond(request))
        payload = reply.encoded()
        self.send_response_only(reply.status)
        reply.headers.setdefault("Date", formatdate(usegmt=True))
        for name, value in {"Content-Length": str(len(payload)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in [payload] if not reply.pause else [bytes([byte]) for byte in payload]:
            self.wfile.write(piece)
            time.sleep(reply.pause)

    do_GET = do_POST = do_CONNECT = _serve  # noqa: N815  # names of http.server

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


class _Server(ThreadingHTTPServer):
    context: ssl.SSLContext | None = None
    block_on_close = False

    def finish_request(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError):
            if self.context is not None:
                request = self.context.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep the output of the tests clean."""


@contextmanager
def vendor(
    deviate: Deviation = lambda request, reply: reply, context: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[Request]]]:
    """Serve the API, each response changed by ``deviate``; return the port, and what has been requested."""
    requests: list[Request] = []
    handler = type("Handler", (_Handler,), {"deviate": staticmethod(deviate), "requests": requests})
    with _Server(("127.0.0.1", 0), handler) as server:
        server.context = context
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_port, requests
        server.shutdown()


@contextmanager
def connect_proxy(
    target: int, credentials: str | None = None, context: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Run a proxy for CONNECT that leads to one port; return its own port, and the heads of the requests."""
    heads: list[bytes] = []
    wanted = None if credentials is None else b"basic " + base64.b64encode(credentials.encode()).lower()

    def serve(near: socket.socket) -> None:
        with contextlib.suppress(OSError), near if context is None else context.wrap_socket(near, True) as near:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += near.recv(1)
            heads.append(head)
            if wanted is not None and wanted not in head.lower():
                near.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", target)) as far:
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                there = threading.Thread(target=_copy, args=(near, far), daemon=True)
                there.start()
                _copy(far, near)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    threading.Thread(target=serve, args=(near,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], heads


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
