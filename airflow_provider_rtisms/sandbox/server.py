"""The sandbox over HTTP: aiohttp's low-level server, the faults on the wire, and where it listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from airflow_provider_rtisms.sandbox import service
from airflow_provider_rtisms.sandbox.control import Control
from airflow_provider_rtisms.sandbox.faults import Verdict
from airflow_provider_rtisms.sandbox.service import Answer, Request
from airflow_provider_rtisms.sandbox.settings import Settings
from airflow_provider_rtisms.sandbox.sockets import Sockets, reset

_ABOUT = """\
This is the sandbox of airflow-provider-rtisms: a local stand-in for the RTI SMS API.
No message leaves this machine. The API is under /api/, what the sandbox saw under /sandbox/state.
"""
# Clients may connect a thousand at a time.
_BACKLOG = 1024
_SHUTDOWN_SECONDS = 1.0


@asynccontextmanager
async def serve(settings: Settings, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve a sandbox for as long as the context lasts.

    :param settings: how it starts.
    :param host: the address to bind.
    :param port: the port; 0 for any that is free.
    :returns: its base URL, such as ``http://127.0.0.1:43210``.
    :raises OSError: if it cannot bind there.
    """
    http = web.Server(_Handler(settings), access_log=None)
    listener = await asyncio.get_running_loop().create_server(http, host, port, backlog=_BACKLOG)
    try:
        address, bound_port = listener.sockets[0].getsockname()[:2]
        yield f"http://[{address}]:{bound_port}" if ":" in address else f"http://{address}:{bound_port}"
    finally:
        listener.close()
        await http.shutdown(_SHUTDOWN_SECONDS)


class _Handler:
    def __init__(self, settings: Settings) -> None:
        self._sockets = Sockets()
        self._control = Control(settings, self._sockets)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if path.startswith("/sandbox/"):
            return _response(self._control.answer(await _read(request, path)))
        if path == "/":
            return _response(service.text_answer(200, _ABOUT))
        return await self._answer_api(request, path)

    async def _answer_api(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        state = self._control.state
        family, submission_id = service.locate(path)
        call = f"{request.method} {family}"
        self._sockets.add(request.protocol)
        state.count_request(call, submission_id)
        verdict = state.faults.judge(request.method, family)
        incoming = await _read(request, path)
        if verdict.delay:
            await asyncio.sleep(verdict.delay)
        if verdict.kind in ("reset", "outage"):
            state.count_answer(call, verdict.kind)
            return _reset(request)
        answer = _refusal(verdict) or service.answer(state, incoming)
        if verdict.answer_delay:
            await asyncio.sleep(verdict.answer_delay)
        if verdict.kind == "lost_answer":
            state.count_answer(call, verdict.kind)
            return _reset(request)
        if verdict.kind == "cut_off":
            state.count_answer(call, verdict.kind)
            return await _cut_off(request, answer)
        state.count_answer(call, answer.status)
        return _response(answer)


async def _read(request: web.BaseRequest, path: str) -> Request:
    return Request(request.method, path, request.headers, await request.read() if request.can_read_body else b"")


def _refusal(verdict: Verdict) -> Answer | None:
    if verdict.status is None:
        return None
    headers = {} if verdict.retry_after is None else {"Retry-After": verdict.retry_after}
    return service.text_answer(verdict.status, "a fault that the sandbox was asked for", headers)


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    reset(request.transport)
    return web.Response()  # aiohttp wants one; there is nobody left to read it


async def _cut_off(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    body = answer.body or b"  "
    response = web.StreamResponse(status=answer.status, headers={**answer.headers, "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
