"""
The API's calls, each described once: what it sends, and what its response means. Pure, no I/O.

Source: docs/vendor-api.md, "Authenticate", "Get SMS info", "Send SMS", "Get balance".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from json import dumps
from typing import Any
from urllib.parse import urlencode

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import DOCUMENTED_SEND_STATUSES, DOCUMENTED_STATUSES, SmsDetails, Submission
from airflow_provider_rtisms.api.protocol.request import AUTHENTICATE, Call
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.amounts import parse_amount
from airflow_provider_rtisms.api.values.ids import check_submission_id
from airflow_provider_rtisms.api.values.paths import check_method, check_path, encode_query, mask_path
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
#: Name of the call that reads the balance.
GET_BALANCE = "get_balance"


def authenticate(settings: ApiSettings) -> Call[TokenGrant]:
    """
    Describe POST /auth: the client-credentials grant of OAuth2 (RFC 6749, section 4.4), with its own form of response.

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


def get_sms(submission_id: str | int, *, raw: bool = False) -> Call[SmsDetails]:
    """
    Describe GET /sms/{submissionId}.

    :param submission_id: ASCII decimal string or whole number; no float.
    :param raw: whether the result keeps the JSON of the response.
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
        keep_text=_with_raw if raw else None,
    )


def send_sms(*, recipients: Any, text: Any, sender: str, charset: int | None = None) -> Call[list[Submission]]:
    """
    Describe POST /sms. It is not idempotent, since the API has no idempotency key.

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
        body=dumps(payload).encode("ascii"),
        idempotent=False,
        is_confidential=True,
        confidential=[*recipients, Secret(text.characters)],
        messages=len(recipients),
        words=_words_of_submissions,
    )


def check_sender(value: Any) -> str:
    """
    Return the sender of a message.

    :raises RtiSmsInputError: it is not a str, is empty, or has a character that cannot be printed.
    """
    if not isinstance(value, str) or not value.strip():
        raise errors.RtiSmsInputError(f"sender is {errors.shape(value)}: use a str that is not empty.")
    if not value.isprintable():
        raise errors.RtiSmsInputError(
            f"sender is {errors.shape(value)}, and one of them cannot be printed: use printable text."
        )
    return value


def get_balance() -> Call[Decimal]:
    """
    Describe GET /balance.

    :return: the call; its result is the exact :class:`~decimal.Decimal`.
    """
    return Call(name=GET_BALANCE, method="GET", path="/api/balance", parse=_parse_balance)


def request(
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    json: Any = None,
    idempotent: bool | None = None,
) -> Call[Any]:
    """
    Describe a call that this package does not know.

    Errors never repeat the response to such a call if it is not idempotent, or if it has ``params`` or ``json``, since
    the response may repeat phone numbers and texts.

    :param method: GET, POST, PUT, PATCH or DELETE.
    :param path: below the base URL of the API, such as ``/sms/4193366853543393``; ``/api/sms/4193366853543393`` is the
        same. Segments consist of letters, digits and ``. _ ~ -``.
    :param params: the query; lists repeat a name, and None leaves it out.
    :param json: the body, as JSON; None for no body.
    :param idempotent: whether the request may be sent again after its response was lost. Default: GET only.
    :return: the call; its result is the decoded JSON.
    :raises RtiSmsInputError: an argument has another form; nothing is sent.
    """
    method = check_method(method)
    path = check_path(path)
    if not isinstance(idempotent, bool | None):
        raise errors.RtiSmsInputError(f"idempotent is {errors.shape(idempotent)}: use True, False or None.")
    is_idempotent = method == "GET" if idempotent is None else idempotent
    query = encode_query(params)
    return Call(
        name="request",
        method=method,
        path=path + query,
        parse=lambda response: response,
        subject=f"{method} {mask_path(path)}",
        body=None if json is None else _encode_json(json),
        idempotent=is_idempotent,
        is_confidential=not is_idempotent or bool(query) or json is not None,
        words=_strings,
    )


def _encode_json(value: Any) -> bytes:
    try:
        return dumps(value, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError):
        raise errors.RtiSmsInputError(
            f"json is {errors.shape(value)} that JSON cannot hold: use dicts, lists, strings, numbers, bools and None."
        ) from None


def _strings(response: Any) -> Iterator[str]:
    """Give every string of a response, so that none of them can repeat the client secret or the token."""
    waiting = [response]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


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
    number = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*", str(value), re.ASCII)
    return float(number[1]) if number else None


def _parse_submissions(expected: int, response: Any) -> list[Submission]:
    items = response.get("submissions") if isinstance(response, dict) else None
    if not isinstance(items, list):
        raise ValueError("'submissions' is missing or not a list")
    submissions = [Submission.from_response(item) for item in items]
    if len(submissions) != expected:
        raise errors.RtiSmsInvalidResponseError(
            f"{SEND_SMS}: the response lists {len(submissions)} submissions for {expected} recipients, so they "
            "cannot be matched.",
            call=SEND_SMS,
            status=200,
            submissions=submissions,
        )
    return submissions


def _with_raw(details: SmsDetails, text: str) -> SmsDetails:
    return replace(details, raw=text)


def _undocumented_status(details: SmsDetails) -> Iterable[str]:
    status = details.status
    return () if status is None or status in DOCUMENTED_STATUSES else (status,)


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
