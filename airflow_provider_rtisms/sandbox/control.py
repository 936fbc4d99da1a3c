"""
The control calls under ``/sandbox/``: read and change the state of a running sandbox.

===========================  ==================================================================================
``GET state``                a :class:`~airflow_provider_rtisms.sandbox.state.Snapshot`
``GET settings``             the current settings
``POST faults``              ``{"faults": [{"kind": "error", "times": 3}, ...]}``; replaces the active ones
``POST credentials``         ``{"client_id": ..., "client_secret": ...}``, one or both
``POST balance``             ``{"balance": "12.50"}``
``POST timing``              ``{"token_lifetime": ..., "pending_for": ..., "sent_for": ...}``, any of them
``POST seed``                ``{"seed": 1000}``: how many DELIVERED submissions there are from 5000000000000000 on
``POST submissions``         ``{"submission_id": ..., "status": ..., "pending_for": ..., "sent_for": ...,
                             "cost": ...}``, any of them; the response is ``{"submission_id": ...}``
``POST tokens/revoke``       makes every token invalid
``POST reset``               goes back to the start, with the settings in the body changed, if any
===========================  ==================================================================================

Control calls need no token. They are not counted, and faults do not affect them.

No web page can make them. The response is a 403 unless the header ``Host`` is ``localhost``, a loopback address or the
host that the sandbox is bound to (``--host``). It is also a 403 if there is a header ``Origin`` of another site.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from reprlib import repr as short_repr
from typing import Any

from airflow_provider_rtisms.sandbox.service import Request, Response, json_response, text_response
from airflow_provider_rtisms.sandbox.settings import Settings, check_names, read_object
from airflow_provider_rtisms.sandbox.state import State

# A host name, an IPv4 address, or an IPv6 address in brackets; then perhaps a port (RFC 9110, 7.2).
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^\s:/@\[\]]+))(?::[0-9]*)?", re.IGNORECASE)


def why_refused(headers: Mapping[str, str], own_hosts: Collection[str]) -> str | None:
    host, origin = headers.get("Host", ""), headers.get("Origin")
    match = _HOST.fullmatch(host)
    name = (match["ipv6"] or match["name"]).lower() if match else ""
    if not _is_loopback(name) and name not in {own.lower() for own in own_hosts}:
        return (
            f"the header Host is {short_repr(host)}; control calls must use localhost, a loopback address, "
            "or the host that the sandbox is bound to"
        )
    if origin is not None and origin.lower() != f"http://{host}".lower():
        return f"the header Origin is {short_repr(origin)}; web pages of other sites must not make control calls"
    return None


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


class Sockets:
    """Counts connections from their first API request on. Connections with control calls only do not count."""

    def __init__(self) -> None:
        self._connections: set[Any] = set()  # aiohttp's protocols; one without a transport is closed
        self.peak = 0

    @property
    def open(self) -> set[Any]:
        return {connection for connection in self._connections if connection.transport is not None}

    def add(self, connection: Any) -> None:
        if connection not in self._connections:
            self._connections = {*self.open, connection}
            self.peak = max(self.peak, len(self._connections))


def reset(transport: asyncio.Transport | None) -> None:
    """Close a connection with RST, without a response."""
    if transport is None or transport.is_closing():
        return
    # A linger time of zero turns the close into a reset (SO_LINGER in socket(7)).
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Control:
    """Responds to control calls."""

    def __init__(self, settings: Settings, sockets: Sockets) -> None:
        self.state = State(settings)
        self._initial_settings = settings
        self._sockets = sockets
        #: The POST calls: the names of their fields, and the method that takes these as keyword arguments.
        self._posts: dict[str, tuple[Collection[str], Callable[..., dict[str, str]]]] = {
            "faults": (["faults"], self._change),
            "credentials": (["client_id", "client_secret"], self._change),
            "balance": (["balance"], self._change),
            "timing": (["token_lifetime", "pending_for", "sent_for"], self._change),
            "seed": (["seed"], self._change),
            "submissions": (["submission_id", "status", "pending_for", "sent_for", "cost"], self._add_submission),
            "tokens/revoke": ([], self._revoke_tokens),
            "reset": ([setting.name for setting in fields(Settings)], self._reset),
        }

    def respond(self, request: Request) -> Response:
        name = request.path.removeprefix("/sandbox/")
        if request.method == "GET" and name == "state":
            return json_response(self.state.snapshot(len(self._sockets.open), self._sockets.peak))
        if request.method == "GET" and name == "settings":
            return json_response(self.state.settings)
        if request.method != "POST" or name not in self._posts:
            return text_response(404, "no such control call")
        known, act = self._posts[name]
        try:
            given = read_object(request.body or b"{}")
            check_names(given, known)
            return json_response(act(**given))
        except ValueError as error:
            return text_response(400, str(error))

    def _change(self, **changes: Any) -> dict[str, str]:
        self.state.change(changes)
        self._start_outage()
        return {}

    def _add_submission(self, **given: Any) -> dict[str, str]:
        settings = self.state.settings
        times = {name: getattr(settings, name) for name in ("pending_for", "sent_for") if given.get(name) is None}
        submission = self.state.submissions.add(**{"status": "DELIVERED", **given, **times})
        return {"submission_id": submission.submission_id}

    def _revoke_tokens(self) -> dict[str, str]:
        self.state.revoke_tokens()
        return {}

    def _reset(self, **changes: Any) -> dict[str, str]:
        self.state = State(self._initial_settings.changed(changes))
        self._sockets.peak = len(self._sockets.open)
        self._start_outage()
        return {}

    def _start_outage(self) -> None:
        if any(fault.kind == "outage" for fault in self.state.settings.faults):
            for connection in self._sockets.open:
                reset(connection.transport)
