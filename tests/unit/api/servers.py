"""Servers that show what the sandbox does not: how many connections are made, and responses that make no sense."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.hostile import HostileServer, response


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
    """Start a server that gives a token, and responds to everything else in one way; return its URL."""
    with HostileServer([response(body, status)]) as server:
        yield server.url
