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
from tests.unit.doctor.examination import NAMES, examine, examine_slow, got, not_ok, remedy, url
from tests.unit.doctor.vendor import (
    BALANCE,
    CLIENT_ID,
    NUMBER,
    SECRET,
    SENT_ID,
    SUBMISSION_ID,
    TOKEN,
    Deviation,
    Reply,
    Request,
    details,
    vendor,
)

pytestmark = pytest.mark.slow

AUTH, BAL, SEND = "/api/auth", "/api/balance", "/api/sms"
SMS = f"{SEND}/{SUBMISSION_ID}"


class TestAsDocumented:
    @pytest.mark.parametrize("options", [None, {}], ids=["all checks", "what is not asked for is not done"])
    def test_the_sandbox(self, options: dict[str, Any] | None) -> None:
        with Sandbox(pending_for=0.1, sent_for=0.1, client_secret=SECRET, client_id=CLIENT_ID, balance=BALANCE) as api:
            report = examine(api.url, options)
            assert len(api.state().messages) == (options is None)
        assert not_ok(report) == {}
        optional = ["tls"] if options is None else ["tls", "submission", "wrong_secret", "send", "delivery"]
        assert [check.name for check in report.checks if check.outcome == "skipped"] == optional
        assert report.exit_status == 0

    def test_another_implementation(self) -> None:
        with vendor() as (port, requests):
            report = examine(url(port))
        assert not_ok(report) == {}
        assert re.search(rf"1 part; submission {SENT_ID}", got(report, "send"))
        assert sum(request.method == "POST" and request.path == SEND for request in requests) == 1

    def test_results_arrive_one_by_one(self) -> None:
        seen: list[str] = []
        with vendor() as (port, _):
            settings = ApiSettings(client_id=CLIENT_ID, client_secret=SECRET, base_url=url(port))
            diagnose(settings, on_result=lambda result: seen.append(result.name))
        assert seen == NAMES


def change(path: str, edit: Callable[[Any], Any]) -> Deviation:
    """Change the JSON of the responses of one call that succeed."""

    def deviate(request: Request, reply: Reply) -> Reply:
        if (
            request.path == path
            and request.method == ("POST" if path in (AUTH, SEND) else "GET")
            and reply.status == 200
        ):
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


def on(matches: Callable[[Request, Reply], bool], reply: Callable[[], Reply]) -> Deviation:
    """Send another response where the request or the documented response is of some kind."""
    return lambda request, documented: reply() if matches(request, documented) else documented


def everything(*_: Any) -> bool:
    return True


def is_auth(request: Request, reply: Reply) -> bool:
    return request.path == AUTH


def is_balance(request: Request, reply: Reply) -> bool:
    return request.path == BAL and request.has_token


def is_refused(request: Request, reply: Reply) -> bool:
    return reply.status == 401 and request.path != AUTH


def is_wrong_secret(request: Request, reply: Reply) -> bool:
    return reply.status == 401 and request.path == AUTH


def is_unknown(request: Request, reply: Reply) -> bool:
    return reply.status == 404


def html() -> Reply:
    return Reply(200, f"<html>Log in, {SECRET} {TOKEN}</html>".encode(), {"Content-Type": "text/html"})


def redirect() -> Reply:
    return Reply(301, b"", {"Location": f"https://elsewhere.example/{TOKEN}"})


def drip() -> Reply:
    return Reply(200, b"{" + b" " * 20_000 + b"}", pause=0.05)


def granted() -> Reply:
    return Reply(200, {"access_token": TOKEN, "validity_period": "3600"})


def late(request: Request, reply: Reply) -> Reply:
    reply.headers["Date"] = formatdate(time.time() - 600, usegmt=True)
    return reply


REJECTED = {"info.status.status": "REJECTED", "info.status.code": "3"}
NO_MONEY = {"submissions": [{"status": "account_no_balance"}]}
DEVIATIONS: dict[str, tuple[Deviation, str]] = {
    "int validity": (edit(AUTH, {"validity_period": 3600}), "validity_period differs"),
    "no validity": (edit(AUTH, {}, drop="validity_period"), "validity_period differs"),
    "validity in words": (edit(AUTH, {"validity_period": "1h"}), "validity_period differs"),
    "validity renamed": (edit(AUTH, {"expires_in": "3600"}, drop="validity_period"), "validity_period differs"),
    "extra field of a grant": (edit(AUTH, {"token_type": "bearer"}), "authentication differs"),
    "token renamed": (edit(AUTH, {"token": TOKEN}, drop="access_token"), "access_token failed"),
    "token with a space": (edit(AUTH, {"access_token": "a b"}), "access_token failed"),
    "token is null": (edit(AUTH, {"access_token": None}), "access_token failed"),
    "401 with a body": (on(is_refused, lambda: Reply(401, TOKEN.encode())), "unknown_token differs"),
    "403 for a bad token": (on(is_refused, lambda: Reply(403)), "unknown_token failed"),
    "any token accepted": (on(is_refused, lambda: Reply(200, {"balance": "1"})), "unknown_token differs"),
    "balance is a number": (edit(BAL, {"balance": float(BALANCE)}), "balance differs"),
    "balance renamed": (edit(BAL, {"amount": BALANCE}, drop="balance"), "balance failed"),
    "extra field of the balance": (edit(BAL, {"currency": "CLP"}), "balance differs"),
    "balance in words": (edit(BAL, {"balance": "plenty"}), "balance failed"),
    "token refused": (on(is_balance, lambda: Reply(401)), "balance failed"),
    "status renamed": (edit(SMS, {"info.status.name": "SENT"}, drop="info.status.status"), "submission failed"),
    "cost renamed": (edit(SMS, {"info.price": 1}, drop="info.cost"), "submission differs"),
    "operator missing": (edit(SMS, {}, drop="info.operator"), "submission differs"),
    "extra field of the details": (edit(SMS, {"info.smscId": "x"}), "submission differs"),
    "cost is a string": (edit(SMS, {"info.cost": "1"}), "submission differs"),
    "times in words": (edit(SMS, {"timestamps.done": "yesterday"}), "submission failed"),
    "another status": (edit(SMS, {"info.status.status": "READ"}), "submission differs"),
    "404 as 200": (on(is_unknown, lambda: Reply(200, details("0"))), "unknown_id failed"),
    "404 as 400": (on(is_unknown, lambda: Reply(400)), "unknown_id differs"),
    "404 as 301": (on(is_unknown, redirect), "unknown_id failed"),
    "404 as 500": (on(is_unknown, lambda: Reply(500)), "unknown_id failed"),
    "wrong secret accepted": (on(is_wrong_secret, granted), "wrong_secret failed"),
    "own secret refused": (on(is_auth, lambda: Reply(401, SECRET.encode())), "authentication failed"),
    "account forbidden": (on(is_auth, lambda: Reply(403)), "authentication failed"),
    "clock 10 minutes off": (late, "clock differs"),
    "redirect of the balance": (on(is_balance, redirect), "balance failed"),
    "HTML for the balance": (on(is_balance, html), "balance failed"),
    "slow drip everywhere": (on(everything, drip), "http failed"),
    "slow drip of the balance": (on(is_balance, drip), "balance failed"),
    "500 everywhere": (on(everything, lambda: Reply(500, SECRET.encode())), "http failed"),
    "429 everywhere": (on(everything, lambda: Reply(429)), "http failed"),
    "send refused": (on(lambda one, _: one.path == SEND, lambda: Reply(406, NUMBER.encode())), "send failed"),
    "no money": (edit(SEND, NO_MONEY), "send failed"),
    "extra field of a submission": (edit(SEND, {"batch": "7"}), "send differs"),
    "rejected": (edit(f"{SEND}/{SENT_ID}", REJECTED), "delivery differs"),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_is_named_by_its_check(name: str) -> None:
    deviate, finds = DEVIATIONS[name]
    check, outcome = finds.split()
    with vendor(deviate) as (port, _):
        report = examine_slow(url(port), {check: outcome}) if "slow" in name else examine(url(port))
    assert not_ok(report) == {check: outcome}, report.to_text()
    assert report.exit_status == (outcome == "failed")
    assert remedy(report, check)


ODD_ADDRESS = Reply(301, b"", {"Location": f"https://me:{TOKEN}@x/"})
ODD_FIELDS = {"info.smscId": "x", f"info.{NUMBER}": "x", "timestamps.sent": "1"}
PENDING = {"timestamps": {"registered": 1, "sent": None}, "info.status": {"code": "0", "status": "PENDING"}}


@pytest.mark.parametrize(
    ("deviate", "check", "expected"),
    [
        (
            edit(AUTH, {"validity_period": "59"}),
            "validity_period",
            "a string: 59 s. So short a validity means many requests for tokens",
        ),
        (edit(AUTH, {"token": TOKEN}, drop="access_token"), "access_token", "missing; unknown fields: token"),
        (change(BAL, lambda body: [body]), "balance", "HTTP 200 with an array in JSON, not an object"),
        (on(is_unknown, lambda: Reply(400)), "unknown_id", "HTTP 400 and HTTP 400"),
        (on(is_balance, redirect), "balance", "HTTP 301, a redirect to elsewhere.example"),
        (on(is_balance, lambda: ODD_ADDRESS), "balance", "HTTP 301, a redirect"),
        (on(everything, lambda: Reply(429)), "http", "HTTP 429: too many requests"),
        (edit(SMS, PENDING), "submission", "PENDING, every field is as documented; not there yet: timestamps.done"),
        (
            edit(SMS, ODD_FIELDS, drop="info.operator.mnc"),
            "submission",
            "missing fields: info.operator.mnc; unknown fields: info.smscId, info.(a name of 12 characters, not "
            "shown); fields of another type: timestamps.sent (a string, not an integer)",
        ),
    ],
)
def test_what_it_says_of_a_response(deviate: Deviation, check: str, expected: str) -> None:
    with vendor(deviate) as (port, _):
        assert got(examine(url(port)), check) == expected


def test_words_of_the_server_that_repeat_a_secret_are_not_shown() -> None:
    secret = "PlainWordsOnly"

    def deviate(request: Request, reply: Reply) -> Reply:
        if request.path == AUTH and request.method == "POST":
            return Reply(200, {"access_token": TOKEN, "validity_period": "3600", secret: secret})
        return edit(SMS, {"info.status.status": secret, f"x-{secret}": secret})(request, reply)

    with vendor(deviate) as (port, _):
        report = examine(url(port), client_secret=secret)
    assert not_ok(report) == {"authentication": "differs", "submission": "differs", "wrong_secret": "failed"}
    assert secret not in report.to_text() + report.to_text(verbose=True) + report.to_json()


def test_a_thousand_unknown_fields_do_not_fill_the_report() -> None:
    with vendor(edit(BAL, {f"field-{number:02}": 1 for number in range(1000)})) as (port, _):
        shown = got(examine(url(port)), "balance")
    assert "field-49" in shown
    assert "field-50" not in shown
    assert len(shown) < 1000


def test_headers_about_limits_are_shown_where_their_values_are_numbers() -> None:
    def limited(request: Request, reply: Reply) -> Reply:
        reply.headers |= {"X-RateLimit-Remaining": "7", "X-Quota": TOKEN, "Not-A-Quota": "2"}
        return reply

    with vendor(limited) as (port, _):
        report = examine(url(port))
    assert got(report, "rate_limit") == "X-RateLimit-Remaining: 7, X-Quota: (not shown)"
    assert "requests_per_second" in remedy(report, "rate_limit")


def test_a_threshold_that_ten_calls_pass() -> None:
    seen: list[Request] = []

    def throttle(request: Request, reply: Reply) -> Reply:
        seen.append(request)
        return Reply(429) if is_balance(request, reply) and sum(is_balance(one, reply) for one in seen) > 4 else reply

    with vendor(throttle) as (port, _):
        report = examine(url(port))
    assert not_ok(report) == {"latency": "differs"}
    assert got(report, "latency") == "HTTP 429 after 3 calls in a row"


def test_the_rate_of_the_connection_is_kept_and_limits_the_estimate() -> None:
    with vendor() as (port, requests):
        started = time.monotonic()
        report = examine(url(port), {}, requests_per_second=20)
        assert time.monotonic() - started > (len(requests) - 1) / 20
    assert not_ok(report) == {}
    assert "requests_per_second allows at most 20 a second, 72,000 submissions an hour" in got(report, "latency")


@pytest.mark.parametrize(
    ("fault", "found", "advice"),
    [
        (Fault("lost_response", path="sms", method="POST"), "send_sms", "Ask the recipient whether the SMS arrived"),
        (Fault("error", path="sms", method="POST", statuses=(403,)), "send_sms", "No SMS was sent."),
        (None, "the API did not accept the SMS: account_no_balance", "Top up the account."),
    ],
)
def test_an_sms_that_may_not_have_been_sent(fault: Fault | None, found: str, advice: str) -> None:
    with Sandbox(client_secret=SECRET, client_id=CLIENT_ID) as api:
        api.set_faults(*filter(None, [fault]))
        report = examine(api.url, {"send_to": "+56900000005" if fault is None else NUMBER, "sender": "96000"})
        assert api.state().requests["POST sms"] == 1
    assert not_ok(report) == {"send": "failed"}
    assert found in got(report, "send")
    assert advice in remedy(report, "send")


def test_an_sms_that_is_never_final_is_followed_for_some_time() -> None:
    with Sandbox(client_secret=SECRET, client_id=CLIENT_ID, pending_for=0, sent_for=0) as api:
        report = examine(api.url, {"send_to": "+56900000004", "sender": "96000", "follow_for": 1.0})
    assert not_ok(report) == {"delivery": "differs"}
    assert re.fullmatch(r"SENT after [0-9]+ s; not final yet", got(report, "delivery"))


def test_settings_that_cannot_be_used() -> None:
    report = diagnose(lambda: ApiSettings(client_id="", client_secret=SECRET))
    assert not_ok(report) == {"settings": "failed"}
    assert "client_id is missing" in got(report, "settings")
    assert {check.outcome for check in report.checks[1:]} == {"skipped"}


def test_white_space_around_the_secret() -> None:
    with vendor() as (port, _):
        report = examine(url(port), client_secret=f"{SECRET}\n")
    assert not_ok(report) == {"settings": "differs", "authentication": "failed"}
    assert "Password holds a blank" in remedy(report, "authentication")


def test_a_defect_of_a_check_is_a_result() -> None:
    class Broken(ApiSettings):
        @property
        def is_tls(self) -> bool:
            raise ZeroDivisionError(SECRET)

    report = diagnose(Broken(client_id=CLIENT_ID, client_secret=SECRET, base_url="http://127.0.0.1:1"), timeout=1)
    assert "ZeroDivisionError" in got(report, "settings")
    assert SECRET not in report.to_text()
