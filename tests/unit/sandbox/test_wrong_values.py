"""Values of a wrong JSON type, and values that are too large or not text: each is a 400 that names the field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.patience import PATIENCE

if TYPE_CHECKING:
    from tests.unit.sandbox.conftest import Api

NUMBER, TEXT, LIST, NULL = frozenset({"5", "1.5"}), frozenset({'"x"'}), frozenset({"[]"}), frozenset({"null"})
NOTHING: frozenset[str] = frozenset()
#: Values of each type, and JSON that no field takes, whatever its type.
TYPES = {"null", "true", "5", "1.5", '"x"', "[]", "{}"}
EXTREMES = {"-1", "NaN", "Infinity", "1" + "0" * 400, "1" * 5000, r'"\ud800"', "[" * 500 + "]" * 500}
TIMES = ("token_lifetime", "pending_for", "sent_for")
#: Which of these each field takes: fields of the control calls, of a fault, and of a send call (sms).
FIELDS: dict[str, frozenset[str]] = {
    **dict.fromkeys(["balance balance", "reset balance", "fault kind", "fault probability"], NOTHING),
    **dict.fromkeys(["sms recipients", "sms recipients[0]", "sms message"], NOTHING),
    **dict.fromkeys(["credentials client_id", "credentials client_secret", "submissions status"], TEXT),
    **dict.fromkeys(["reset client_id", "reset client_secret", "sms sender", "sms message.text"], TEXT),
    **dict.fromkeys(["faults faults", "reset faults"], LIST),
    **dict.fromkeys(["submissions submission_id", "sms message.charset"], NULL),
    **dict.fromkeys(["fault path", "fault method", "fault statuses"], NULL),
    **dict.fromkeys([f"{call} {name}" for call in ("timing", "reset") for name in TIMES], NUMBER),
    **dict.fromkeys(["submissions cost", "fault seconds", "fault per_second"], NUMBER),
    **dict.fromkeys(["submissions pending_for", "submissions sent_for"], NUMBER | NULL),
    **{
        "reset seed": frozenset({"5"}),
        "seed seed": frozenset({"5"}),
        "fault times": NULL | {"5"},
        "fault retry_after": NULL | TEXT | NUMBER,
    },
}
SMS = {"recipients": ["+56900000000"], "sender": "96000", "message": {"text": "hi", "charset": 0}}


def body_with(call: str, field: str, value: str) -> str:
    """Return the body of a valid call, with one value replaced."""
    if call == "fault":
        return f'{{"faults": [{{"kind": "error", "{field}": {value}}}]}}'
    body: Any = {field: "?"}
    if call == "sms":
        inner = field.removeprefix("message.")
        body = {"recipients": ["?"]} if field == "recipients[0]" else body
        body = {**SMS, **(body if inner == field else {"message": {"text": "hi", inner: "?"}})}
    return json.dumps(body).replace('"?"', value)


def refuses(api: Api, call: str, body: str, field: str, accepted: bool = False) -> None:
    """The response names the field, and the sandbox still works."""
    if call == "sms":
        response = api.request("POST", "sms", headers=api.headers, data=body)
    else:
        name = "faults" if call == "fault" else call
        response = requests.post(f"{api.sandbox.url}/sandbox/{name}", data=body.encode(), timeout=PATIENCE)
    assert response.status_code == (200 if accepted else 400), (body[:100], response.text)
    assert accepted or field in response.text
    assert requests.get(f"{api.sandbox.url}/sandbox/state", timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_takes_only_values_of_its_type(api: Api, field: str) -> None:
    call, name = field.split()
    for value in sorted(TYPES | EXTREMES):
        named = "body" if value == "1" * 5000 else name
        refuses(api, call, body_with(call, name, value), named, accepted=value in FIELDS[field])
        api.sandbox.reset()
        api._token = None


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        *[(call, '{"faults": [5]}', "faults") for call in ("faults", "reset")],
        ("submissions", {"submission_id": "1" * 5000}, "submission_id"),
        ("balance", {"balance": "1e999999999"}, "balance"),
        ("balance", {"balance": "1" * 5000}, "balance"),
        ("reset", {"balance": "NaN"}, "balance"),
        ("faults", {"faults": [{"kind": "error", "retry_after": "1\r\nX-More: 1"}]}, "retry_after"),
        ("faults", {"faults": [{"kind": "error", "statuses": [500, "x"]}]}, "statuses"),
        ("faults", {"faults": [{"kind": "error", "statuses": [True]}]}, "statuses"),
        ("faults", {"faults": [{"times": 1}]}, "kind"),
        ("faults", {"faults": [{"kind": "error", "colour": "red"}]}, "colour"),
        ("submissions", {"colour": "red"}, "colour"),
        ("reset", {"self": 1}, "self"),
        ("tokens/revoke", {"colour": "red"}, "colour"),
    ],
)
def test_an_unknown_or_missing_field_and_a_long_value(api: Api, call: str, body: Any, field: str) -> None:
    refuses(api, call, body if isinstance(body, str) else json.dumps(body), field)


@pytest.mark.parametrize("body", ["{", "5", "null", '"x"', "[]", "[" * 100_000, '{"balance": 1' + "0" * 5000 + "}"])
def test_a_body_that_is_no_json_object(api: Api, body: str) -> None:
    for call in ("faults", "balance", "submissions", "reset", "tokens/revoke", "sms"):
        refuses(api, call, body, "body")
