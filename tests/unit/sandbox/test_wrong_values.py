"""Values of a wrong JSON type, and values that are too large or not text: each is a 400 that names the field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.patience import PATIENCE

if TYPE_CHECKING:
    from tests.unit.sandbox.conftest import Api

VALUES: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "whole number": 5,
    "fraction": 1.5,
    "string": "x",
    "list": [],
    "object": {},
}
NUMBER = {"whole number", "fraction"}
#: Each field of the control calls, and the values above that are valid in it.
CONTROL_FIELDS: dict[tuple[str, str], set[str]] = {
    ("faults", "faults"): {"list"},
    ("credentials", "client_id"): {"string"},
    ("credentials", "client_secret"): {"string"},
    ("balance", "balance"): set(),
    ("timing", "token_lifetime"): NUMBER,
    ("timing", "pending_for"): NUMBER,
    ("timing", "sent_for"): NUMBER,
    ("submissions", "submission_id"): {"null"},
    ("submissions", "status"): {"string"},
    ("submissions", "pending_for"): {"null", *NUMBER},
    ("submissions", "sent_for"): {"null", *NUMBER},
    ("submissions", "cost"): NUMBER,
    ("reset", "client_id"): {"string"},
    ("reset", "client_secret"): {"string"},
    ("reset", "token_lifetime"): NUMBER,
    ("reset", "pending_for"): NUMBER,
    ("reset", "sent_for"): NUMBER,
    ("reset", "seed"): {"whole number"},
    ("reset", "balance"): set(),
    ("reset", "faults"): {"list"},
}
FAULT_FIELDS: dict[str, set[str]] = {
    "kind": set(),
    "probability": set(),
    "times": {"null", "whole number"},
    "path": {"null"},
    "method": {"null"},
    "seconds": NUMBER,
    "statuses": {"null"},
    "per_second": NUMBER,
    "retry_after": {"null", "string", *NUMBER},
}
#: Each field of a send call. A message without a text has no valid value in it.
SEND_FIELDS: dict[str, set[str]] = {
    "recipients": set(),
    "recipients[0]": set(),
    "sender": {"string"},
    "message": set(),
    "message.text": {"string"},
    "message.charset": {"null"},
}
#: JSON that no field takes, whatever its type.
EXTREMES = {
    "negative": "-1",
    "not a number": "NaN",
    "infinite": "Infinity",
    "beyond a float": "1" + "0" * 400,
    "many digits": "1" * 5000,
    "half a character": r'"\ud800"',
    "nested": "[" * 500 + "]" * 500,
}


def call(api: Api, name: str, body: str) -> requests.Response:
    return requests.post(f"{api.sandbox.url}/sandbox/{name}", data=body.encode(), timeout=PATIENCE)


def check(api: Api, response: requests.Response, status: int, field: str) -> None:
    """Check the response, and that the sandbox still works."""
    assert response.status_code == status, response.text
    assert status == 200 or field in response.text
    assert requests.get(f"{api.sandbox.url}/sandbox/state", timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(("name", "field"), CONTROL_FIELDS)
def test_a_field_of_a_control_call(api: Api, name: str, field: str, kind: str) -> None:
    response = call(api, name, json.dumps({field: VALUES[kind]}))
    check(api, response, 200 if kind in CONTROL_FIELDS[name, field] else 400, field)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("field", FAULT_FIELDS)
def test_a_field_of_a_fault(api: Api, field: str, kind: str) -> None:
    response = call(api, "faults", json.dumps({"faults": [{"kind": "error", field: VALUES[kind]}]}))
    check(api, response, 200 if kind in FAULT_FIELDS[field] else 400, field)


@pytest.mark.parametrize("kind", [kind for kind in VALUES if kind != "object"])
@pytest.mark.parametrize("name", ["faults", "reset"])
def test_a_fault_that_is_no_object(api: Api, name: str, kind: str) -> None:
    check(api, call(api, name, json.dumps({"faults": [VALUES[kind]]})), 400, "faults")


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize(("name", "field"), CONTROL_FIELDS)
def test_an_extreme_value_in_a_control_call(api: Api, name: str, field: str, extreme: str) -> None:
    response = call(api, name, f'{{"{field}": {EXTREMES[extreme]}}}')
    check(api, response, 400, "body" if extreme == "many digits" else field)


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("field", FAULT_FIELDS)
def test_an_extreme_value_in_a_fault(api: Api, field: str, extreme: str) -> None:
    response = call(api, "faults", f'{{"faults": [{{"kind": "error", "{field}": {EXTREMES[extreme]}}}]}}')
    check(api, response, 400, "body" if extreme == "many digits" else field)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("submissions", {"submission_id": "1" * 5000}),
        ("balance", {"balance": "1e999999999"}),
        ("balance", {"balance": "1" * 5000}),
        ("reset", {"balance": "NaN"}),
        ("faults", {"faults": [{"kind": "error", "retry_after": "1\r\nX-More: 1"}]}),
        ("faults", {"faults": [{"kind": "error", "statuses": [500, "x"]}]}),
        ("faults", {"faults": [{"kind": "error", "statuses": [True]}]}),
        ("faults", {"faults": [{"times": 1}]}),
        ("faults", {"faults": [{"kind": "error", "colour": "red"}]}),
        ("submissions", {"colour": "red"}),
        ("reset", {"self": 1}),
        ("tokens/revoke", {"colour": "red"}),
    ],
)
def test_an_unknown_or_missing_field_and_a_long_value(api: Api, name: str, body: dict[str, Any]) -> None:
    *_, field = body["faults"][0] if "faults" in body else body
    check(api, call(api, name, json.dumps(body)), 400, "kind" if field == "times" else field)


@pytest.mark.parametrize("body", ["{", "5", "null", '"x"', "[]", "[" * 100_000, '{"balance": 1' + "0" * 5000 + "}"])
def test_a_body_that_is_no_json_object(api: Api, body: str) -> None:
    for name in ("faults", "balance", "submissions", "reset", "tokens/revoke"):
        check(api, call(api, name, body), 400, "body")
    check(api, api.request("POST", "sms", headers=api.headers, data=body), 400, "body")


@pytest.mark.parametrize("value", [*VALUES, *EXTREMES])
@pytest.mark.parametrize("field", SEND_FIELDS)
def test_a_field_of_a_send_call(api: Api, field: str, value: str) -> None:
    fields = {
        "recipients": '["+56900000000"]',
        "recipients[0]": '"+56900000000"',
        "sender": '"96000"',
        "message.text": '"hi"',
        "message.charset": "0",
        "message": '{"text": "hi"}',
    }
    fields[field] = json.dumps(VALUES[value]) if value in VALUES else EXTREMES[value]
    if field == "recipients[0]":
        fields["recipients"] = f"[{fields[field]}]"
    if field.startswith("message."):
        fields["message"] = f'{{"text": {fields["message.text"]}, "charset": {fields["message.charset"]}}}'
    body = ", ".join(f'"{name}": {fields[name]}' for name in ("recipients", "sender", "message"))
    response = api.request("POST", "sms", headers=api.headers, data=f"{{{body}}}")
    status = 200 if value in SEND_FIELDS[field] else 400
    check(api, response, status, "body" if value == "many digits" else field)
