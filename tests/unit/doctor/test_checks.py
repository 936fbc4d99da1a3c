"""What each check says of each response, without sockets. ``test_deviations.py`` runs them all against a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsConnectError, RtiSmsInputError, RtiSmsTimeoutError
from airflow_provider_rtisms.api.policy.perform import TransportError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.recipients import parse_recipients
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.doctor.checks import account, api, network, sending, speed, submission
from airflow_provider_rtisms.doctor.context import Context, Finding, Options, ProblemError, milliseconds, safe_name
from airflow_provider_rtisms.doctor.exchange import Exchange, Prober
from airflow_provider_rtisms.doctor.runner import diagnose
from airflow_provider_rtisms.doctor.schema import BALANCE, DETAILS, compare, kind
from airflow_provider_rtisms.sandbox import Fault, Sandbox

Check = Callable[[Context], Finding]
NOW = 1_600_000_000.0
OPTIONS = ("submission_id", "probe_credentials", "follow_for", "send_to", "sender")


def exchange(
    status: int = 200, body: Any = b"", *, seconds: float = 0.25, port: int | None = 7, **headers: str
) -> Exchange:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Exchange(status, named, content, "HTTP/1.1", seconds, NOW, port)


def context(*responses: Exchange | Exception, grant: dict[str, Any] | None = None, **settings: Any) -> Context:
    """Return the state of a run whose requests get these responses."""
    options = {name: settings.pop(name) for name in list(settings) if name in OPTIONS}
    values = {"client_id": "me", "client_secret": Secret("s3cret"), "base_url": "http://127.0.0.1:1", **settings}
    ctx = Context(lambda: ApiSettings(**values), Options(timeout=1.0, **options))
    ctx.token = Secret("token")
    ctx.grant = grant or {}
    script = iter(responses)

    def send(request: Any) -> Exchange:
        response = next(script)
        if isinstance(response, Exception):
            raise response
        return response

    ctx.__dict__["prober"] = SimpleNamespace(send=send, pause=0.0)
    return ctx


def found(check: Check, ctx: Context) -> str:
    """Return what a check finds: its outcome, or the kind of the problem, and what came."""
    try:
        finding = check(ctx)
        outcome, got, remedy = f"{finding.outcome}:", finding.got, finding.remedy
    except ProblemError as problem:
        outcome, got, remedy = f"{problem.kind}!", problem.got, problem.remedy
    assert remedy or outcome in ("ok:", "skipped:")
    return f"{outcome} {got}"


GRANT = {"access_token": "abc", "validity_period": "3600"}
INFO = {
    "id": "1",
    "timestamps": {"registered": 1, "sent": 2, "done": 3},
    "info": {
        "status": {"code": "1", "status": "DELIVERED"},
        "cost": 1,
        "operator": {"id": "1", "name": "x", "mcc": "730", "mnc": "01"},
    },
}
OPEN = {
    **INFO,
    "timestamps": {"registered": 1, "sent": None},
    "info": {**INFO["info"], "status": {"code": "0", "status": "PENDING"}},  # type: ignore[dict-item]
}
html = exchange(200, b" <html>", Content_Type="text/html")


@pytest.mark.parametrize(
    ("check", "responses", "expected"),
    [
        # Context.send: what no check wants to see
        (
            api.check_balance,
            [exchange(301, Location="https://else.example/x?y")],
            "redirect! HTTP 301, a redirect to else.example",
        ),
        (api.check_balance, [exchange(299)], "HTTP 299! HTTP 299"),
        (api.check_balance, [exchange(300)], "redirect! HTTP 300, a redirect"),
        (api.check_balance, [exchange(399, Location="https://a b/")], "redirect! HTTP 399, a redirect"),
        (api.check_balance, [exchange(407)], "proxy! the proxy refused the request: HTTP 407"),
        (api.check_balance, [exchange(429)], "HTTP 429! HTTP 429: too many requests"),
        (api.check_balance, [exchange(500)], "HTTP 500! HTTP 500: an error of the server"),
        (api.check_balance, [exchange(503)], "HTTP 503! HTTP 503: an error of the server"),
        (api.check_balance, [exchange(499)], "HTTP 499! HTTP 499"),
        (api.check_balance, [html], "web page! a web page (HTML) with HTTP 200, not JSON"),
        (
            api.check_balance,
            [exchange(200, b"Log in", Content_Type="TEXT/HTML")],
            "web page! a web page (HTML) with HTTP 200, not JSON",
        ),
        (
            api.check_balance,
            [exchange(200, b"[", Content_Type="text/plain")],
            "not JSON! HTTP 200 with something that is not JSON",
        ),
        (api.check_balance, [exchange(200, [1])], "not JSON! HTTP 200 with JSON that is not an object (a list)"),
        (api.check_balance, [exchange(200, {"balance": "1"}, Content_Type="text/html")], "ok: a decimal string"),
        (api.check_balance, [exchange(200, "\ufeff{}".encode())], "failed: missing fields: balance"),
        # the balance
        (api.check_balance, [exchange(401)], "HTTP 401! HTTP 401"),
        (api.check_balance, [exchange(200, {"balance": None})], "failed: null that is not an amount"),
        (
            api.check_balance,
            [exchange(200, {"balance": 1.5})],
            "differs: fields of another type: balance (a number, not a string)",
        ),
        # the header Content-Type
        (api.check_content_type, [exchange(200, {})], "ok: HTTP 200: the server does not insist on the header"),
        *(
            (
                api.check_content_type,
                [exchange(status)],
                f"ok: HTTP {status}: the server insists on the header, which the package always sends",
            )
            for status in (400, 401, 403, 406, 415)
        ),
        (api.check_content_type, [exchange(404)], "HTTP 404! HTTP 404"),
        # tokens and ids that do not exist
        (api.check_unknown_token, [exchange(401)], "ok: HTTP 401 with an empty body"),
        (api.check_unknown_token, [exchange(401, b"no")], "differs: HTTP 401 with a body of 2 bytes"),
        (api.check_unknown_token, [exchange(200, {})], "differs: HTTP 200: the server accepts any token"),
        (api.check_unknown_token, [exchange(403)], "failed: HTTP 403"),
        (api.check_unknown_id, [exchange(404)], "ok: HTTP 404"),
        (api.check_unknown_id, [exchange(400), exchange(404)], "ok: HTTP 400 and HTTP 404"),
        (api.check_unknown_id, [exchange(400), exchange(400)], "differs: HTTP 400 and HTTP 400"),
        (api.check_unknown_id, [exchange(401)], "HTTP 401! HTTP 401"),
        (
            api.check_unknown_id,
            [exchange(200, {})],
            "failed: HTTP 200: the server returns a submission that cannot exist",
        ),
        (api.check_wrong_method, [exchange(405)], "ok: HTTP 405 to GET /api/auth"),
        (api.check_wrong_method, [exchange(404), exchange(405)], "ok: HTTP 405 to POST /api/balance"),
        (
            api.check_wrong_method,
            [exchange(404), exchange(400)],
            "differs: HTTP 404 to GET /api/auth and HTTP 400 to POST /api/balance",
        ),
        # authentication
        (account.check_authentication, [exchange(200, GRANT)], "ok: accepted in 250 ms"),
        (account.check_authentication, [exchange(200, GRANT, seconds=12)], "ok: accepted in 12.0 s"),
        (
            account.check_authentication,
            [exchange(200, {**GRANT, "x": 1})],
            "differs: accepted in 250 ms; unknown fields: x",
        ),
        (account.check_authentication, [exchange(200, {"access_token": "a", "x": 1})], "ok: accepted in 250 ms"),
        (account.check_authentication, [exchange(400)], "failed: the server refused the credentials: HTTP 400"),
        (account.check_authentication, [exchange(401)], "failed: the server refused the credentials: HTTP 401"),
        (account.check_authentication, [exchange(403)], "HTTP 403! HTTP 403"),
        (
            account.check_wrong_secret,
            [],
            "skipped: not asked for: --probe-credentials does it. It may count against the account",
        ),
        # the API itself
        (network.check_http, [exchange(401, seconds=0.5)], "ok: HTTP 401 to a request with a made-up token, in 500 ms"),
        (
            network.check_http,
            [TransportError(RtiSmsTimeoutError, "no response in 1 s", "detail")],
            "RtiSmsTimeoutError! no response in 1 s",
        ),
        (
            network.check_http,
            [TransportError(RtiSmsConnectError, "it broke", "detail")],
            "RtiSmsConnectError! it broke",
        ),
        (
            submission.check_submission,
            [],
            "skipped: not asked for: --submission-id ID does it, with the id of one of your own submissions",
        ),
    ],
)
def test_what_it_says_of_a_response(check: Check, responses: list[Exchange | Exception], expected: str) -> None:
    assert found(check, context(*responses)) == expected


def test_a_refused_token_is_explained() -> None:
    """It was got a moment ago, so the usual advice, to check the credentials, does not help."""
    for check in (api.check_balance, api.check_unknown_id):
        with pytest.raises(ProblemError) as caught:
            check(context(exchange(401)))
        assert caught.value.remedy.startswith("The server refused its own new token")
    for status in (400, 403):
        with pytest.raises(ProblemError) as caught:
            api.check_balance(context(exchange(status)))
        assert not caught.value.remedy.startswith("The server refused its own new token")


def requests_of(check: Check, *responses: Exchange) -> list[Any]:
    """Return the requests that a check sends."""
    ctx, requests = context(*responses), []
    prober = ctx.prober
    ctx.__dict__["prober"] = SimpleNamespace(send=lambda request: requests.append(request) or prober.send(request))
    check(ctx)
    return requests


def test_the_header_is_left_out_where_the_check_is_about_it() -> None:
    (request,) = requests_of(api.check_content_type, exchange(200, {}))
    assert "Authorization" in request.headers
    assert "Content-Type" not in request.headers


def test_a_wrong_method_changes_nothing() -> None:
    requests = requests_of(api.check_wrong_method, exchange(404), exchange(404))
    assert [(one.method, one.path, one.body) for one in requests] == [
        ("GET", "/api/auth", None),
        ("POST", "/api/balance", b"{}"),
    ]


def test_ids_that_cannot_exist() -> None:
    requests = requests_of(api.check_unknown_id, exchange(400), exchange(404))
    assert [one.path for one in requests] == ["/api/sms/0", "/api/sms/9999999999999999"]


def test_problems_of_the_network_have_remedies_of_their_own() -> None:
    remedies = []
    for kind_ in (RtiSmsTimeoutError, RtiSmsConnectError):
        with pytest.raises(ProblemError) as caught:
            context(TransportError(kind_, "what", "detail")).send(None)  # type: ignore[arg-type]
        remedies.append(caught.value.remedy)
    assert "longer --timeout" in remedies[0]
    assert "firewall" in remedies[1]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, "ok: refused with HTTP 400"),
        (401, "ok: refused with HTTP 401"),
        (403, "differs: refused with HTTP 403"),
        (200, "failed: a wrong secret was accepted"),
    ],
)
def test_a_wrong_secret(status: int, expected: str) -> None:
    assert found(account.check_wrong_secret, context(exchange(status), probe_credentials=True)) == expected


INSTEAD = ". The package assumes a validity, and gets a new token after a 401"


@pytest.mark.parametrize(
    ("check", "grant", "expected"),
    [
        (account.check_access_token, GRANT, "ok: a string of 3 characters"),
        (account.check_access_token, {}, "failed: missing"),
        (account.check_access_token, {"token": "x"}, "failed: missing; unknown fields: token"),
        (account.check_access_token, {"access_token": ""}, "failed: an empty string, not a token"),
        (account.check_access_token, {"access_token": 5}, "failed: an integer, not a token"),
        (
            account.check_access_token,
            {"access_token": "a b"},
            "failed: the token holds characters that a header must not contain",
        ),
        (account.check_validity_period, GRANT, "ok: a string: 3600 s"),
        (account.check_validity_period, {}, f"differs: missing{INSTEAD}"),
        (account.check_validity_period, {"expires_in": 1}, f"differs: missing; unknown fields: expires_in{INSTEAD}"),
        (
            account.check_validity_period,
            {"validity_period": "1h"},
            f"differs: a string that is not a number of seconds{INSTEAD}",
        ),
        (account.check_validity_period, {"validity_period": 60}, "differs: an integer: 60 s"),
        (account.check_validity_period, {"validity_period": "60"}, "ok: a string: 60 s"),
        (
            account.check_validity_period,
            {"validity_period": "59"},
            "differs: a string: 59 s. So short a validity means many requests for tokens",
        ),
    ],
)
def test_what_it_says_of_a_token(check: Check, grant: dict[str, Any], expected: str) -> None:
    assert found(check, context(grant=grant)) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (exchange(200, INFO), "ok: DELIVERED, every field is as documented"),
        (exchange(200, OPEN), "ok: PENDING, every field is as documented; not there yet: timestamps.done"),
        (
            exchange(200, {**INFO, "timestamps": {"registered": 1, "sent": 2}}),
            "differs: missing fields: timestamps.done",
        ),
        (exchange(404), "failed: HTTP 404: the API does not know this submission"),
        (exchange(403), "HTTP 403! HTTP 403"),
        (exchange(200, {"id": "1"}), "failed: missing fields: timestamps, info"),
    ],
)
def test_what_it_says_of_a_submission(response: Exchange, expected: str) -> None:
    assert found(submission.check_submission, context(response, submission_id="1")) == expected


def with_status(status: str) -> Exchange:
    return exchange(200, {**INFO, "info": {**INFO["info"], "status": {"code": "0", "status": status}}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("responses", "expected", "pauses"),
    [
        ([with_status("DELIVERED")], "ok: DELIVERED after 0 s", []),
        (
            [with_status("PENDING"), with_status("PENDING"), with_status("SENT"), with_status("DELIVERED")],
            "ok: PENDING, then SENT, then DELIVERED after 4 s",
            [0.5, 1, 2],
        ),
        (
            [exchange(404), exchange(503), exchange(200, {}), with_status("REJECTED")],
            "differs: HTTP 404, then HTTP 503: an error of the server, then a response that cannot be read, "
            "then REJECTED after 4 s",
            [0.5, 1, 2],
        ),
        (
            [with_status("SENT")] * 9,
            "differs: SENT after 46 s; not final yet",
            [0.5, 1, 2, 4, 8, 10, 10, 10],
        ),
    ],
)
def test_it_follows_an_sms(
    monkeypatch: pytest.MonkeyPatch, responses: list[Exchange], expected: str, pauses: list[float]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(sending, "time", SimpleNamespace(monotonic=lambda: 1000 + sum(slept), sleep=slept.append))
    ctx = context(*responses, follow_for=55)
    ctx.sent_id = "1"
    assert (found(sending.check_delivery, ctx), slept) == (expected, pauses)


def test_a_poll_that_would_come_at_the_very_end_is_still_made(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(sending, "time", SimpleNamespace(monotonic=lambda: 1000 + sum(slept), sleep=slept.append))
    ctx = context(*[with_status("SENT")] * 3, follow_for=1.5)
    ctx.sent_id = "1"
    assert found(sending.check_delivery, ctx) == "differs: SENT after 2 s; not final yet"
    assert slept == [0.5, 1]


def test_an_sms_that_was_not_sent_is_not_followed() -> None:
    assert found(sending.check_delivery, context()) == "skipped: not asked for: it follows the SMS of --send-to"


@pytest.mark.parametrize(
    ("fault", "expected", "remedy"),
    [
        (Fault("lost_response", path="sms"), "failed: send_sms", "Ask the recipient whether the SMS arrived"),
        (Fault("error", path="sms", statuses=(403,)), "failed: send_sms", "No SMS was sent."),
        (Fault("error", path="sms", statuses=(429,)), "failed: send_sms", "No SMS was sent."),
        (None, "failed: the API did not accept the SMS: account_no_balance", "Top up the account."),
    ],
)
def test_an_sms_that_may_not_have_been_sent(fault: Fault | None, expected: str, remedy: str) -> None:
    with Sandbox() as sandbox:
        sandbox.set_faults(*filter(None, [fault]))
        settings = {"client_id": sandbox.client_id, "client_secret": Secret(sandbox.client_secret)}
        number = "+56900000005" if fault is None else "+56900000100"
        ctx = context(base_url=sandbox.url, send_to=parse_recipients([number])[0], sender="96000", **settings)
        finding = sending.check_send(ctx)
        assert sandbox.state().requests["POST sms"] == 1
    assert f"{finding.outcome}: {finding.got}".startswith(expected)
    assert remedy in finding.remedy


@pytest.mark.parametrize("options", [{}, {"sender": "96000"}, {"send_to": parse_recipients(["+56900000100"])[0]}])
def test_no_sms_is_sent_unless_number_and_sender_are_given(options: dict[str, Any]) -> None:
    expected = "skipped: not asked for: --send-to NUMBER --sender SENDER sends one SMS, which costs money"
    assert found(sending.check_send, context(**options)) == expected


@pytest.mark.parametrize(("rate", "shown"), [(0.43053, "1,500"), (0.4306, "1,600"), (5, "18,000")])
def test_an_hour_has_3600_seconds(rate: float, shown: str) -> None:
    assert f" {shown} submissions an hour" in speed._capacity(context(requests_per_second=rate), 0.1)


def test_a_response_shows_no_secret_by_itself() -> None:
    assert "s3cret" not in repr(exchange(200, b"s3cret", Cookie="s3cret"))


@pytest.mark.parametrize(("rate", "pause"), [(None, 0.0), (4, 0.25), (0.01, 1.0)])
def test_the_pause_between_requests(rate: float | None, pause: float) -> None:
    assert Prober(context(requests_per_second=rate).settings).pause == pause


@pytest.mark.parametrize(
    ("timeout", "is_accepted"), [(0, False), (-1, False), (0.1, True), (3600, True), (3601, False)]
)
def test_the_timeout_has_bounds(timeout: float, is_accepted: bool) -> None:
    def load() -> ApiSettings:
        return ApiSettings(client_id="", client_secret=Secret("x"))

    if is_accepted:
        assert diagnose(load, timeout=timeout).exit_status == 1
        return
    with pytest.raises(RtiSmsInputError, match="timeout"):
        diagnose(load, timeout=timeout)


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (0, "ok: the clocks agree to within 1 s"),
        (-3, "ok: the clocks agree to within 3 s"),
        (60, "ok: the clocks agree to within 60 s"),
        (61, "differs: this machine's clock is 61 s ahead of the server's"),
        (-60, "ok: the clocks agree to within 60 s"),
        (-61, "differs: this machine's clock is 61 s behind the server's"),
    ],
)
@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_clocks_that_differ(ahead: int, expected: str, zone: str) -> None:
    """The server wrote its time half of the way through the exchange."""
    date = format_datetime(datetime.fromtimestamp(NOW - ahead - 1, UTC), usegmt=True).replace("GMT", zone)
    ctx = context()
    ctx.exchanges.append(exchange(seconds=2, Date=date))
    assert found(network.check_clock, ctx) == expected


@pytest.mark.parametrize("headers", [{}, {"Date": "today"}])
def test_a_clock_that_nobody_knows(headers: dict[str, str]) -> None:
    ctx = context()
    assert found(network.check_clock, ctx) == "skipped: not checked: there was no response"
    ctx.exchanges.append(exchange(**headers))
    assert found(network.check_clock, ctx) == "skipped: not checked: the response has no header Date that can be read"


@pytest.mark.parametrize(
    ("seconds", "settings", "expected"),
    [
        (
            [0.1] * 9 + [0.3],
            {"max_concurrency": 32},
            "ok: 10 calls: min 100 ms, median 100 ms, max 300 ms. 32 requests at once give at most 320 a second, "
            "1,200,000 submissions an hour, if this machine is fast enough",
        ),
        (
            [2.0] * 10,
            {"max_concurrency": 32, "requests_per_second": 0.5},
            "ok: 10 calls: min 2000 ms, median 2000 ms, max 2000 ms. requests_per_second allows at most 0.5 a second, "
            "1,800 submissions an hour, if this machine is fast enough",
        ),
        (
            [2.01] * 10,
            {"max_concurrency": 2, "requests_per_second": 50},
            "differs: 10 calls: min 2010 ms, median 2010 ms, max 2010 ms. 2 requests at once give at most 1 a second, "
            "3,600 submissions an hour, if this machine is fast enough",
        ),
    ],
)
def test_the_speed_of_ten_calls(seconds: list[float], settings: dict[str, Any], expected: str) -> None:
    responses = [exchange(200, seconds=one) for one in seconds]
    assert found(speed.check_latency, context(*responses, **settings)) == expected


@pytest.mark.parametrize(
    ("responses", "expected"),
    [
        ([exchange(200), exchange(429)], "differs: HTTP 429 after 1 calls in a row"),
        ([exchange(429)], "HTTP 429! HTTP 429: too many requests"),
        ([exchange(200), exchange(500)], "HTTP 500! HTTP 500: an error of the server"),
        ([exchange(200), exchange(401)], "HTTP 401! HTTP 401"),
    ],
)
def test_a_row_of_calls_that_ends_early(responses: list[Exchange], expected: str) -> None:
    assert found(speed.check_latency, context(*responses)) == expected


CLOSES = "ok: HTTP/1.1; the server or a proxy closes each connection after one call"


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([1, 1, 1], "ok: HTTP/1.1; 3 calls used 1 connection"),
        ([1, 2, 1], "ok: HTTP/1.1; 3 calls used 2 connections"),
        ([1], "ok: HTTP/1.1; 1 calls used 1 connection"),
        ([1, 2], CLOSES),
        ([1, 2, 3], CLOSES),
        ([1, None], CLOSES),
        ([1, 1, None], CLOSES),
    ],
)
def test_connections_that_stay_open(ports: list[int | None], expected: str) -> None:
    ctx = context()
    ctx.timed = [exchange(port=port) for port in ports]
    assert found(speed.check_keep_alive, ctx) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Server": "x"}, "no headers about limits"),
        ({"X_RateLimit_Remaining": "7"}, "X-RateLimit-Remaining: 7"),
        ({"rate_limit": "1234567"}, "rate-limit: (not shown)"),
        ({"X_Quota": "100000", "Retry_After": "soon"}, "X-Quota: 100000, Retry-After: (not shown)"),
        ({"throttle": "1", "Not_A_Quota": "2"}, "throttle: 1"),
    ],
)
def test_headers_about_limits(headers: dict[str, str], expected: str) -> None:
    ctx = context()
    ctx.exchanges.append(exchange(**headers))
    assert found(speed.check_rate_limit, ctx) == f"ok: {expected}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"max_concurrency": 3, "timeout": 7, "max_attempts": 2},
            "ok: base URL http://127.0.0.1:1, timeout 7 s, 2 attempts, 3 concurrent requests, no limit of requests "
            "a second",
        ),
        (
            {"max_concurrency": 3, "timeout": 7.5, "max_attempts": 2, "requests_per_second": 0.5},
            "ok: base URL http://127.0.0.1:1, timeout 7.5 s, 2 attempts, 3 concurrent requests, 0.5 requests a second",
        ),
        ({"client_id": " me"}, "differs: the client id begins or ends with white space"),
        (
            {"client_id": "me ", "client_secret": Secret("x\t")},
            "differs: the client id and the client secret begins or ends with white space",
        ),
    ],
)
def test_what_it_says_of_the_settings(settings: dict[str, Any], expected: str) -> None:
    assert found(network.check_settings, context(**settings)) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.1234, "0.12"), (0.999, "1"), (1, "1"), (9.96, "10"), (1234, "1,200"), (987654, "990,000")],
)
def test_estimates_have_two_digits(number: float, expected: str) -> None:
    assert speed._rounded(number) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0006, "1 ms"), (1, "1000 ms"), (9.999, "9999 ms"), (10, "10.0 s"), (61.25, "61.2 s")]
)
def test_durations(seconds: float, expected: str) -> None:
    assert milliseconds(seconds) == expected


@pytest.mark.parametrize(
    ("name", "is_shown"),
    [
        ("smscId", True),
        ("_x-1", True),
        ("@type", True),
        ("x" * 40, True),
        ("x" * 41, False),
        ("a123", True),
        ("a1234", False),
        ("1a", False),
        ("a b", False),
        ("", False),
    ],
)
def test_names_that_could_hold_a_secret_are_not_shown(name: str, is_shown: bool) -> None:
    assert safe_name(name) == (name if is_shown else f"(a name of {len(name)} characters, not shown)")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "a boolean"),
        ("x", "a string"),
        (1, "an integer"),
        (1.5, "a number"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_types_have_the_names_of_json(value: Any, name: str) -> None:
    assert kind(value) == name
    assert str(compare(BALANCE, {"balance": value})) == (
        "" if name == "a string" else f"fields of another type: balance ({name}, not a string)"
    )


def test_a_response_is_compared_field_by_field() -> None:
    assert not compare(DETAILS, INFO)
    assert not compare(DETAILS, {**INFO, "info": {**INFO["info"], "cost": 1.5}})  # type: ignore[dict-item]
    drift = compare(DETAILS, {"id": True, "timestamps": [], "info": INFO["info"], "new": 1})
    assert (drift.missing, drift.unknown) == ([], ["new"])
    assert drift.other_type == ["id (a boolean, not a string)", "timestamps (an array, not an object)"]
