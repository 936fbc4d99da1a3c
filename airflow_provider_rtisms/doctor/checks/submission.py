"""GET /sms/{submissionId}: whether the details of a submission are as documented."""

from __future__ import annotations

from airflow_provider_rtisms.api.models import SmsDetails, SmsStatus
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.doctor.checks.check import Check
from airflow_provider_rtisms.doctor.context import (
    Context,
    Finding,
    differs,
    failed,
    json_object,
    ok,
    safe_name,
    skipped,
    unexpected,
)
from airflow_provider_rtisms.doctor.schema import DETAILS, compare

_ISSUE = "The package cannot read this submission. Open an issue with this report."
#: Fields that the vendor may leave out, or fill with null, until a stage is reached.
_LATER = ("timestamps.sent", "timestamps.done")


def check_submission(ctx: Context) -> Finding:
    """Compare the details of one submission with their documented form."""
    submission_id = ctx.options.submission_id
    if submission_id is None:
        return skipped("not asked for: --submission-id ID does it, with the id of one of your own submissions")
    exchange = ctx.authorized(endpoints.get_sms(submission_id).request)
    if exchange.status == 404:
        return failed("HTTP 404: the API does not know this submission", "Give the id of one of your own submissions.")
    if exchange.status != 200:
        raise unexpected(exchange)
    response = json_object(exchange)
    try:
        details = SmsDetails.from_response(submission_id, response)
    except ValueError as error:
        return failed(str(error), _ISSUE)
    drift = compare(DETAILS, response)
    pending = [name for name in drift.missing if name in _LATER and not details.is_final]
    drift.missing = [name for name in drift.missing if name not in pending]
    drift.other_type = [text for text in drift.other_type if not text.startswith(_LATER) or "(null" not in text]
    if details.status is None:
        return failed(str(drift), "The package cannot see the status. Open an issue with this report.")
    got = str(drift)
    if details.status not in SmsStatus.__members__:
        got = "; ".join(filter(None, [got, f"an undocumented status: {safe_name(details.status)}"]))
    if got:
        return differs(got)
    later = f"; not there yet: {', '.join(pending)}" if pending else ""
    return ok(f"{details.status}, every field is as documented{later}")


CHECKS = (
    Check(
        "submission",
        "the documented fields, each of its type, and no others",
        "Get SMS info",
        check_submission,
        ("access_token",),
    ),
)
