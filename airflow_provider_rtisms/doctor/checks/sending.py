"""POST /sms: one real SMS, if the caller asked for it, and its way to the recipient."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from airflow_provider_rtisms.api.errors import (
    RtiSmsError,
    RtiSmsNotFoundError,
    RtiSmsTransientError,
    RtiSmsUncertainError,
)
from airflow_provider_rtisms.api.models import Submission
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.transport.blocking import RtiSmsClient
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.doctor.checks.check import Check
from airflow_provider_rtisms.doctor.context import (
    Context,
    Finding,
    ProblemError,
    differs,
    failed,
    json_object,
    ok,
    safe_name,
    skipped,
)
from airflow_provider_rtisms.doctor.schema import SUBMISSION, compare

#: The text of the SMS.
TEXT = "Test message of airflow-provider-rtisms. No action is needed."
#: Seconds between two polls: the first and the longest pause.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0


def check_send(ctx: Context) -> Finding:
    """Send one SMS."""
    recipient, sender = ctx.options.send_to, ctx.options.sender
    if recipient is None or sender is None:
        return skipped("not asked for: --send-to NUMBER --sender SENDER sends one SMS, which costs money")
    ctx.secrets.append(recipient)
    text = SmsText.of(TEXT)
    responses: list[Any] = []
    call = endpoints.send_sms(recipients=[recipient], text=text, sender=sender)
    parse = call.parse

    def keep_and_parse(response: Any) -> list[Submission]:
        responses.append(response)
        return parse(response)

    try:
        with RtiSmsClient(ctx.settings, on_secret=lambda token: ctx.secrets.append(Secret(token))) as client:
            (submission,) = client.perform(replace(call, parse=keep_and_parse))
    except RtiSmsUncertainError as error:
        return failed(str(error), "Ask the recipient whether the SMS arrived before you send another one.")
    except RtiSmsError as error:
        return failed(str(error), "See the message. No SMS was sent.")
    if not submission.is_submitted:
        status = safe_name(submission.status or "no status")
        remedy = "Top up the account." if status == "account_no_balance" else "Run the doctor again later."
        return failed(f"the API did not accept the SMS: {status}", remedy)
    ctx.sent_id = submission.submission_id
    parts = "1 part" if text.parts == 1 else f"{text.parts} parts"
    got = f"submitted to {recipient}, {parts}; submission {ctx.sent_id}"
    drift = compare(SUBMISSION, responses[-1]["submissions"][0])
    others = [safe_name(name) for name in responses[-1] if name != "submissions"]
    if drift or others:
        drift.unknown += others
        return differs(f"{got}; {drift}")
    return ok(got)


def check_delivery(ctx: Context) -> Finding:
    """Follow the SMS until its status is final."""
    if ctx.sent_id is None:
        return skipped("not asked for: it follows the SMS of --send-to")
    call = endpoints.get_sms(ctx.sent_id)
    started = time.monotonic()
    seen: list[str] = []
    pause = FIRST_PAUSE
    while True:
        try:
            exchange = ctx.authorized(call.request)
            details = call.parse(json_object(exchange)) if exchange.status == 200 else None
            state = f"HTTP {exchange.status}" if details is None else safe_name(details.status or "no status")
        except (ProblemError, ValueError, RtiSmsTransientError, RtiSmsNotFoundError) as problem:
            details, state = None, getattr(problem, "got", "a response that cannot be read")
        if not seen or seen[-1] != state:
            seen.append(state)
        elapsed = time.monotonic() - started
        got = f"{', then '.join(seen)} after {elapsed:.0f} s"
        if details is not None and details.is_final:
            if details.status == "DELIVERED":
                return ok(got)
            return differs(got, "The SMS did not arrive. Check the number, then ask RealTime about this submission.")
        if elapsed + pause > ctx.options.follow_for:
            remedy = f"Look at it again later: run the doctor with --submission-id {ctx.sent_id}."
            return differs(f"{got}; not final yet", remedy)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


CHECKS = (
    Check(
        "send",
        "HTTP 200, with one submission that has a submissionId",
        "Send SMS",
        check_send,
        ("access_token",),
        steps=2,
    ),
    Check(
        "delivery",
        "PENDING, SENT, and at the end DELIVERED",
        "Get SMS info",
        check_delivery,
        ("send",),
        steps=2,
        extra_seconds=lambda ctx: ctx.options.follow_for + 2.0,
    ),
)
