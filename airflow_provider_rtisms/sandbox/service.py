"""
How the API responds to a request: one function for each chapter of its reference.

Nothing here knows of sockets or faults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from reprlib import repr as short_repr
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from airflow_provider_rtisms.sandbox.settings import check_text, read_object
from airflow_provider_rtisms.sandbox.state import DEFAULT, REFUSED_SENDER, State, Text, read_text


class Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Response(NamedTuple):
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})


class RefusedError(Exception):
    """A request is refused with a status other than 200."""

    def __init__(self, status: int, reason: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, reason)
        self.response = text_response(status, reason, headers)


def json_response(payload: object) -> Response:
    body = json.dumps(payload, ensure_ascii=False, default=vars).encode()
    return Response(200, body, {"Content-Type": "application/json; charset=utf-8"})


def text_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8", **(headers or {})})


def locate(path: str) -> tuple[str, str | None]:
    if path.startswith("/api/sms/"):
        return "sms", path.removeprefix("/api/sms/")
    family = path.removeprefix("/api/")
    return (family if path.startswith("/api/") and family in ("auth", "sms", "balance") else "other"), None


def respond(state: State, request: Request) -> Response:
    try:
        return json_response(_respond(state, request))
    except RefusedError as refused:
        return refused.response


def _respond(state: State, request: Request) -> dict[str, Any]:
    family, submission_id = locate(request.path)
    if family == "other":
        raise RefusedError(404, "no such path")
    allowed = "POST" if family == "auth" or (family == "sms" and submission_id is None) else "GET"
    if request.method != allowed:
        raise RefusedError(405, f"{request.method} is not allowed here", {"Allow": allowed})  # RFC 9110, 15.5.6
    if family == "auth":
        return _authenticate(state, request)
    # "Bearer", exactly one space, the token. For anything else the response has an empty body.
    bearer = re.fullmatch(r"Bearer (\S+)", request.headers.get("Authorization", ""))
    if bearer is None or not state.accepts_token(bearer[1]):
        raise RefusedError(401)
    _check_content_type(request.headers, "application/json")
    if family == "balance":
        return {"balance": f"{state.balance:f}"}
    if submission_id is None:
        return _send_sms(state, request.body)
    submission = state.submissions.find(submission_id)
    if submission is None:
        raise RefusedError(404, "no such submission")
    return submission.details(state.now())


def _authenticate(state: State, request: Request) -> dict[str, str]:
    _check_content_type(request.headers, "application/x-www-form-urlencoded")
    try:
        body = request.body.decode("ascii")
        if re.search(r"%(?![0-9A-Fa-f]{2})|\s", body):
            raise ValueError("not form-encoded")
        form = parse_qs(body, strict_parsing=True, errors="strict")
        (grant_type,), (client_id,) = form["grant_type"], form["client_id"]
        (client_secret,) = form["client_secret"]
    except (ValueError, KeyError):
        raise RefusedError(400, "grant_type, client_id and client_secret are needed, form-encoded") from None
    if grant_type != "client_credentials":
        raise RefusedError(400, "grant_type must be client_credentials")
    if (client_id, client_secret) != (state.settings.client_id, state.settings.client_secret):
        raise RefusedError(401, "wrong credentials")
    lifetime = state.settings.token_lifetime
    seconds = int(lifetime) if lifetime == int(lifetime) else lifetime
    return {"access_token": state.issue_token(), "validity_period": str(seconds)}


def _check_content_type(headers: Mapping[str, str], expected: str) -> None:
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != expected:
        raise RefusedError(400, f"the header Content-Type must be {expected}")


def _send_sms(state: State, body: bytes) -> dict[str, Any]:
    try:
        fields = read_object(body)
        recipients = _read_recipients(fields.get("recipients"))
        sender = check_text("sender", fields.get("sender"))
        text = _read_message(fields.get("message"))
    except ValueError as error:
        raise RefusedError(400, str(error)) from None
    if sender == REFUSED_SENDER or not re.fullmatch(r"[A-Za-z0-9]{1,11}", sender):
        raise RefusedError(406, "the sender is malformed or not allowed")
    messages = state.send(recipients, sender, text)
    ids = [{} if one.submission_id is None else {"submissionId": one.submission_id} for one in messages]
    return {"submissions": [{"status": message.status, **known} for message, known in zip(messages, ids, strict=True)]}


def _read_recipients(recipients: object) -> list[str]:
    if not isinstance(recipients, list) or not recipients:
        raise ValueError(f"recipients must be a list that is not empty, not {short_repr(recipients)}")
    for position, value in enumerate(recipients):
        if not isinstance(value, str) or not re.fullmatch(r"\+[0-9]{8,15}", value):
            raise ValueError(f"recipients[{position}] must be + and 8 to 15 digits, not {short_repr(value)}")
    return recipients


def _read_message(message: object) -> Text:
    if not isinstance(message, dict):
        raise ValueError(f"message must be an object, not {short_repr(message)}")
    encoded = check_text("message.text", message.get("text"))
    charset = message.get("charset")
    if charset in (None, ""):
        charset = DEFAULT
    if type(charset) is not int:
        raise ValueError(f"message.charset must be a number, not {short_repr(charset)}")
    return read_text(charset, encoded)
