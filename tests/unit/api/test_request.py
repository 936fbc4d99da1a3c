"""Calls that the package does not know: which arguments are accepted; token, retries and errors as for other calls."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from airflow_provider_rtisms.api import endpoints
from airflow_provider_rtisms.api.errors import (
    RtiSmsInputError,
    RtiSmsInvalidResponseError,
    RtiSmsNotFoundError,
)
from airflow_provider_rtisms.api.values.recipients import Recipient
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


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        *(("/balance", "/api/balance"), ("/api/balance", "/api/balance")),
        ("/sms/4193366853543393", "/api/sms/4193366853543393"),
        *(("/a-b/c_d/e.f/~g/", "/api/a-b/c_d/e.f/~g/"), ("/apis", "/api/apis"), ("balance", "/api/balance")),
        ("api/balance", "/api/balance"),
    ],
)
def test_paths(path: str, sent: str) -> None:
    assert endpoints.request("GET", path).path == sent


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "api", "/api", "/api/", "//evil.example/x", "https://evil.example/balance", "/a//b", "/api//b"),
        *("/..", "/../x", "/a/../b", "/api/../x", "/a/.", "/./a", "/a/%2e%2e/b", "/a%2Fb", "/a?b=c", "/a#b", "/a;b"),
        *("/a b", "/a\r\nHost: evil", "/a\n", "/a\t", "/a\\b", "\\a", "/a@evil", "/a:80", "/ñ", "/a\x00", "/a\u2028"),
        *("/auth", "/api/auth", "/AUTH", "/auth/", "/auth/x", None, 1, b"/balance", ["/balance"]),
    ],
)
def test_paths_that_leave_the_api(path: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="path is"):
        endpoints.request("GET", path)


@pytest.mark.parametrize("method", ["", "HEAD", "CONNECT", "GET ", "GET\r\nX: y", "TRACE", None, 1])
def test_methods_that_are_not_known(method: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="method is"):
        endpoints.request(method, "/balance")


def test_a_query_is_encoded() -> None:
    params = {"q": "a&b=c#d é+", "n": [1, 2.5], "yes": True, "to": Recipient("+56911122233"), "none": None}
    call = endpoints.request("get", "/search", params=params)
    assert call.path == "/api/search?q=a%26b%3Dc%23d+%C3%A9%2B&n=1&n=2.5&yes=true&to=%2B56911122233"
    assert "56911122233" not in f"{call} {call!r}".replace(call.path, "")


@pytest.mark.parametrize("params", ["a=b", [("a", "b")], {1: "a"}, {"": "a"}, {"a": {}}, {"a": b"b"}, {"a": "\ud800"}])
def test_queries_that_cannot_be_encoded(params: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="params"):
        endpoints.request("GET", "/search", params=params)


@pytest.mark.parametrize("value", [{"a": {1, 2}}, float("nan"), b"x", object()])
def test_bodies_that_json_cannot_hold(value: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="json is"):
        endpoints.request("POST", "/x", json=value)


@pytest.mark.parametrize(
    ("method", "idempotent", "is_idempotent"),
    [("GET", None, True), ("GET", False, False), ("POST", None, False), ("POST", True, True), ("DELETE", None, False)],
)
def test_what_is_idempotent(method: str, idempotent: bool | None, is_idempotent: bool) -> None:
    call = endpoints.request(method, "/x", idempotent=idempotent)
    assert call.idempotent is is_idempotent
    assert call.is_confidential is not is_idempotent


def test_idempotent_is_a_flag() -> None:
    with pytest.raises(RtiSmsInputError, match="idempotent is"):
        endpoints.request("GET", "/x", idempotent="no")  # type: ignore[arg-type]


def test_the_body_is_json() -> None:
    call = endpoints.request("POST", "/x", json={"text": "é", "none": None})
    assert call.body is not None
    assert json.loads(call.body) == {"text": "é", "none": None}
    assert call.content_type == "application/json"


def test_a_number_in_a_path_is_masked() -> None:
    assert str(endpoints.request("GET", "/lookup/56911122233")) == "request GET /api/lookup/***233"
