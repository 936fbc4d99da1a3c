"""Calls that the package does not know, on both transports: token, retries and errors as for every other call."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from airflow_provider_rtisms.api import endpoints
from airflow_provider_rtisms.api.errors import (
    RtiSmsInvalidResponseError,
    RtiSmsNotFoundError,
)
from tests.hostile import TOKEN, reset, response
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.mark.parametrize("content", [{"a": [1, None]}, [], "text", 1.5, True, None])
def test_the_result_is_the_decoded_json(transport: Transport, serve: Serve, content: Any) -> None:
    server = serve(response(content))
    assert transport.perform(server, endpoints.request("GET", "/new")) == content
    assert server.calls[0].header("Authorization") == f"Bearer {TOKEN}"


def test_what_goes_out(transport: Transport, serve: Serve) -> None:
    server = serve(response({}))
    call = endpoints.request("POST", "/new/thing", params={"q": "a&b é+/%?", "n": [1, 2]}, json={"x": "é"})
    transport.perform(server, call)
    (request,) = server.calls
    assert request.method == "POST"
    path, _, query = request.target.partition("?")
    assert path == "/api/new/thing"
    assert parse_qsl(query) == [("q", "a&b é+/%?"), ("n", "1"), ("n", "2")]
    assert json.loads(request.body) == {"x": "é"}
    assert request.header("Content-Type") == "application/json"


def test_a_get_is_repeated(transport: Transport, serve: Serve) -> None:
    server = serve(reset, response(status=503), response(status=401), response({"ok": True}))
    assert transport.perform(server, endpoints.request("GET", "/new")) == {"ok": True}
    assert len(server.grants) == 2


def test_a_post_is_repeated_where_the_caller_says_so(transport: Transport, serve: Serve) -> None:
    server = serve(reset, response({"ok": True}))
    assert transport.perform(server, endpoints.request("POST", "/new", json={}, idempotent=True)) == {"ok": True}


@pytest.mark.parametrize(
    "call",
    [endpoints.request("POST", "/new", json={"to": "+56911122233"}), endpoints.request("GET", "/new", params={"a": 1})],
    ids=["POST", "params"],
)
def test_the_response_is_confidential(transport: Transport, serve: Serve, call: Any) -> None:
    server = serve(response(b"no such number +56911122233", status=404))
    with pytest.raises(RtiSmsNotFoundError) as caught:
        transport.perform(server, call)
    assert "56911122233" not in str(caught.value)


def test_a_result_that_repeats_the_token_is_refused(transport: Transport, serve: Serve) -> None:
    server = serve(response({"debug": [{"your token": f"it is {TOKEN}"}]}))
    with pytest.raises(RtiSmsInvalidResponseError) as caught:
        transport.perform(server, endpoints.request("GET", "/new"), max_attempts=1)
    assert TOKEN not in str(caught.value)
