"""How fast the API is, and what it says about connections and limits."""

from __future__ import annotations

import re
import time
from statistics import median

from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.doctor.checks.check import Check
from airflow_provider_rtisms.doctor.context import (
    Context,
    Finding,
    ProblemError,
    differs,
    milliseconds,
    ok,
    safe_name,
    unexpected,
)

#: How many calls are timed.
TIMED_CALLS = 10
#: Seconds. A median above it makes bulk fetches slow.
SLOW = 2.0
_OPEN = "What the vendor leaves open"
_LIMIT_HEADERS = re.compile(r"(x-)?(rate-?limit|quota|throttl)[a-z-]*|retry-after", re.IGNORECASE)


def check_latency(ctx: Context) -> Finding:
    """Time some calls, one after the other, and estimate the capacity of a bulk fetch."""
    request = endpoints.get_balance().request
    give_up_at = time.monotonic() + ctx.options.timeout
    for _ in range(TIMED_CALLS):
        try:
            exchange = ctx.authorized(request)
        except ProblemError as problem:
            if problem.kind == "HTTP 429" and ctx.timed:
                return differs(
                    f"HTTP 429 after {len(ctx.timed)} calls in a row",
                    "The account has a low threshold. Set extra 'requests_per_second' of the Connection below it.",
                )
            raise
        if exchange.status != 200:
            raise unexpected(exchange)
        ctx.timed.append(exchange)
        if time.monotonic() > give_up_at:
            break
    times = [exchange.seconds for exchange in ctx.timed]
    middle = median(times)
    got = (
        f"{len(times)} calls: min {milliseconds(min(times))}, median {milliseconds(middle)}, "
        f"max {milliseconds(max(times))}. {_capacity(ctx, middle)}"
    )
    if middle > SLOW:
        return differs(got, "Bulk fetches and waits take long. Check the network, then ask RealTime.")
    return ok(got)


def _capacity(ctx: Context, seconds: float) -> str:
    concurrent = ctx.settings.max_concurrency
    rate = concurrent / max(seconds, 1e-6)
    limit = ctx.settings.requests_per_second
    limited = limit is not None and limit < rate
    rate = limit if limit is not None and limited else rate
    reason = "requests_per_second allows" if limited else f"{concurrent} requests at once give"
    return (
        f"{reason} at most {_rounded(rate)} a second, {_rounded(rate * 3600)} submissions an hour, if this machine is "
        "fast enough"
    )


def _rounded(number: float) -> str:
    """Return a number with two significant digits, since it is an estimate."""
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 1 else f"{number:.2g}"


def check_keep_alive(ctx: Context) -> Finding:
    """See whether the server keeps connections open."""
    version = ctx.timed[-1].version
    ports = {exchange.port for exchange in ctx.timed}
    count = len(ctx.timed)
    if None not in ports and len(ports) < max(2, count):
        return ok(f"{version}; {count} calls used {len(ports)} {'connection' if len(ports) == 1 else 'connections'}")
    return ok(
        f"{version}; the server or a proxy closes each connection after one call",
        "Each call needs a new connection, which costs time. Ask for keep-alive if bulk fetches are too slow.",
    )


def check_rate_limit(ctx: Context) -> Finding:
    """Look for headers that say how much an account may call."""
    found: dict[str, str] = {}
    for exchange in ctx.exchanges:
        for name, value in exchange.headers.items():
            if _LIMIT_HEADERS.fullmatch(name):
                found[safe_name(name)] = value if re.fullmatch(r"[0-9]{1,6}", value) else "(not shown)"
    if not found:
        return ok("no headers about limits")
    return ok(
        ", ".join(f"{name}: {value}" for name, value in found.items()),
        "Set extra 'requests_per_second' of the Connection so that bulk fetches stay below the limit.",
    )


CHECKS = (
    Check(
        "latency",
        f"a median of {SLOW:g} s or less; the vendor promises nothing",
        _OPEN,
        check_latency,
        ("balance",),
        steps=2,
    ),
    Check(
        "keep_alive",
        "HTTP/1.1 and open connections; the vendor promises nothing",
        _OPEN,
        check_keep_alive,
        ("latency",),
    ),
    Check("rate_limit", "no documented limits", _OPEN, check_rate_limit, ("http",)),
)
