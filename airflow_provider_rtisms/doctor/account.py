"""The later checks: the account, the form of each response, the speed, and one real SMS for those who ask for it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from secrets import token_hex
from statistics import median
from typing import Any

from airflow_provider_rtisms.api import RtiSmsClient, Secret, SmsDetails, SmsStatus, Submission, endpoints
from airflow_provider_rtisms.api.errors import (
    REMEDIES,
    RtiSmsAuthenticationError,
    RtiSmsError,
    RtiSmsNotFoundError,
    RtiSmsTransientError,
    RtiSmsUncertainError,
    RtiSmsUnsafeTokenError,
)
from airflow_provider_rtisms.api.values.lists import name_some
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.doctor.examination import (
    CHECK_HOST,
    GRANT,
    ISSUE,
    Check,
    Examination,
    FailedError,
    Finding,
    differs,
    failed,
    milliseconds,
    not_the_api,
    ok,
    safe_name,
    skipped,
    type_name,
)

#: An object is a dict of its fields; other values are one of these words.
STRING, INTEGER, NUMBER = "a string", "an integer", "a number"
BALANCE = {"balance": STRING}
SUBMISSION = {"status": STRING, "submissionId": STRING}
DETAILS = {
    "id": STRING,
    "timestamps": {"registered": INTEGER, "sent": INTEGER, "done": INTEGER},
    "info": {
        "status": {"code": STRING, "status": STRING},
        "cost": NUMBER,
        "operator": {"id": STRING, "name": STRING, "mcc": STRING, "mnc": STRING},
    },
}
#: Fields that the vendor may leave out, or fill with null, until a stage is reached.
LATER = ("timestamps.sent", "timestamps.done")
#: How many fields of each kind a report names.
NAMED = 50
#: Ids that cannot exist. Some servers take the first one for malformed.
IMPOSSIBLE_IDS = ("0", "9" * 16)
#: How many calls are timed, and the seconds above which a median makes bulk fetches slow.
TIMED_CALLS, SLOW = 10, 2.0
#: The text of the SMS, and seconds between two polls of it: the first and the longest pause.
TEXT = "Test message of airflow-provider-rtisms. No action is needed."
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0

_CHECK_CREDENTIALS = REMEDIES[RtiSmsAuthenticationError]
_TOKEN_REFUSED = f"The server refused its own new token. {_CHECK_CREDENTIALS}"
_ASSUMED = "The package assumes a validity, and gets a new token after a 401"
_LIMIT_HEADERS = re.compile(r"(x-)?(rate-?limit|quota|throttl)[a-z-]*|retry-after", re.IGNORECASE)


@dataclass(slots=True)
class Drift:
    """How a response differs from its documented form. Fields are named by their path, such as info.status.code."""

    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    other_type: list[str] = field(default_factory=list)

    def compare(self, form: Mapping[str, Any], response: Mapping[str, Any], prefix: str = "") -> Drift:
        self.unknown += [prefix + safe_name(name) for name in response if name not in form]
        for name, expected in form.items():
            path, found = prefix + name, type_name(response.get(name))
            if name not in response:
                self.missing.append(path)
            elif not isinstance(expected, str) and found == "an object":
                self.compare(expected, response[name], f"{path}.")
            elif found != expected and (found, expected) != (INTEGER, NUMBER):
                wanted = expected if isinstance(expected, str) else "an object"
                self.other_type.append(f"{path} ({found}, not {wanted})")
        return self

    def __str__(self) -> str:
        parts = (
            ("missing fields", self.missing),
            ("unknown fields", self.unknown),
            ("fields of another type", self.other_type),
        )
        return "; ".join(f"{title}: {name_some(names, limit=NAMED)}" for title, names in parts if names)


def check_authentication(exam: Examination) -> Finding:
    response = exam.granted
    if exam.is_refused:
        why = exam.settings.odd_credentials() or "A client secret that was replaced no longer works."
        return failed(f"the server refused the credentials: HTTP {response.status}", f"{_CHECK_CREDENTIALS} {why}")
    if response.status == 403:
        raise response.unexpected()
    if not exam.is_granted:
        raise not_the_api(str(response))
    exam.grant = response.json_object()
    got = f"accepted in {milliseconds(response.seconds)}"
    drift = Drift().compare(GRANT, exam.grant)
    if drift.unknown and not drift.missing:  # a renamed field is reported by the check that misses it
        return differs(f"{got}; {Drift(unknown=drift.unknown)}")
    return ok(got)


def check_access_token(exam: Examination) -> Finding:
    if "access_token" not in exam.grant:
        return failed(f"missing{_unknown_fields(exam)}", CHECK_HOST)
    token = exam.grant["access_token"]
    if not isinstance(token, str) or not token:
        return failed(f"{'an empty string' if token == '' else type_name(token)}, not a token", CHECK_HOST)
    exam.secrets.append(Secret(token))
    try:
        endpoints.authenticate(exam.settings).parse(exam.grant)
    except RtiSmsUnsafeTokenError:
        return failed("the token holds characters that a header must not contain", CHECK_HOST)
    exam.token = token
    return ok(f"a string of {len(token)} characters")


def check_validity_period(exam: Examination) -> Finding:
    if "validity_period" not in exam.grant:
        return differs(f"missing{_unknown_fields(exam)}. {_ASSUMED}")
    value = exam.grant["validity_period"]
    seconds = endpoints.authenticate(exam.settings).parse({**exam.grant, "access_token": "any"}).validity
    if seconds is None:
        return differs(f"{type_name(value)} that is not a number of seconds. {_ASSUMED}")
    got = f"{type_name(value)}: {seconds:g} s"
    if not isinstance(value, str):
        return differs(got)
    if seconds < 60:
        return differs(f"{got}. So short a validity means many requests for tokens", "Ask RealTime for a longer one.")
    return ok(got)


def _unknown_fields(exam: Examination) -> str:
    unknown = Drift().compare(GRANT, exam.grant).unknown
    return f"; {Drift(unknown=unknown)}" if unknown else ""


def check_balance(exam: Examination) -> Finding:
    response = exam.send("GET", "/balance")
    if response.status == 401:
        raise response.unexpected(_TOKEN_REFUSED)
    body = response.json_object()
    drift = Drift().compare(BALANCE, body)
    if drift.missing:
        return failed(str(drift), f"The package cannot read the balance. {ISSUE}")
    try:
        endpoints.get_balance().parse(body)
    except ValueError:
        return failed(f"{type_name(body['balance'])} that is not an amount", ISSUE)
    return differs(str(drift)) if str(drift) else ok("a decimal string")


def check_unknown_token(exam: Examination) -> Finding:
    response = exam.first_contact
    if response.status == 401:
        if response.body:
            return differs(f"HTTP 401 with a body of {len(response.body)} bytes")
        return ok("HTTP 401 with an empty body")
    if response.status == 200:
        return differs("HTTP 200: the server accepts any token", CHECK_HOST)
    remedy = f"The package gets a new token only after a 401, so a wait fails once its token has expired. {ISSUE}"
    return failed(f"HTTP {response.status}", remedy)


def check_unknown_id(exam: Examination) -> Finding:
    statuses = []
    for submission_id in IMPOSSIBLE_IDS:
        response = exam.send("GET", f"/sms/{submission_id}")
        statuses.append(response.status)
        if response.status != 400:
            break
    got = " and ".join(f"HTTP {status}" for status in statuses)
    if response.status == 404:
        return ok(got)
    if response.status == 401:
        raise response.unexpected(_TOKEN_REFUSED)
    if response.status == 200:
        remedy = f"The package cannot tell an unknown submission from a known one. {ISSUE}"
        return failed(f"{got}: the server returns a submission that cannot exist", remedy)
    return differs(got, "The package reports unknown ids with another error than usual. Please open an issue with this report.")


def check_latency(exam: Examination) -> Finding:
    times: list[float] = []
    give_up_at = time.monotonic() + exam.timeout
    while len(times) < TIMED_CALLS and (not times or time.monotonic() < give_up_at):
        try:
            response = exam.send("GET", "/balance")
        except FailedError:
            if not times or exam.responses[-1].status != 429:
                raise
            return differs(
                f"HTTP 429 after {len(times)} calls in a row",
                "The account has a low threshold. Set extra 'requests_per_second' of the Connection below it.",
            )
        if response.status != 200:
            raise response.unexpected()
        times.append(response.seconds)
    got = (
        f"{len(times)} calls: min {milliseconds(min(times))}, median {milliseconds(median(times))}, "
        f"max {milliseconds(max(times))}. {_capacity(exam, median(times))}"
    )
    if median(times) > SLOW:
        return differs(got, "Bulk fetches and waits take long. Check the network, then ask RealTime.")
    return ok(got)


def _capacity(exam: Examination, seconds: float) -> str:
    concurrent, limit = exam.settings.max_concurrency, exam.settings.requests_per_second
    rate, reason = concurrent / max(seconds, 1e-6), f"{concurrent} requests at once give"
    if limit is not None and limit < rate:
        rate, reason = limit, "requests_per_second allows"
    a_second, an_hour = (
        f"{float(f'{number:.2g}'):,.0f}" if number >= 1 else f"{number:.2g}" for number in (rate, rate * 3600)
    )
    return f"{reason} at most {a_second} a second, {an_hour} submissions an hour, if this machine is fast enough"


def check_rate_limit(exam: Examination) -> Finding:
    found = {
        safe_name(name): value if re.fullmatch(r"[0-9]{1,6}", value) else "(not shown)"
        for response in exam.responses
        for name, value in response.headers.items()
        if _LIMIT_HEADERS.fullmatch(name)
    }
    if not found:
        return ok("no headers about limits")
    remedy = "Set extra 'requests_per_second' of the Connection so that bulk fetches stay below the limit."
    return ok(", ".join(f"{name}: {value}" for name, value in found.items()), remedy)


def check_submission(exam: Examination) -> Finding:
    submission_id = exam.submission_id
    if submission_id is None:
        return skipped("not asked for: --submission-id ID does it, with the id of one of your own submissions")
    response = exam.send("GET", f"/sms/{submission_id}")
    if response.status == 404:
        return failed("HTTP 404: the API does not know this submission", "Give the id of one of your own submissions.")
    body = response.json_object()
    try:
        details = SmsDetails.from_response(submission_id, body)
    except ValueError as error:
        return failed(str(error), f"The package cannot read this submission. {ISSUE}")
    drift = Drift().compare(DETAILS, body)
    pending = [name for name in drift.missing if name in LATER and not details.is_final]
    drift.missing = [name for name in drift.missing if name not in pending]
    drift.other_type = [text for text in drift.other_type if not text.startswith(LATER) or "(null" not in text]
    if details.status is None:
        return failed(str(drift), f"The package cannot see the status. {ISSUE}")
    got = str(drift)
    if details.status not in SmsStatus.__members__:
        got = "; ".join(filter(None, [got, f"an undocumented status: {safe_name(details.status)}"]))
    later = f"; not there yet: {', '.join(pending)}" if pending else ""
    return differs(got) if got else ok(f"{details.status}, every field is as documented{later}")


def check_wrong_secret(exam: Examination) -> Finding:
    if not exam.probe_credentials:
        return skipped("not asked for: --probe-credentials does it. It may count against the account")
    response = exam.authenticate(Secret(f"doctor-{token_hex(16)}"))
    if response.status == 200:
        return failed("a wrong secret was accepted", CHECK_HOST)
    got = f"refused with HTTP {response.status}"
    return ok(got) if response.status in (400, 401) else differs(got)


def check_send(exam: Examination) -> Finding:
    recipient, sender = exam.send_to, exam.sender
    if recipient is None or sender is None:
        return skipped("not asked for: --send-to NUMBER --sender SENDER sends one SMS, which costs money")
    exam.secrets.append(recipient)
    text = SmsText.of(TEXT)
    responses: list[Any] = []
    call = endpoints.send_sms(recipients=[recipient], text=text, sender=sender)

    def keep_and_parse(response: Any) -> list[Submission]:
        responses.append(response)
        return call.parse(response)

    try:
        with _client(exam) as client:
            (submission,) = client.perform(replace(call, parse=keep_and_parse))
    except RtiSmsUncertainError as error:
        return failed(str(error), "Ask the recipient whether the SMS arrived before you send another one.")
    except RtiSmsError as error:
        return failed(str(error), "See the message. No SMS was sent.")
    if not submission.is_submitted:
        status = safe_name(submission.status or "no status")
        remedy = "Top up the account." if status == "account_no_balance" else "Run the doctor again later."
        return failed(f"the API did not accept the SMS: {status}", remedy)
    exam.sent_id = submission.submission_id
    got = f"submitted to {recipient}, 1 part; submission {exam.sent_id}"
    drift = Drift().compare(SUBMISSION, responses[-1]["submissions"][0])
    drift.unknown += [safe_name(name) for name in responses[-1] if name != "submissions"]
    return differs(f"{got}; {drift}") if str(drift) else ok(got)


def check_delivery(exam: Examination) -> Finding:
    if exam.sent_id is None:
        return skipped("not asked for: it follows the SMS of --send-to")
    started, seen, pause = time.monotonic(), [""], FIRST_PAUSE
    with _client(exam) as client:
        while True:
            details = None
            try:
                details = client.get_sms(exam.sent_id)
                state = safe_name(details.status or "no status")
            except (RtiSmsTransientError, RtiSmsNotFoundError) as error:
                state = f"HTTP {error.status}" if error.status not in (None, 200) else "no response that can be read"
            if seen[-1] != state:
                seen.append(state)
            elapsed = time.monotonic() - started
            got = f"{', then '.join(seen[1:])} after {elapsed:.0f} s"
            if details is not None and details.is_final:
                break
            if elapsed + pause > exam.follow_for:
                remedy = f"Look at it again later: run the doctor with --submission-id {exam.sent_id}."
                return differs(f"{got}; not final yet", remedy)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    if details.status == "DELIVERED":
        return ok(got)
    return differs(got, "The SMS did not arrive. Check the number, then ask RealTime about this submission.")


def _client(exam: Examination) -> RtiSmsClient:
    return RtiSmsClient(exam.settings, on_secret=lambda token: exam.secrets.append(Secret(token)))


_GRANT = "HTTP 200, with a JSON object of access_token and validity_period"
_401 = "HTTP 401 with an empty body for a made-up token"
_404 = "HTTP 404 for a submission that does not exist"
_LATENCY = f"a median of {SLOW:g} s or less; RealTime promises nothing"
_FIELDS = "the documented fields, each of its type, and no others"
_SEND = "HTTP 200, with one submission that has a submissionId"
_DELIVERY = "PENDING, SENT, and at the end DELIVERED"

CHECKS = (
    Check("authentication", _GRANT, "http", check_authentication),
    Check("access_token", "a string without spaces", "authentication", check_access_token),
    Check("validity_period", "a string of seconds", "authentication", check_validity_period),
    Check("balance", "a balance that is a decimal string", "access_token", check_balance),
    Check("unknown_token", _401, "http", check_unknown_token),
    Check("unknown_id", _404, "access_token", check_unknown_id, steps=2),
    Check("latency", _LATENCY, "balance", check_latency, steps=2),
    Check("rate_limit", "no documented limits", "http", check_rate_limit),
    Check("submission", _FIELDS, "access_token", check_submission),
    Check("wrong_secret", "HTTP 400 or 401 for a wrong secret", "authentication", check_wrong_secret),
    Check("send", _SEND, "access_token", check_send, steps=2),
    Check("delivery", _DELIVERY, "send", check_delivery, 2, lambda exam: exam.follow_for + 2.0),
)
