"""
The API's calls, each described once: what it sends, and what its response means. Pure, no I/O.

Source: docs/vendor-api.md, "Authenticate", "Get SMS info", "Send SMS", "Get balance".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import urlencode

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import DOCUMENTED_SEND_STATUSES, SmsDetails, SmsStatus, Submission
from airflow_provider_rtisms.api.protocol.request import AUTHENTICATE, Call
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.amounts import parse_amount
from airflow_provider_rtisms.api.values.ids import check_submission_id
from airflow_provider_rtisms.api.values.recipients import Recipient, parse_recipients
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.api.values.text import SmsText


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """
    The response of POST /auth.

    :param access_token: opaque.
    :param validity: seconds from the time of the response, or None where ``validity_period`` could not be read.
    """

    access_token: Secret[str]
    validity: float | None


#: Name of the call that sends.
SEND_SMS = "send_sms"


def authenticate(settings: ApiSettings) -> Call[TokenGrant]:
    """
    POST /auth: the OAuth2 client-credentials grant (RFC 6749, section 4.4), with the API's own form of response.

    :param settings: whose credentials to send.
    :return: the call; its result is a :class:`TokenGrant`.
    """
    form = {
        "grant_type": "client_credentials",
        "client_id": settings.client_id,
        "client_secret": settings.client_secret.get_secret_value(),
    }
    return Call(
        name=AUTHENTICATE,
        method="POST",
        path="/api/auth",
        parse=_parse_grant,
        body=urlencode(form).encode("ascii"),
        content_type="application/x-www-form-urlencoded; charset=utf-8",
        is_confidential=True,
    )


def get_sms(submission_id: str | int) -> Call[SmsDetails]:
    """
    GET /sms/{submissionId}.

    :param submission_id: ASCII decimal string or non-negative int.
    :return: the call; its result is a :class:`SmsDetails`.
    :raises RtiSmsInputError: the id is neither; nothing is sent.
    """
    checked = check_submission_id(submission_id)
    return Call(
        name="get_sms",
        method="GET",
        path=f"/api/sms/{checked}",
        parse=partial(SmsDetails.from_response, checked),
        subject=checked,
        words=_undocumented_status,
    )


def send_sms(*, recipients: Any, text: Any, sender: str, charset: int | None = None) -> Call[list[Submission]]:
    """
    POST /sms. Not idempotent: the API has no idempotency key.

    :param recipients: phone numbers in international form, each once.
    :param text: the message.
    :param sender: as allowed for the account.
    :param charset: 0, 1, 6 or 8; None picks by the text.
    :return: the call; its result is one :class:`Submission` per recipient, by position.
    :raises RtiSmsInputError: a value cannot be sent; nothing is sent.
    """
    # An outbox may list a number twice, for two of its messages; only then does a number stay there twice.
    is_checked = isinstance(recipients, list) and recipients and all(isinstance(one, Recipient) for one in recipients)
    recipients = recipients if is_checked else parse_recipients(recipients)
    text = text if isinstance(text, SmsText) else SmsText.of(text, charset)
    payload = {
        "recipients": [recipient.get_secret_value() for recipient in recipients],
        "sender": check_sender(sender),
        "message": {"charset": text.charset, "text": text.encoded},
    }
    return Call(
        name=SEND_SMS,
        method="POST",
        path="/api/sms",
        parse=partial(_parse_submissions, len(recipients)),
        subject=f"to {len(recipients)} recipients",
        body=json.dumps(payload).encode("ascii"),
        idempotent=False,
        is_confidential=True,
        confidential=[*recipients, Secret(text.characters)],
        words=_words_of_submissions,
    )


def check_sender(value: Any) -> str:
    """
    Return the sender of a message.

    :raises RtiSmsInputError: it is not a str, or is empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise errors.RtiSmsInputError(f"sender is {errors.shape(value)}: use a str that is not empty.")
    return value


def get_balance() -> Call[Decimal]:
    """
    GET /balance.

    :return: the call; its result is the exact :class:`~decimal.Decimal`.
    """
    return Call(name="get_balance", method="GET", path="/api/balance", parse=_parse_balance)


def _parse_grant(response: Any) -> TokenGrant:
    token = response.get("access_token") if isinstance(response, dict) else None
    if not isinstance(token, str) or not token:
        raise ValueError("'access_token' is missing or not a string")
    # VSCHAR without the space (RFC 6749, appendix A.12; RFC 6750, section 2.1): nothing that can end a header line.
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise errors.RtiSmsUnsafeTokenError(
            f"{AUTHENTICATE}: the access token holds characters that a header must not contain. "
            + errors.REMEDIES[errors.RtiSmsUnsafeTokenError],
            call=AUTHENTICATE,
            status=200,
        )
    return TokenGrant(Secret(token), _parse_validity(response.get("validity_period")))


def _parse_validity(value: Any) -> float | None:
    if isinstance(value, bool) or not re.fullmatch(r"\s*[0-9]{1,12}(\.[0-9]{1,12})?\s*", str(value)[:40]):
        return None
    return float(value)


def _parse_submissions(expected: int, response: Any) -> list[Submission]:
    items = response.get("submissions") if isinstance(response, dict) else None
    if not isinstance(items, list):
        raise ValueError("'submissions' is missing or not a list")
    submissions = [Submission.from_response(item) for item in items]
    if len(submissions) != expected:
        raise errors.RtiSmsInvalidResponseError(
            f"{SEND_SMS}: the response lists {len(submissions)} submissions for {expected} recipients, so nobody knows "
            "which is whose.",
            call=SEND_SMS,
            status=200,
            submissions=submissions,
        )
    return submissions


def _undocumented_status(details: SmsDetails) -> Iterable[str]:
    status = details.status
    return () if status is None or status in SmsStatus.__members__ else (status,)


def _words_of_submissions(submissions: Iterable[Submission]) -> Iterable[str]:
    for submission in submissions:
        if submission.status is not None and submission.status not in DOCUMENTED_SEND_STATUSES:
            yield submission.status
        if submission.submission_id is not None:
            yield submission.submission_id


def _parse_balance(response: Any) -> Decimal:
    balance = response.get("balance") if isinstance(response, dict) else None
    try:
        return parse_amount(balance)
    except ValueError:
        raise ValueError("'balance' is not a decimal string") from None
