"""
A stand-in for the API that does as little as it can for each request: ``python -m benchmarks.fast_api``.

The sandbox needs as much CPU time for a request as the client does. It would decide how long a million of them take.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress

#: Ids that end in this are unknown.
UNKNOWN_SUFFIX = b"00000"
_TOKEN = json.dumps({"access_token": "token", "validity_period": 86400})
_DETAILS = json.dumps(
    {
        "id": "%s",
        "timestamps": {"registered": 1600351683, "sent": 1600351694, "done": 1600355610},
        "info": {
            "status": {"code": "1", "status": "DELIVERED"},
            "cost": 1,
            "operator": {"id": "188", "name": "Entel Pcs", "mcc": "730", "mnc": "10"},
        },
    }
).encode()


class Api(asyncio.Protocol):
    """One connection. All connections share the counts."""

    #: How many submissions were asked for since the last ``GET /reset``.
    requests = 0
    #: When the first of them was asked for, on the clock of ``time.time``.
    first_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, rest = self._received[:end], self._received[end + 4 :]
            if head.startswith(b"POST"):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                if len(rest) < length:
                    return
                rest = rest[length:]
            self._received = rest
            self._transport.write(self._respond(head.split(b" ", 2)[1]))  # type: ignore[attr-defined]

    def _respond(self, path: bytes) -> bytes:
        if path.startswith(b"/api/sms/"):
            if not Api.requests:
                Api.first_at = time.time()
            Api.requests += 1
            submission_id = path[len(b"/api/sms/") :]
            if submission_id.endswith(UNKNOWN_SUFFIX):
                return _response(b"{}", b"404 Not Found")
            return _response(_DETAILS % submission_id)
        if path == b"/api/auth":
            return _response(_TOKEN.encode())
        state = json.dumps({"requests": Api.requests, "first_at": Api.first_at}).encode()
        if path == b"/reset":
            Api.requests = 0
        return _response(state)


def _response(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    return head + body


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Api, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Print the base URL, and serve until the process is ended."""
    factory = None
    with suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    main()
