"""The doctor names each deviation from docs/vendor-api.md by exactly its check, in bounded time, and leaks nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.doctor import diagnose
from airflow_provider_rtisms.doctor.runner import CHECKS
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


class TestAsDocumented:
    def test_the_sandbox(self) -> None:
        with Sandbox(pending_for=0.1, sent_for=0.1, client_secret=SECRET, client_id=CLIENT_ID, balance=BALANCE) as api:
            report = examine(api.url)
        assert not_ok(report) == {}
        assert [check.name for check in report.checks if check.outcome == "skipped"] == ["tls"]
        assert report.exit_status == 0

    def test_what_is_not_asked_for_is_not_done(self) -> None:
        with Sandbox(client_secret=SECRET, client_id=CLIENT_ID) as api:
            report = examine(api.url, {})
            state = api.state()
        optional = ["tls", "submission", "wrong_secret", "send", "delivery"]
        assert [check.name for check in report.checks if check.outcome == "skipped"] == optional
        assert not_ok(report) == {}
        assert state.messages == []

    def test_another_implementation(self) -> None:
        with vendor() as (port, requests):
            report = examine(url(port))
        assert not_ok(report) == {}
        assert SENT_ID in got(report, "send")
        assert "1 part" in got(report, "send")
        assert sum(request.method == "POST" and request.path == "/api/sms" for request in requests) == 1

    def test_results_arrive_one_by_one(self) -> None:
        seen: list[str] = []
        with vendor() as (port, _):
            settings = ApiSettings(client_id=CLIENT_ID, client_secret=SECRET, base_url=url(port))
            diagnose(settings, on_result=lambda result: seen.append(result.name))
        assert seen == NAMES


def replace_json(path: str, change: Callable[[dict[str, Any]], Any]) -> Deviation:
    """Change the JSON of the responses of one call that succeed."""

    def deviate(request: Request, reply: Reply) -> Reply:
        if request.path.startswith(path) and reply.status == 200:
            reply.body = change(json.loads(reply.encoded()))
        return reply

    return deviate


def on(matches: Callable[[Request, Reply], bool], reply: Callable[[], Reply]) -> Deviation:
    """Send another response where the request or the documented response is of some kind."""
    return lambda request, documented: reply() if matches(request, documented) else documented


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


def changed(path: list[str], change: Callable[[dict[str, Any], str], None]) -> Deviation:
    """Change one field of the details of the submission that the test asks for."""

    def edit(body: dict[str, Any]) -> dict[str, Any]:
        inner = body
        for name in path[:-1]:
            inner = inner[name]
        change(inner, path[-1])
        return body

    return replace_json(f"/api/sms/{SUBMISSION_ID}", edit)


def rename(inner: dict[str, Any], name: str) -> None:
    inner["renamed"] = inner.pop(name)


def everything(*_: Any) -> bool:
    return True


def is_balance(request: Request, reply: Reply) -> bool:
    return request.path == "/api/balance" and request.has_token


def html() -> Reply:
    return Reply(200, f"<html>Log in, {SECRET} {TOKEN}</html>".encode(), {"Content-Type": "text/html"})


def redirect() -> Reply:
    return Reply(301, b"", {"Location": f"https://elsewhere.example/{TOKEN}"})


def drip() -> Reply:
    return Reply(200, b"{" + b" " * 20_000 + b"}", pause=0.05)


def late(request: Request, reply: Reply) -> Reply:
    reply.headers["Date"] = formatdate(time.time() - 600, usegmt=True)
    return reply


AUTH, BAL, SMS = "/api/auth", "/api/balance", "/api/sms"
DEVIATIONS: dict[str, tuple[Deviation, dict[str, str]]] = {
    "int validity": (
        replace_json(AUTH, lambda body: {**body, "validity_period": 3600}),
        {"validity_period": "differs"},
    ),
    "no validity": (replace_json(AUTH, lambda body: without(body, "validity_period")), {"validity_period": "differs"}),
    "validity in words": (
        replace_json(AUTH, lambda body: {**body, "validity_period": "1h"}),
        {"validity_period": "differs"},
    ),
    "validity renamed": (
        replace_json(AUTH, lambda body: {**without(body, "validity_period"), "expires_in": "3600"}),
        {"validity_period": "differs"},
    ),
    "extra field of a grant": (
        replace_json(AUTH, lambda body: {**body, "token_type": "bearer"}),
        {"authentication": "differs"},
    ),
    "token renamed": (
        replace_json(AUTH, lambda body: {**without(body, "access_token"), "token": TOKEN}),
        {"access_token": "failed"},
    ),
    "token with a space": (
        replace_json(AUTH, lambda body: {**body, "access_token": "a b"}),
        {"access_token": "failed"},
    ),
    "grant is a list": (replace_json(AUTH, lambda body: [body]), {"authentication": "failed"}),
    "401 with a body": (
        on(lambda request, reply: reply.status == 401 and request.path != AUTH, lambda: Reply(401, TOKEN.encode())),
        {"unknown_token": "differs"},
    ),
    "403 for a bad token": (
        on(lambda request, reply: reply.status == 401 and request.path != AUTH, lambda: Reply(403)),
        {"unknown_token": "failed"},
    ),
    "balance is a number": (replace_json(BAL, lambda body: {"balance": float(BALANCE)}), {"balance": "differs"}),
    "balance renamed": (replace_json(BAL, lambda body: {"amount": BALANCE}), {"balance": "failed"}),
    "extra field of the balance": (replace_json(BAL, lambda body: {**body, "currency": "CLP"}), {"balance": "differs"}),
    "balance in words": (replace_json(BAL, lambda body: {"balance": "plenty"}), {"balance": "failed"}),
    "status renamed": (changed(["info", "status", "status"], rename), {"submission": "failed"}),
    "cost renamed": (changed(["info", "cost"], rename), {"submission": "differs"}),
    "operator missing": (changed(["info", "operator"], lambda inner, name: inner.pop(name)), {"submission": "differs"}),
    "extra field of the details": (
        changed(["info", "smscId"], lambda inner, name: inner.update({name: "x"})),
        {"submission": "differs"},
    ),
    "cost is a string": (
        changed(["info", "cost"], lambda inner, name: inner.update({name: "1"})),
        {"submission": "differs"},
    ),
    "times in words": (
        changed(["timestamps", "done"], lambda inner, name: inner.update({name: "yesterday"})),
        {"submission": "failed"},
    ),
    "another status": (
        changed(["info", "status", "status"], lambda inner, name: inner.update({name: "READ"})),
        {"submission": "differs"},
    ),
    "404 as 200": (
        on(lambda request, reply: reply.status == 404, lambda: Reply(200, details("0"))),
        {"unknown_id": "failed"},
    ),
    "404 as 500": (on(lambda request, reply: reply.status == 404, lambda: Reply(500)), {"unknown_id": "failed"}),
    "wrong secret accepted": (
        on(
            lambda request, reply: reply.status == 401 and request.path == AUTH,
            lambda: Reply(200, {"access_token": TOKEN, "validity_period": "3600"}),
        ),
        {"wrong_secret": "failed"},
    ),
    "own secret refused": (
        on(
            lambda request, reply: request.path == AUTH and request.method == "POST",
            lambda: Reply(401, SECRET.encode()),
        ),
        {"authentication": "failed"},
    ),
    "clock 10 minutes off": (late, {"clock": "differs"}),
    "redirect everywhere": (on(everything, redirect), {"http": "failed"}),
    "redirect of the balance": (on(is_balance, redirect), {"balance": "failed"}),
    "redirect of authentication": (
        on(lambda request, reply: request.path == AUTH, redirect),
        {"authentication": "failed"},
    ),
    "HTML everywhere": (on(everything, html), {"http": "failed"}),
    "HTML for the balance": (on(is_balance, html), {"balance": "failed"}),
    "slow drip everywhere": (on(everything, drip), {"http": "failed"}),
    "slow drip of the balance": (on(is_balance, drip), {"balance": "failed"}),
    "500 everywhere": (on(everything, lambda: Reply(500, SECRET.encode())), {"http": "failed"}),
    "send refused": (
        on(lambda request, reply: request.path == SMS, lambda: Reply(406, NUMBER.encode())),
        {"send": "failed"},
    ),
    "no money": (
        replace_json(
            SMS, lambda body: {"submissions": [{"status": "account_no_balance"}]} if "submissions" in body else body
        ),
        {"send": "failed"},
    ),
    "extra field of a submission": (
        replace_json(SMS, lambda body: {**body, "batch": "7"} if "submissions" in body else body),
        {"send": "differs"},
    ),
    "rejected": (
        replace_json(
            f"{SMS}/{SENT_ID}",
            lambda body: {**body, "info": {**body["info"], "status": {"code": "3", "status": "REJECTED"}}},
        ),
        {"delivery": "differs"},
    ),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_is_named_by_its_check(name: str) -> None:
    deviate, expected = DEVIATIONS[name]
    with vendor(deviate) as (port, _):
        report = examine_slow(url(port), expected) if "slow" in name else examine(url(port))
    assert not_ok(report) == expected, report.to_text()
    assert report.exit_status == int("failed" in expected.values())
    assert all(check.remedy for check in report.checks if check.name in expected)


def test_drift_is_named_field_by_field() -> None:
    def drift(body: dict[str, Any]) -> dict[str, Any]:
        body["info"]["smscId"] = "x"
        body["info"][NUMBER] = "x"
        del body["info"]["operator"]["mnc"]
        body["timestamps"]["sent"] = str(body["timestamps"]["sent"])
        return body

    with vendor(replace_json(f"{SMS}/{SUBMISSION_ID}", drift)) as (port, _):
        found = got(examine(url(port)), "submission")
    assert found == (
        "missing fields: info.operator.mnc; unknown fields: info.smscId, info.(a name of 12 characters, not shown); "
        "fields of another type: timestamps.sent (a string, not an integer)"
    )


def test_words_of_the_server_that_repeat_a_secret_are_not_shown() -> None:
    secret = "PlainWordsOnly"

    def drift(body: dict[str, Any]) -> dict[str, Any]:
        body["info"]["status"]["status"] = secret
        body[f"x-{secret}"] = secret
        return body

    def deviate(request: Request, reply: Reply) -> Reply:
        if request.path == AUTH and request.method == "POST":
            return Reply(200, {"access_token": TOKEN, "validity_period": "3600", secret: secret})
        return replace_json(f"{SMS}/{SUBMISSION_ID}", drift)(request, reply)

    with vendor(deviate) as (port, _):
        report = examine(url(port), client_secret=secret)
    assert not_ok(report) == {"authentication": "differs", "submission": "differs", "wrong_secret": "failed"}
    assert secret not in report.to_text() + report.to_json()


def test_a_thousand_unknown_fields_do_not_fill_the_report() -> None:
    many = {f"field-{number:02}": 1 for number in range(1000)}
    with vendor(replace_json(BAL, lambda body: {**body, **many})) as (port, _):
        shown = got(examine(url(port)), "balance")
    assert "field-49" in shown
    assert "field-50" not in shown
    assert len(shown) < 1000


@pytest.mark.parametrize(
    ("deviate", "check", "expected"),
    [
        (
            replace_json(AUTH, lambda body: {**body, "validity_period": "59"}),
            "validity_period",
            "a string: 59 s. So short a validity means many requests for tokens",
        ),
        (
            replace_json(AUTH, lambda body: {**without(body, "access_token"), "token": TOKEN}),
            "access_token",
            "missing; unknown fields: token",
        ),
        (replace_json(BAL, lambda body: [body]), "balance", "HTTP 200 with an array in JSON, not an object"),
        (
            on(lambda request, reply: reply.status == 404, lambda: Reply(400)),
            "unknown_id",
            "HTTP 400 and HTTP 400",
        ),
        (on(is_balance, redirect), "balance", "HTTP 301, a redirect to elsewhere.example"),
        (
            on(is_balance, lambda: Reply(301, b"", {"Location": f"https://me:{TOKEN}@x/"})),
            "balance",
            "HTTP 301, a redirect",
        ),
        (on(everything, lambda: Reply(404)), "http", "HTTP 404: this is not the RTI SMS API"),
        (on(everything, lambda: Reply(429)), "http", "HTTP 429: too many requests"),
    ],
)
def test_what_it_says_of_a_response(deviate: Deviation, check: str, expected: str) -> None:
    with vendor(deviate) as (port, _):
        assert got(examine(url(port)), check) == expected


def test_an_open_submission_may_lack_its_later_times() -> None:
    def pending(body: dict[str, Any]) -> dict[str, Any]:
        status = {"code": "0", "status": "PENDING"}
        return {**body, "timestamps": {"registered": 1, "sent": None}, "info": {**body["info"], "status": status}}

    with vendor(replace_json(f"{SMS}/{SUBMISSION_ID}", pending)) as (port, _):
        found = got(examine(url(port)), "submission")
    assert found == "PENDING, every field is as documented; not there yet: timestamps.done"


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


def test_an_estimate_keeps_to_the_rate_of_the_connection() -> None:
    with vendor() as (port, _):
        found = got(examine(url(port), {}, requests_per_second=50), "latency")
    assert "requests_per_second allows at most 50 a second, 180,000 submissions an hour" in found


@pytest.mark.parametrize(
    ("fault", "got_", "remedy_"),
    [
        (Fault("lost_response", path="sms", method="POST"), "send_sms", "Ask the recipient whether the SMS arrived"),
        (Fault("error", path="sms", method="POST", statuses=(403,)), "send_sms", "No SMS was sent."),
        (None, "the API did not accept the SMS: account_no_balance", "Top up the account."),
    ],
)
def test_an_sms_that_may_not_have_been_sent(fault: Fault | None, got_: str, remedy_: str) -> None:
    with Sandbox(client_secret=SECRET, client_id=CLIENT_ID) as api:
        api.set_faults(*filter(None, [fault]))
        number = "+56900000005" if fault is None else NUMBER
        report = examine(api.url, {"send_to": number, "sender": "96000"})
        assert api.state().requests["POST sms"] == 1
    assert not_ok(report) == {"send": "failed"}
    assert got_ in got(report, "send")
    assert remedy_ in remedy(report, "send")


def test_an_sms_that_is_never_final_is_followed_for_some_time() -> None:
    with Sandbox(client_secret=SECRET, client_id=CLIENT_ID, pending_for=0, sent_for=0) as api:
        options = {"send_to": "+56900000004", "sender": "96000", "follow_for": 1.0}
        report = examine(api.url, options)
    assert not_ok(report) == {"delivery": "differs"}
    assert re.fullmatch(r"SENT after [0-9]+ s; not final yet", got(report, "delivery"))


def test_the_rate_of_the_connection_is_kept() -> None:
    with vendor() as (port, requests):
        started = time.monotonic()
        assert not_ok(examine(url(port), {}, requests_per_second=20)) == {}
        assert time.monotonic() - started > (len(requests) - 1) / 20


def test_settings_that_cannot_be_used() -> None:
    report = diagnose(lambda: ApiSettings(client_id="", client_secret=SECRET))
    assert not_ok(report) == {"settings": "failed"}
    assert "client_id is missing" in got(report, "settings")
    assert {check.outcome for check in report.checks[1:]} == {"skipped"}


def test_white_space_around_the_secret() -> None:
    with vendor() as (port, _):
        found = not_ok(examine(url(port), client_secret=f"{SECRET}\n"))
    assert found == {"settings": "differs", "authentication": "failed"}


def test_the_sections_exist() -> None:
    page = (Path(__file__).parents[3] / "docs" / "vendor-api.md").read_text()
    assert {check.section for check in CHECKS} <= set(re.findall(r"^#+ (.+)$", page, re.MULTILINE))


def test_a_defect_of_a_check_is_a_result() -> None:
    class Broken(ApiSettings):
        @property
        def is_tls(self) -> bool:
            raise ZeroDivisionError(SECRET)

    report = diagnose(Broken(client_id=CLIENT_ID, client_secret=SECRET, base_url="http://127.0.0.1:1"), timeout=1)
    assert "ZeroDivisionError" in got(report, "settings")
    assert SECRET not in report.to_text()
