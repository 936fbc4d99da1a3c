"""
Add what requests and urllib3 lack: one total timeout for all reads of a response, and interim responses.

urllib3's read timeout starts again with each byte, so a server that sends one byte per second can block a request
forever. http.client treats an interim response other than 100 as the final one, which RFC 9110, section 15.2, forbids,
and reads any number of 100.
"""

from __future__ import annotations

import http.client
import io
import queue
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Any

import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

#: How many interim responses a client reads before it fails; servers send one or two.
MAX_INTERIM_RESPONSES = 20


class DeadlineAdapter(requests.adapters.HTTPAdapter):
    """An adapter whose connections share one deadline among status line, headers and body."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool manager for direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool manager for a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


class _DeadlineReader(io.RawIOBase):
    """Read from a socket until a deadline."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = deadline
        #: Whether the response is complete, so that no further byte belongs to it.
        self.is_complete = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.is_complete:
            return 0
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the request has passed")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """A response that is read within what is left of the total timeout. Interim responses are skipped."""

    _reader: _DeadlineReader | None = None

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        left = sock.gettimeout()
        if left is not None:
            self._sock = sock
            self._reader = _DeadlineReader(self.fp.detach(), sock, time.monotonic() + left)
            self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        """Read the status line and the headers."""
        super().begin()
        # urllib3 logs header lines that it cannot parse, and a server can fill these with our secrets.
        self.msg.defects.clear()
        self.msg.set_payload("")

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM_RESPONSES):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status // 100 != 1 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many interim responses")

    def _close_conn(self) -> None:
        self._drop_connection_with_unread_bytes()
        super()._close_conn()  # type: ignore[misc]

    def _drop_connection_with_unread_bytes(self) -> None:
        """Close a connection with unread bytes, which would be read as the response to the next request."""
        if self._reader is None:
            return
        self._reader.is_complete = True
        # urllib3 looks at the socket itself before it uses it again, but it sees neither of these buffers.
        if self.fp.peek() or getattr(self._sock, "pending", lambda: 0)():
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


class _HttpConnection(HTTPConnection):
    response_class = _DeadlineResponse


class _HttpsConnection(HTTPSConnection):
    response_class = _DeadlineResponse


class _Stack:
    """
    Idle connections, as far as urllib3 uses :class:`queue.LifoQueue`.

    The lock of a LifoQueue stays locked for ever where a signal interrupts its Python code, or where another thread
    holds it during a fork. The methods of a deque are atomic.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._connections: deque[Any] = deque()

    def get(self, **_: Any) -> Any:
        """Take the connection that was used last; never waits, since our pools never block."""
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, connection: Any, **_: Any) -> None:
        """Keep a connection."""
        if len(self._connections) >= self._maxsize:
            raise queue.Full
        self._connections.append(connection)

    def qsize(self) -> int:
        """Return how many connections there are."""
        return len(self._connections)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection
    QueueCls = _Stack  # type: ignore[assignment]


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection
    QueueCls = _Stack  # type: ignore[assignment]


_POOLS = {"http": _HttpPool, "https": _HttpsPool}
