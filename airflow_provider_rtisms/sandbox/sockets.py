"""The connections of the API's users: how many are open, and how to reset one."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol


class Connection(Protocol):
    """The part of aiohttp's protocol for one connection that is used here."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport; None once the connection is closed."""


class Sockets:
    """Counts connections from their first API request on. Connections with control calls only do not count."""

    def __init__(self) -> None:
        self._connections: set[Connection] = set()
        self.peak = 0

    def add(self, connection: Connection) -> None:
        """
        Count a connection, once.

        :param connection: the connection that a request came in on.
        """
        if connection not in self._connections:
            self._connections = {*self._open(), connection}
            self.peak = max(self.peak, len(self._connections))

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return len(self._open())

    def restart_peak(self) -> None:
        """Set the peak to the number of connections that are open now."""
        self.peak = self.open

    def reset_all(self) -> None:
        """Reset every connection."""
        for connection in self._open():
            reset(connection.transport)

    def _open(self) -> set[Connection]:
        return {connection for connection in self._connections if connection.transport is not None}


def reset(transport: asyncio.Transport | None) -> None:
    """
    Close a connection with RST, without a response.

    :param transport: its transport; None if the client has closed the connection already.
    """
    if transport is None or transport.is_closing():
        return
    # A linger time of zero turns the close into a reset (SO_LINGER in socket(7)).
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
