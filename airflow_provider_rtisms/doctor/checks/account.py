"""POST /auth: whether the credentials are accepted, and what the response holds."""

from __future__ import annotations

import secrets
from dataclasses import replace

from airflow_provider_rtisms.api.errors import REMEDIES, RtiSmsAuthenticationError, RtiSmsError, RtiSmsUnsafeTokenError
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.values.lists import name_some
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.doctor.checks.check import Check
from airflow_provider_rtisms.doctor.context import (
    REPORT_IT,
    Context,
    Finding,
    differs,
    failed,
    json_object,
    milliseconds,
    ok,
    skipped,
    unexpected,
)
from airflow_provider_rtisms.doctor.schema import GRANT, NAMED, compare, kind

_REMEDY = REMEDIES[RtiSmsAuthenticationError]


def check_authentication(ctx: Context) -> Finding:
    """Get a token."""
    exchange = ctx.send(endpoints.authenticate(ctx.settings).request())
    if exchange.status in (400, 401):
        remedy = f"{_REMEDY} {ctx.settings.odd_credentials() or 'A client secret that was replaced no longer works.'}"
        return failed(f"the server refused the credentials: HTTP {exchange.status}", remedy)
    if exchange.status != 200:
        raise unexpected(exchange)
    ctx.grant = json_object(exchange)
    got = f"accepted in {milliseconds(exchange.seconds)}"
    drift = compare(GRANT, ctx.grant)
    if drift.unknown and not drift.missing:  # a renamed field is reported by the check that misses it
        return differs(f"{got}; unknown fields: {name_some(drift.unknown, limit=NAMED)}")
    return ok(got)


def check_access_token(ctx: Context) -> Finding:
    """Look at the form of the token."""
    if "access_token" not in ctx.grant:
        return failed(f"missing{_instead(ctx)}", REMEDIES[RtiSmsUnsafeTokenError])
    token = ctx.grant["access_token"]
    if not isinstance(token, str) or not token:
        what = "an empty string" if token == "" else kind(token)
        return failed(f"{what}, not a token", REMEDIES[RtiSmsUnsafeTokenError])
    ctx.secrets.append(Secret(token))
    try:
        endpoints.authenticate(ctx.settings).parse(ctx.grant)
    except RtiSmsError as error:
        return failed("the token holds characters that a header must not contain", REMEDIES.get(type(error), REPORT_IT))
    ctx.token = Secret(token)
    return ok(f"a string of {len(token)} characters")


def check_validity_period(ctx: Context) -> Finding:
    """Look at the validity of the token."""
    if "validity_period" not in ctx.grant:
        return differs(f"missing{_instead(ctx)}. The package assumes a validity, and gets a new token after a 401")
    value = ctx.grant["validity_period"]
    try:
        seconds = endpoints.authenticate(ctx.settings).parse({**ctx.grant, "access_token": "any"}).validity
    except RtiSmsError:
        seconds = None
    if seconds is None:
        return differs(
            f"{kind(value)} that is not a number of seconds. The package assumes a validity, and gets a new token "
            "after a 401"
        )
    got = f"{kind(value)}: {seconds:g} s"
    if not isinstance(value, str):
        return differs(got)
    if seconds < 60:
        return differs(f"{got}. So short a validity means many requests for tokens", "Ask RealTime for a longer one.")
    return ok(got)


def _instead(ctx: Context) -> str:
    unknown = compare(GRANT, ctx.grant).unknown
    return f"; unknown fields: {name_some(unknown, limit=NAMED)}" if unknown else ""


def check_wrong_secret(ctx: Context) -> Finding:
    """Authenticate with a wrong secret."""
    if not ctx.options.probe_credentials:
        return skipped("not asked for: --probe-credentials does it. It may count against the account")
    settings = replace(ctx.settings, client_secret=Secret(f"doctor-{secrets.token_hex(16)}"))
    exchange = ctx.send(endpoints.authenticate(settings).request())
    if exchange.status in (400, 401):
        return ok(f"refused with HTTP {exchange.status}")
    if exchange.status == 200:
        return failed("a wrong secret was accepted", "Check that Host of the Connection points at the API.")
    return differs(f"refused with HTTP {exchange.status}")


CHECKS = (
    Check(
        "authentication",
        "HTTP 200, with a JSON object of access_token and validity_period",
        "Authenticate",
        check_authentication,
        ("tls",),
    ),
    Check("access_token", "a string without spaces", "Authenticate", check_access_token, ("authentication",)),
    Check("validity_period", "a string of seconds", "Authenticate", check_validity_period, ("authentication",)),
)
PROBES = (
    Check(
        "wrong_secret", "HTTP 400 or 401 for a wrong secret", "Authenticate", check_wrong_secret, ("authentication",)
    ),
)
