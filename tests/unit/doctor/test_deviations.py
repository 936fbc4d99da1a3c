"""The doctor names each deviation from docs/vendor-api.md by exactly its check, in bounded time, and leaks nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.doctor import diagnose
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from tests.hostile import Request
from tests.unit.doctor.vendor import (
    BALANCE,
    CLIENT_ID,
    NAMES,
    NUMBER,
    SECRET,
    SENT_ID,
    SUBMISSION_ID,
    TOKEN,
    Deviation,
    Reply,
    details,
    examine,
    examine_slow,
    has_token,
    not_ok,
    result,
    vendor,
)

pytestmark = pytest.mark.slow

AUTH, BAL, SEND = "/api/auth", "/api/balance", "/api/sms"
SMS = f"{SEND}/{SUBMISSION_ID}"


@pytest.mark.parametrize("options", [None, {}], ids=["all checks", "what is not asked for is not done"])
def test_the_sandbox_is_as_documented(options: dict[str, Any] | None) -> None:
    with Sandbox(pending_for=0.1, sent_for=0.1, client_secret=SECRET, client_id=CLIENT_ID, balance=BALANCE) as api:
        report = examine(api.url, options)
        assert len(api.state().messages) == (options is None)
    assert not_ok(report) == {}
    optional = ["tls"] if options is None else ["tls", "submission", "wrong_secret", "send", "delivery"]
    assert [check.name for check in report.checks if check.outcome == "skipped"] == optional
    assert report.exit_status == 0


def test_another_implementation_is_as_documented() -> None:
    with vendor() as server:
        report = examine(server.url)
    assert not_ok(report) == {}
    assert re.search(rf"1 part; submission {SENT_ID}", result(report, "send").got)
    assert sum(f"{one.method} {one.target}" == f"POST {SEND}" for one in server.requests) == 1


def test_results_arrive_one_by_one() -> None:
    seen: list[str] = []
    with vendor() as server:
        settings = ApiSettings(client_id=CLIENT_ID, client_secret=SECRET, base_url=server.url)
        diagnose(settings, on_result=lambda result: seen.append(result.name))
    assert seen == NAMES


def change(path: str, edit: Callable[[Any], Any]) -> Deviation:
    """Change the JSON of the responses of one call that succeed."""

    def deviate(request: Request, reply: Reply) -> Reply:
        method = "POST" if path in (AUTH, SEND) else "GET"
        if (request.target, request.method, reply.status) == (path, method, 200):
            reply.body = edit(json.loads(reply.encoded()))
        return reply

    return deviate


def edit(path: str, fields: dict[str, Any], *, drop: str = "") -> Deviation:
    """Set some fields of a response, and drop one; ``a.b`` is the field b of a."""

    def apply(body: dict[str, Any]) -> dict[str, Any]:
        for name, value in {**fields, **({drop: None} if drop else {})}.items():
            *parents, last = name.split(".")
            inner = body
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
            if name == drop:
                del inner[last]
        return body

    return change(path, apply)


def on(matches: Callable[[Request, Reply], bool], *reply: Any) -> Deviation:
    """Send another response where the request or the documented response is of some kind."""
    return lambda request, documented: Reply(*reply) if matches(request, documented) else documented


def everything(*_: Any) -> bool:
    return True


def is_auth(request: Request, reply: Reply) -> bool:
    return request.target == AUTH


def is_send(request: Request, reply: Reply) -> bool:
    return request.target == SEND


def is_balance(request: Request, reply: Reply) -> bool:
    return request.target == BAL and has_token(request)


def is_refused(request: Request, reply: Reply) -> bool:
    return reply.status == 401 and request.target != AUTH


def is_wrong_secret(request: Request, reply: Reply) -> bool:
    return reply.status == 401 and request.target == AUTH


def is_unknown(request: Request, reply: Reply) -> bool:
    return reply.status == 404


def late(request: Request, reply: Reply) -> Reply:
    reply.headers["Date"] = formatdate(time.time() - 600, usegmt=True)
    return reply


HTML = (200, f"<html>Log in, {SECRET} {TOKEN}</html>".encode(), {"Content-Type": "text/html"})
DRIP = (200, b"{" + b" " * 20_000 + b"}", {}, 0.05)
GRANT = (200, {"access_token": TOKEN, "validity_period": "3600"})
REDIRECT = (301, b"", {"Location": f"https://elsewhere.example/{TOKEN}"})
ODD_REDIRECT = (301, b"", {"Location": f"https://me:{TOKEN}@x/"})
ODD_FIELDS = {"info.smscId": "x", f"info.{NUMBER}": "x", "timestamps.sent": "1"}
REJECTED = {"info.status.status": "REJECTED", "info.status.code": "3"}
NO_MONEY = {"submissions": [{"status": "account_no_balance"}]}
SHORT = "a string: 59 s. So short a validity means many requests for tokens"
ODD = (
    "missing fields: info.operator.mnc; unknown fields: info.smscId, info.(a name of 12 characters, not "
    "shown); fields of another type: timestamps.sent (a string, not an integer)"
)
#: What deviates, the check that finds it, and what that says; an ellipsis where the words do not matter.
DEVIATIONS: dict[str, tuple[Deviation, str, Any]] = {
    "int validity": (edit(AUTH, {"validity_period": 3600}), "validity_period differs", ...),
    "short validity": (edit(AUTH, {"validity_period": "59"}), "validity_period differs", SHORT),
    "validity in words": (edit(AUTH, {"validity_period": "1h"}), "validity_period differs", ...),
    "validity renamed": (edit(AUTH, {"expires_in": "3600"}, drop="validity_period"), "validity_period differs", ...),
    "extra field of a grant": (edit(AUTH, {"token_type": "bearer"}), "authentication differs", ...),
    "token renamed": (
        *(edit(AUTH, {"token": TOKEN}, drop="access_token"), "access_token failed"),
        "missing; unknown fields: token",
    ),
    "token is null": (edit(AUTH, {"access_token": None}), "access_token failed", ...),
    "token with a space": (edit(AUTH, {"access_token": "a b"}), "access_token failed", ...),
    "401 with a body": (on(is_refused, 401, TOKEN.encode()), "unknown_token differs", ...),
    "403 for a bad token": (on(is_refused, 403), "unknown_token failed", ...),
    "any token accepted": (on(is_refused, 200, {"balance": "1"}), "unknown_token differs", ...),
    "balance is a number": (edit(BAL, {"balance": float(BALANCE)}), "balance differs", ...),
    "balance renamed": (edit(BAL, {"amount": BALANCE}, drop="balance"), "balance failed", ...),
    "extra field of the balance": (edit(BAL, {"currency": "CLP"}), "balance differs", ...),
    "balance in words": (edit(BAL, {"balance": "plenty"}), "balance failed", ...),
    "balance in a list": (
        *(change(BAL, lambda body: [body]), "balance failed"),
        "HTTP 200 with an array in JSON, not an object",
    ),
    "token refused": (on(is_balance, 401), "balance failed", ...),
    "redirect of the balance": (
        *(on(is_balance, *REDIRECT), "balance failed"),
        "HTTP 301, a redirect to elsewhere.example",
    ),
    "redirect with credentials": (on(is_balance, *ODD_REDIRECT), "balance failed", "HTTP 301, a redirect"),
    "HTML for the balance": (on(is_balance, *HTML), "balance failed", ...),
    "slow drip of the balance": (on(is_balance, *DRIP), "balance failed", ...),
    "status renamed": (edit(SMS, {"info.status.name": "SENT"}, drop="info.status.status"), "submission failed", ...),
    "cost renamed": (edit(SMS, {"info.price": 1}, drop="info.cost"), "submission differs", ...),
    "operator missing": (edit(SMS, {}, drop="info.operator"), "submission differs", ...),
    "odd fields of the details": (edit(SMS, ODD_FIELDS, drop="info.operator.mnc"), "submission differs", ODD),
    "times in words": (edit(SMS, {"timestamps.done": "yesterday"}), "submission failed", ...),
    "another status": (edit(SMS, {"info.status.status": "READ"}), "submission differs", ...),
    "404 as 200": (on(is_unknown, 200, details("0")), "unknown_id failed", ...),
    "404 as 400": (on(is_unknown, 400), "unknown_id differs", "HTTP 400 and HTTP 400"),
    "404 as 500": (on(is_unknown, 500), "unknown_id failed", ...),
    "wrong secret accepted": (on(is_wrong_secret, *GRANT), "wrong_secret failed", ...),
    "own secret refused": (on(is_auth, 401, SECRET.encode()), "authentication failed", ...),
    "account forbidden": (on(is_auth, 403), "authentication failed", ...),
    "clock 10 minutes off": (late, "clock differs", ...),
    "slow drip everywhere": (on(everything, *DRIP), "http failed", ...),
    "500 everywhere": (on(everything, 500, SECRET.encode()), "http failed", ...),
    "429 everywhere": (on(everything, 429), "http failed", "HTTP 429: too many requests"),
    "send refused": (on(is_send, 406, NUMBER.encode()), "send failed", ...),
    "no money": (edit(SEND, NO_MONEY), "send failed", ...),
    "extra field of a submission": (edit(SEND, {"batch": "7"}), "send differs", ...),
    "rejected": (edit(f"{SEND}/{SENT_ID}", REJECTED), "delivery differs", ...),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_is_named_by_its_check(name: str) -> None:
    deviate, finds, words = DEVIATIONS[name]
    check, outcome = finds.split()
    with vendor(deviate) as server:
        report = examine_slow(server.url, {check: outcome}) if "slow" in name else examine(server.url)
    assert not_ok(report) == {check: outcome}, report.to_text()
    assert report.exit_status == (outcome == "failed")
    assert result(report, check).remedy
    assert words in (..., result(report, check).got)


def test_a_submission_that_is_not_final_is_as_documented() -> None:
    pending = {"timestamps": {"registered": 1, "sent": None}, "info.status": {"code": "0", "status": "PENDING"}}
    with vendor(edit(SMS, pending)) as server:
        got = result(examine(server.url), "submission").got
    assert got == "PENDING, every field is as documented; not there yet: timestamps.done"


def test_words_of_the_server_that_repeat_a_secret_are_not_shown() -> None:
    secret = "PlainWordsOnly"

    def deviate(request: Request, reply: Reply) -> Reply:
        if request.target == AUTH and request.method == "POST":
            return Reply(200, {"access_token": TOKEN, "validity_period": "3600", secret: secret})
        return edit(SMS, {"info.status.status": secret, f"x-{secret}": secret})(request, reply)

    with vendor(deviate) as server:
        report = examine(server.url, client_secret=secret)
    assert not_ok(report) == {"authentication": "differs", "submission": "differs", "wrong_secret": "failed"}
    assert secret not in report.to_text() + report.to_text(verbose=True) + report.to_json()


def test_a_thousand_unknown_fields_do_not_fill_the_report() -> None:
    with vendor(edit(BAL, {f"field-{number:02}": 1 for number in range(1000)})) as server:
        shown = result(examine(server.url), "balance").got
    assert "field-49" in shown
    assert "field-50" not in shown


def test_headers_about_limits_are_shown_where_their_values_are_numbers() -> None:
    def limited(request: Request, reply: Reply) -> Reply:
        reply.headers |= {"X-RateLimit-Remaining": "7", "X-Quota": TOKEN, "Not-A-Quota": "2"}
        return reply

    with vendor(limited) as server:
        found = result(examine(server.url), "rate_limit")
    assert found.got == "X-RateLimit-Remaining: 7, X-Quota: (not shown)"
    assert "requests_per_second" in found.remedy


def test_a_threshold_that_ten_calls_pass() -> None:
    seen: list[Request] = []

    def throttle(request: Request, reply: Reply) -> Reply:
        seen.append(request)
        return Reply(429) if is_balance(request, reply) and sum(is_balance(one, reply) for one in seen) > 4 else reply

    with vendor(throttle) as server:
        report = examine(server.url)
    assert not_ok(report) == {"latency": "differs"}
    assert result(report, "latency").got == "HTTP 429 after 3 calls in a row"


def test_the_rate_of_the_connection_is_kept_and_limits_the_estimate() -> None:
    with vendor() as server:
        started = time.monotonic()
        report = examine(server.url, {}, requests_per_second=20)
        assert time.monotonic() - started > (len(server.requests) - 1) / 20
    assert not_ok(report) == {}
    found = result(report, "latency").got
    assert "requests_per_second allows at most 20 a second, 72,000 submissions an hour" in found


@pytest.mark.parametrize(
    ("number", "faults", "finds", "found", "advice"),
    [
        (
            *(NUMBER, [Fault("lost_response", path="sms", method="POST")]),
            *({"send": "failed"}, "send_sms", "Ask the recipient whether the SMS arrived"),
        ),
        (
            *(NUMBER, [Fault("error", path="sms", method="POST", statuses=(403,))]),
            *({"send": "failed"}, "send_sms", "No SMS was sent."),
        ),
        (
            *("+56900000005", [], {"send": "failed"}),
            *("the API did not accept the SMS: account_no_balance", "Top up the account."),
        ),
        ("+56900000004", [], {"delivery": "differs"}, r"^SENT after [0-9]+ s; not final yet$", ""),
    ],
    ids=["lost", "refused", "no balance", "never final"],
)
def test_an_sms_that_may_not_arrive(
    number: str, faults: list[Fault], finds: dict[str, str], found: str, advice: str
) -> None:
    with Sandbox(client_secret=SECRET, client_id=CLIENT_ID, pending_for=0, sent_for=0) as api:
        api.set_faults(*faults)
        report = examine(api.url, {"send_to": number, "sender": "96000", "follow_for": 1.0})
        assert api.state().requests["POST sms"] == 1
    assert not_ok(report) == finds
    (check,) = finds
    assert re.search(found, result(report, check).got)
    assert advice in result(report, check).remedy


def test_settings_that_cannot_be_used() -> None:
    report = diagnose(lambda: ApiSettings(client_id="", client_secret=SECRET))
    assert not_ok(report) == {"settings": "failed"}
    assert "client_id is missing" in result(report, "settings").got
    assert {check.outcome for check in report.checks[1:]} == {"skipped"}


def test_white_space_around_the_secret() -> None:
    with vendor() as server:
        report = examine(server.url, client_secret=f"{SECRET}\n")
    assert not_ok(report) == {"settings": "differs", "authentication": "failed"}
    assert "Password holds a blank" in result(report, "authentication").remedy


def test_a_defect_of_a_check_is_a_result() -> None:
    class Broken(ApiSettings):
        @property
        def is_tls(self) -> bool:
            raise ZeroDivisionError(SECRET)

    report = diagnose(Broken(client_id=CLIENT_ID, client_secret=SECRET, base_url="http://127.0.0.1:1"), timeout=1)
    assert "ZeroDivisionError" in result(report, "settings").got
    assert SECRET not in report.to_text()
