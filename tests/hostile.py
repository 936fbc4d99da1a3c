"""
A server that misbehaves as a test tells it to. It works on raw sockets: no HTTP library would send such responses.

POST /api/auth has a script, and all other requests share a second one. A script is a list of steps, one for each
request; its last step also serves all later requests.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from tests.patience import PATIENCE

#: The token that :func:`grant` sends by default.
TOKEN = "header.payload$signature"


@dataclass(frozen=True)
class Request:
    """A request as it was sent, with its headers in their order."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    @classmethod
    def parse(cls, head: bytes) -> Request:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, target, _ = first.split(" ", 2)
        return cls(method, target, [(name, value) for name, _, value in (line.partition(": ") for line in lines)], b"")

    @property
    def is_grant(self) -> bool:
        """Whether the request is for a token."""
        return self.target.endswith("/api/auth")

    def header(self, name: str) -> str | None:
        """Return the value of a header; None if there is no such header."""
        values = [value for one, value in self.headers if one.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


@dataclass
class Exchange:
    """One request, and the connection on which a step responds to it."""

    request: Request
    writer: asyncio.StreamWriter
    server: HostileServer

    async def write(self, data: bytes) -> None:
        """Send some bytes, as soon as the connection takes them."""
        self.writer.write(data)
        await self.writer.drain()
        self.server.bytes_sent += len(data)

    def reset(self) -> None:
        """Close the connection with RST."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """Close the connection with FIN."""
        self.writer.close()


Step = Callable[[Exchange], Awaitable[None]]
Headers = Iterable[tuple[str, str]]


def head(status: int = 200, headers: Headers = ()) -> bytes:
    """Return the head of a response: status line and headers."""
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


def message(content: Any = b"", status: int = 200, headers: Headers = ()) -> bytes:
    """Return a whole response. A body of bytes is sent as it is, anything else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return head(status, [("Content-Length", str(len(body))), *headers]) + body


def raw(data: bytes, *, then: Literal["keep", "close", "hang"] = "keep") -> Step:
    """Send bytes; ``then`` says what happens to the connection afterwards."""

    async def step(exchange: Exchange) -> None:
        await exchange.write(data)
        if then == "close":
            exchange.close()
        elif then == "hang":
            await hang(exchange)

    return step


def response(content: Any = b"", status: int = 200, headers: Headers = (), *, close: bool = False) -> Step:
    """Send a well-formed response. With ``close``, close the connection after it without a header that says so."""
    return raw(message(content, status, headers), then="close" if close else "keep")


def grant(token: Any = TOKEN, validity_period: Any = "3600", **fields: Any) -> Step:
    """Send the response of POST /auth."""
    return response({"access_token": token, "validity_period": validity_period, **fields})


def details(status: str = "DELIVERED", *, done: int | None = None, **fields: Any) -> Step:
    """Send the response of GET /sms/ID, about the requested submission."""
    is_done = status not in ("PENDING", "SENT", "UNKNOWN") if done is None else done

    async def step(exchange: Exchange) -> None:
        content = {
            "id": exchange.request.target.rpartition("/")[2],
            "timestamps": {"registered": 1600351683, "sent": 1600351694, "done": 1600355610 if is_done else 0},
            "info": {
                "status": {"code": "1", "status": status},
                "cost": 1,
                "operator": {"id": "188", "name": "Entel Pcs", "mcc": "730", "mnc": "01"},
            },
        }
        await exchange.write(message({**content, **fields}))

    return step


async def reset(exchange: Exchange) -> None:
    """Read the request, and close the connection with RST."""
    exchange.reset()


async def hang(exchange: Exchange) -> None:
    """Read the request, and do not respond until the client has gone."""
    await asyncio.Event().wait()


def drip(data: bytes, *, whole: int = 0, pause: float = 0.1) -> Step:
    """Send some bytes as a whole, and the rest one by one with a pause of some seconds between two."""

    async def step(exchange: Exchange) -> None:
        await exchange.write(data[:whole])
        for byte in data[whole:]:
            await exchange.write(bytes([byte]))
            await asyncio.sleep(pause)

    return step


def flood(size: int, framing: Literal["length", "chunked", "close"], status: int = 200, headers: Headers = ()) -> Step:
    """Send a response of ``size`` bytes, a little at a time, while the client reads it."""
    framings = {"length": [("Content-Length", str(size))], "chunked": [("Transfer-Encoding", "chunked")], "close": []}
    block = b" " * 65536

    async def step(exchange: Exchange) -> None:
        await exchange.write(head(status, [*framings[framing], *headers]))
        for _ in range(size // len(block)):
            await exchange.write(b"%x\r\n%b\r\n" % (len(block), block) if framing == "chunked" else block)
        exchange.close()

    return step


@dataclass
class HostileServer:
    """
    Runs inside a ``with`` block, in a thread of its own. A test can read at any time what it has received.

    :param script: steps for all requests except POST /api/auth.
    :param auth: steps for POST /api/auth.
    :param refuse_first: how many connections to reset before reading from them.
    :param tls: speak TLS, as this context says.
    """

    script: Sequence[Step] = ()
    auth: Sequence[Step] = field(default_factory=lambda: [grant()])
    refuse_first: int = 0
    tls: ssl.SSLContext | None = None

    requests: list[Request] = field(default_factory=list)
    bytes_sent: int = 0
    connections: int = 0
    connections_open: int = 0
    connections_peak: int = 0
    url: str = ""
    #: How many requests of either kind have come: other ones, and those for a token.
    _served: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def grants(self) -> list[Request]:
        """The requests for a token."""
        return [request for request in self.requests if request.is_grant]

    @property
    def calls(self) -> list[Request]:
        """All other requests."""
        return [request for request in self.requests if not request.is_grant]

    def __enter__(self) -> Self:
        started: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started)), name="hostile", daemon=True)
        self._thread.start()
        self.url = started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _run(self, started: Future[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024, ssl=self.tls)
        scheme = "https" if self.tls else "http"
        started.set_result(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await self._stopping.wait()
        server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.connections_open += 1
        self.connections_peak = max(self.connections_peak, self.connections_open)
        try:
            if self.connections <= self.refuse_first:
                Exchange(Request("", "", [], b""), writer, self).reset()
            while not writer.is_closing():
                await self._serve_one(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client has closed the connection
        finally:
            self.connections_open -= 1
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = Request.parse(await reader.readuntil(b"\r\n\r\n"))
        body = await reader.readexactly(int(request.header("Content-Length") or 0))
        request = Request(request.method, request.target, request.headers, body)
        script = self.auth if request.is_grant else self.script
        step = script[min(self._served[request.is_grant], len(script) - 1)]
        self._served[request.is_grant] += 1
        self.requests.append(request)
        exchange = asyncio.ensure_future(step(Exchange(request, writer, self)))
        closed = asyncio.ensure_future(_until_closed(reader))
        try:
            await asyncio.wait([exchange, closed], return_when=asyncio.FIRST_COMPLETED)
            if exchange.done():
                exchange.result()
            else:
                writer.transport.abort()
        finally:
            exchange.cancel()
            closed.cancel()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    """Wait until the client has closed the connection, without reading a byte of the next request."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110  # streams have no event for it
        await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until another thread, such as this server's, has made a condition true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # events belong to one loop
            await asyncio.sleep(0.005)
