"""The other calls: what they return, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_rtisms.api.errors import REMEDIES, RtiSmsAuthenticationError
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import HttpRequest
from airflow_provider_rtisms.api.values.amounts import parse_amount
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.doctor.checks.check import Check
from airflow_provider_rtisms.doctor.context import (
    REPORT_IT,
    Context,
    Finding,
    differs,
    failed,
    json_object,
    ok,
    unexpected,
)
from airflow_provider_rtisms.doctor.schema import BALANCE, compare, kind

#: Ids that cannot exist. Some servers take the first one for malformed.
IMPOSSIBLE_IDS = ("0", "9" * 16)
_HEADERS = "Headers of every other call"
_TOKEN_REFUSED = f"The server refused its own new token. {REMEDIES[RtiSmsAuthenticationError]}"


def check_balance(ctx: Context) -> Finding:
    """Read the balance, and do not show it."""
    exchange = ctx.authorized(endpoints.get_balance().request)
    if exchange.status != 200:
        raise unexpected(exchange, {401: _TOKEN_REFUSED})
    body = json_object(exchange)
    drift = compare(BALANCE, body)
    if drift.missing:
        return failed(str(drift), "The package cannot read the balance. Open an issue with this report.")
    value = body["balance"]
    try:
        parse_amount(value)
    except ValueError:
        return failed(f"{kind(value)} that is not an amount", "Open an issue with this report.")
    if drift:
        return differs(str(drift))
    return ok("a decimal string")


def check_content_type(ctx: Context) -> Finding:
    """Send a GET without Content-Type."""

    def without_content_type(token: Secret[str]) -> HttpRequest:
        request = endpoints.get_balance().request(token)
        headers = {name: value for name, value in request.headers.items() if name != "Content-Type"}
        return replace(request, headers=headers)

    exchange = ctx.authorized(without_content_type)
    if exchange.status == 200:
        return ok("HTTP 200: the server does not insist on the header")
    if exchange.status in (400, 401, 403, 406, 415):
        return ok(f"HTTP {exchange.status}: the server insists on the header, which the package always sends")
    raise unexpected(exchange)


def check_unknown_token(ctx: Context) -> Finding:
    """Look at the response to a token that does not exist."""
    exchange = ctx.first_contact
    status = exchange.status
    if status == 401:
        if exchange.body:
            return differs(f"HTTP 401 with a body of {len(exchange.body)} bytes")
        return ok("HTTP 401 with an empty body")
    if status == 200:
        return differs("HTTP 200: the server accepts any token", "Check that Host of the Connection points at the API.")
    if ctx.token is None:
        raise unexpected(exchange)
    return failed(
        f"HTTP {status}",
        "The package gets a new token only after a 401, so a wait fails once its token has expired. Open an issue with "
        "this report.",
    )


def check_unknown_id(ctx: Context) -> Finding:
    """Ask for a submission that cannot exist."""
    statuses = []
    for submission_id in IMPOSSIBLE_IDS:
        exchange = ctx.authorized(endpoints.get_sms(submission_id).request)
        statuses.append(exchange.status)
        if exchange.status != 400:
            break
    got = " and ".join(f"HTTP {status}" for status in statuses)
    if statuses[-1] == 404:
        return ok(got)
    if statuses[-1] == 401:
        raise unexpected(exchange, {401: _TOKEN_REFUSED})
    if statuses[-1] == 200:
        remedy = "The package cannot tell an unknown submission from a known one. Open an issue with this report."
        return failed(f"{got}: the server returns a submission that cannot exist", remedy)
    return differs(got, "The package reports unknown ids with another error than usual. " + REPORT_IT)


def check_wrong_method(ctx: Context) -> Finding:
    """Use a method that a path does not have. Neither request can change anything."""
    statuses = []
    for method, path in (("GET", "/api/auth"), ("POST", "/api/balance")):

        def request(token: Secret[str], method: str = method, path: str = path) -> HttpRequest:
            body = b"{}" if method == "POST" else None
            return replace(endpoints.get_balance().request(token), method=method, path=path, body=body)

        status = ctx.authorized(request).status
        if status == 405:
            return ok(f"HTTP 405 to {method} {path}")
        statuses.append(f"HTTP {status} to {method} {path}")
    return differs(" and ".join(statuses), "Nothing: the package never uses another method.")


CHECKS = (
    Check("balance", "a balance that is a decimal string", "Get balance", check_balance, ("access_token",)),
    Check(
        "content_type",
        "a GET without the header Content-Type is refused, or not: the vendor leaves it open",
        _HEADERS,
        check_content_type,
        ("balance",),
    ),
    Check("unknown_token", "HTTP 401 with an empty body for a made-up token", _HEADERS, check_unknown_token, ("http",)),
    Check(
        "unknown_id",
        "HTTP 404 for a submission that does not exist",
        "Get SMS info",
        check_unknown_id,
        ("access_token",),
        steps=2,
    ),
    Check("wrong_method", "HTTP 405 for a wrong method", "Errors", check_wrong_method, ("access_token",), steps=2),
)
