"""Servers that show what the sandbox does not: how many connections are made, and responses that make no sense."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@contextmanager
def counting_relay(url: str) -> Iterator[tuple[str, list[socket.socket]]]:
    """
    Relay to a server.

    :return: the relay's URL, and the connections that it has taken so far.
    """
    target = urlsplit(url)
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener is closed
                while True:
                    near, _ = listener.accept()
                    connections.append(near)
                    far = socket.create_connection((target.hostname, target.port))
                    for source, sink in ((near, far), (far, near)):
                        threading.Thread(target=_relay, args=(source, sink), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections


def _relay(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def scripted_server(body: bytes, status: int = 200) -> Iterator[str]:
    """
    Hand out a token, and response everything else in one way.

    :return: the server's URL.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            is_auth = self.path == "/api/auth"
            response = b'{"access_token": "t", "validity_period": "60"}' if is_auth else body
            self.send_response(200 if is_auth else status)
            self.send_header("Content-Length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def log_message(self, *_: Any) -> None:
            """Keep the output of the tests clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
