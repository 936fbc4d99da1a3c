"""The connections of those who use the API: how many are open, and how to break one."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol


class Connection(Protocol):
    """What is needed of aiohttp's protocol for one connection."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport; None once the connection is gone."""


class Sockets:
    """Counts connections from their first API request on, so that control calls stay out of it."""

    def __init__(self) -> None:
        self._connections: set[Connection] = set()
        self.peak = 0

    def add(self, connection: Connection) -> None:
        """Count a connection, once.

        :param connection: the connection that a request came by.
        """
        if connection not in self._connections:
            self._connections = {*self._open(), connection}
            self.peak = max(self.peak, len(self._connections))

    @property
    def open(self) -> int:
        """How many are open now."""
        return len(self._open())

    def restart_peak(self) -> None:
        """Count the peak from now on."""
        self.peak = self.open

    def reset_all(self) -> None:
        """Reset every connection."""
        for connection in self._open():
            reset(connection.transport)

    def _open(self) -> set[Connection]:
        return {connection for connection in self._connections if connection.transport is not None}


def reset(transport: asyncio.Transport | None) -> None:
    """Break a connection with RST, without a word.

    :param transport: its transport; None where the other side was faster.
    """
    if transport is None or transport.is_closing():
        return
    # Lingering for no time turns the close into a reset (SO_LINGER in socket(7)).
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
