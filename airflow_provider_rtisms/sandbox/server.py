"""Serve a sandbox over HTTP with aiohttp's low-level server, faults included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http.client import responses

from aiohttp import HttpVersion11, web

from airflow_provider_rtisms.sandbox import service
from airflow_provider_rtisms.sandbox.control import Control, Sockets, reset, why_refused
from airflow_provider_rtisms.sandbox.service import Request, Response
from airflow_provider_rtisms.sandbox.settings import ActiveFault, Settings, judge

_ABOUT = """\
This is the sandbox of airflow-provider-rtisms: a local stand-in for the RTI SMS API.
It sends no message. The API is under /api/, and what the sandbox has received is under /sandbox/state.
"""
# A thousand clients may connect at the same time.
_BACKLOG = 1024
_SHUTDOWN_SECONDS = 1.0


@asynccontextmanager
async def serve(settings: Settings, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    http = web.Server(_Handler(settings, host), access_log=None)
    listener = await asyncio.get_running_loop().create_server(http, host, port, backlog=_BACKLOG)
    try:
        address, bound_port = listener.sockets[0].getsockname()[:2]
        yield f"http://[{address}]:{bound_port}" if ":" in address else f"http://{address}:{bound_port}"
    finally:
        listener.close()
        await http.shutdown(_SHUTDOWN_SECONDS)


class _Handler:
    def __init__(self, settings: Settings, host: str) -> None:
        self._host = host
        self._sockets = Sockets()
        self._control = Control(settings, self._sockets)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if path.startswith("/sandbox/"):
            return _to_aiohttp(await self._respond_to_control(request, path))
        if path == "/":
            return _to_aiohttp(service.text_response(200, _ABOUT))
        return await self._respond_to_api(request, path)

    async def _respond_to_control(self, request: web.BaseRequest, path: str) -> Response:
        # A sandbox that is bound to all addresses is known under the one that the client has connected to.
        own_hosts = [self._host, str(request.get_extra_info("sockname", [""])[0])]
        if reason := why_refused(request.headers, own_hosts):
            return service.text_response(403, reason)
        return self._control.respond(await _read(request, path))

    async def _respond_to_api(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        state = self._control.state
        family, submission_id = service.locate(path)
        call = f"{request.method} {family}"
        self._sockets.add(request.protocol)
        state.count_request(call, submission_id)
        delay, active = judge(state.faults, request.method, family)
        kind = None if active is None else active.fault.kind
        incoming = await _read(request, path)
        if active is not None and kind == "interim":
            _send_interim(request, active.statuses)
        if delay:
            await asyncio.sleep(delay)
        if kind in ("reset", "outage"):
            state.count_response(call, kind)
            return _reset(request)
        response = _refusal(active) or service.respond(state, incoming)
        if active is not None and kind == "late_response":
            await asyncio.sleep(active.fault.seconds)
        if kind in ("lost_response", "cut_off"):
            state.count_response(call, kind)
            return _reset(request) if kind == "lost_response" else await _cut_off(request, response)
        state.count_response(call, response.status)
        return _to_aiohttp(response)


async def _read(request: web.BaseRequest, path: str) -> Request:
    return Request(request.method, path, request.headers, await request.read() if request.can_read_body else b"")


def _refusal(active: ActiveFault | None) -> Response | None:
    if active is None or (status := active.next_status()) is None:
        return None
    retry_after = active.fault.retry_after
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return service.text_response(status, "this error is a fault of the sandbox, set on purpose", headers)


def _to_aiohttp(response: Response) -> web.Response:
    return web.Response(status=response.status, body=response.body, headers=response.headers)


def _send_interim(request: web.BaseRequest, statuses: Iterable[int]) -> None:
    """Send interim responses. aiohttp's server cannot, so write them to the transport before it writes the response."""
    if request.transport is None or request.version < HttpVersion11:  # HTTP/1.0 has none (RFC 9110, 15.2)
        return
    for status in statuses:
        request.transport.write(f"HTTP/1.1 {status} {responses.get(status, '')}\r\n\r\n".encode())


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    reset(request.transport)
    return web.Response()  # aiohttp requires a response, though the connection is closed


async def _cut_off(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    body = response.body or b"  "
    headers = {**response.headers, "Content-Length": str(len(body))}
    stream = web.StreamResponse(status=response.status, headers=headers)
    await stream.prepare(request)
    await stream.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return stream
