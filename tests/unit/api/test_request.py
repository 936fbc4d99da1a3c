"""Calls that the package does not know: which arguments are accepted; token, retries and errors as for other calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_rtisms.api import endpoints
from airflow_provider_rtisms.api.errors import RtiSmsInputError, RtiSmsInvalidResponseError, RtiSmsNotFoundError
from airflow_provider_rtisms.api.values.recipients import Recipient
from tests.hostile import TOKEN, response
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.mark.parametrize("content", [{"a": [1, None]}, [], "text", 1.5, True, None])
def test_the_result_is_the_decoded_json(transport: Transport, serve: Serve, content: Any) -> None:
    server = serve(response(content))
    assert transport.perform(server, endpoints.request("GET", "/new")) == content
    assert server.calls[0].header("Authorization") == f"Bearer {TOKEN}"


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
def test_a_path_is_one_below_the_api(path: str, sent: str) -> None:
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
def test_a_path_that_leaves_the_api_is_refused(path: Any) -> None:
    with pytest.raises(RtiSmsInputError, match="path is"):
        endpoints.request("GET", path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("method", one) for one in ("", "HEAD", "CONNECT", "GET ", "GET\r\nX: y", "TRACE", None, 1)),
        *(
            ("params", one)
            for one in ("a=b", [("a", "b")], {1: "a"}, {"": "a"}, {"a": {}}, {"a": b"b"}, {"a": "\ud800"})
        ),
        *(("json", one) for one in ({"a": {1, 2}}, float("nan"), b"x", object())),
        ("idempotent", "no"),
    ],
)
def test_any_other_argument_is_refused_by_its_name(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"method": "POST", "path": "/x", name: value}
    with pytest.raises(RtiSmsInputError, match=name):
        endpoints.request(**arguments)


def test_a_query_is_encoded_and_confidential() -> None:
    params = {"q": "a&b=c#d é+", "n": [1, 2.5], "yes": True, "to": Recipient("+56911122233"), "none": None}
    call = endpoints.request("get", "/search", params=params)
    assert call.path == "/api/search?q=a%26b%3Dc%23d+%C3%A9%2B&n=1&n=2.5&yes=true&to=%2B56911122233"
    assert "56911122233" not in f"{call} {call!r}".replace(call.path, "")


@pytest.mark.parametrize(
    ("method", "idempotent", "is_idempotent"),
    [("GET", None, True), ("GET", False, False), ("POST", None, False), ("POST", True, True), ("DELETE", None, False)],
)
def test_a_get_is_idempotent_unless_the_caller_says_otherwise(
    method: str, idempotent: bool | None, is_idempotent: bool
) -> None:
    call = endpoints.request(method, "/x", idempotent=idempotent)
    assert call.idempotent is is_idempotent
    assert call.is_confidential is not is_idempotent


def test_the_body_is_json() -> None:
    call = endpoints.request("POST", "/x", json={"text": "é", "none": None})
    assert json.loads(call.body or b"") == {"text": "é", "none": None}
    assert call.content_type == "application/json"


def test_a_number_in_a_path_is_masked() -> None:
    assert str(endpoints.request("GET", "/lookup/56911122233")) == "request GET /api/lookup/***233"
