"""
The API's calls, each described once: the request that goes out, and what its answer means. Pure, no I/O.

Source: API page, chapters "Authenticate", "Every other call", "Get SMS info", "Send SMS",
"Get balance", "Errors".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote, quote_plus, urlencode

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.amounts import read_amount
from airflow_provider_rtisms.api.ids import check_submission_id
from airflow_provider_rtisms.api.models import SmsDetails, Submission
from airflow_provider_rtisms.api.recipients import masked
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.text import SmsText

T = TypeVar("T")

#: No answer of this API comes near it; reading stops here (design.md, rule 5).
MAX_ANSWER_BYTES = 1024 * 1024
#: How much of an answer an error message repeats.
EXCERPT_CHARACTERS = 200

_COMMON_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # no answer can unfold into more than it weighs
    "User-Agent": f"airflow-provider-rtisms/{__version__}",
}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """
    Bytes to send. Its repr shows neither headers nor body, which hold secrets.

    :param method: HTTP method.
    :param path: absolute path below the base URL.
    :param headers: all headers that matter to the API.
    :param body: the entity, or None.
    :param on_new_connection: whether it must not go out on a connection that was kept open. The server may have closed
        that one meanwhile, and a break would not tell whether the request was acted on.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    on_new_connection: bool = False


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """
    Bytes that came back.

    :param status: HTTP status.
    :param headers: a mapping that ignores case.
    :param body: the entity, at most :data:`MAX_ANSWER_BYTES`.
    :param sent_at: when the request left, on the monotonic clock of a transport that keeps a pace.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    sent_at: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """
    The answer of POST /auth.

    :param access_token: opaque.
    :param validity: seconds from the time of the answer, or None where ``validity_period`` could not be read.
    """

    access_token: str = field(repr=False)
    validity: float | None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """
    One call of the API: what goes out, and how its answer is read.

    :param name: for messages, such as ``get_sms``.
    :param method: HTTP method.
    :param path: path below the base URL.
    :param parse: turns decoded JSON into the result; raises ValueError where it cannot.
    :param subject: for messages, such as the submission id.
    :param body: the entity, or None.
    :param content_type: its media type; the API wants one even on GET.
    :param repeatable: False where repeating a request that was acted on does harm.
    :param private: values that no message may repeat, each with what stands in its place.
    """

    name: str
    method: str
    path: str
    parse: Callable[[Any], T] = field(repr=False)
    subject: str | None = None
    body: bytes | None = field(default=None, repr=False)
    content_type: str = "application/json"
    repeatable: bool = True
    private: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return f"{self.name} {self.subject}" if self.subject else self.name

    def request(self, access_token: str | None = None) -> HttpRequest:
        """
        Return the request to send.

        :param access_token: the bearer token (RFC 6750, section 2.1); None for POST /auth.
        """
        headers = {**_COMMON_HEADERS, "Content-Type": self.content_type}
        if access_token is not None:
            headers["Authorization"] = f"Bearer {access_token}"
        return HttpRequest(self.method, self.path, headers, self.body, on_new_connection=not self.repeatable)

    def read(self, answer: HttpAnswer, secrets: Sequence[str] = ()) -> T:
        """
        Return the result that the answer holds.

        :param answer: what came back.
        :param secrets: what no message may repeat, though the answer does: the token that was sent, the client secret.
        :raises RtiSmsError: the class for the answer's status; RtiSmsAnswerError for a 200 that cannot be read.
        """
        if answer.status != 200:
            self._refuse(answer, secrets)
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self.error(errors.RtiSmsAnswerError, "the answer is compressed, which was not asked for", status=200)
        try:
            return self.parse(_decode(answer.body))
        except (ValueError, RecursionError) as problem:
            # A grant that cannot be read may still hold a token, so it is not repeated.
            came = "" if self.name == AUTHENTICATE else f": {self._excerpt(answer.body, secrets)}"
            what = f"the answer of {len(answer.body)} bytes cannot be read ({problem}){came}"
            raise self.error(errors.RtiSmsAnswerError, what, status=200) from None

    def error(
        self,
        kind: type[errors.RtiSmsError],
        what: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> errors.RtiSmsError:
        """
        Return an error that says what was asked, what came and what to do.

        :param kind: its class.
        :param what: what came.
        :param status: HTTP status, if there was an answer.
        :param retry_after: seconds the server asked to wait.
        """
        remedy = errors.REMEDIES.get(kind, "")
        message = f"{self}: {what}. {remedy}".rstrip()
        return kind(message, call=self.name, subject=self.subject, status=status, retry_after=retry_after)

    def _refuse(self, answer: HttpAnswer, secrets: Sequence[str]) -> NoReturn:
        status = answer.status
        if self.name == AUTHENTICATE and status in (400, 401):
            kind: type[errors.RtiSmsError] = errors.RtiSmsCredentialsError
        elif 300 <= status < 400:
            kind = errors.RtiSmsRedirectError
        else:
            kind = errors.STATUS_ERRORS.get(status, errors.RtiSmsUnexpectedStatusError)
        raise self.error(
            kind,
            f"the server answered HTTP {status} with {self._excerpt(answer.body, secrets)}",
            status=status,
            retry_after=parse_retry_after(answer.headers.get("Retry-After")),
        )

    def hide(self, text: str, secrets: Sequence[str] = ()) -> str:
        """
        Return a text, of which the server may have written some, without what no message may repeat.

        :param text: whole; what was cut short may end in half a secret.
        :param secrets: the token that was sent, the client secret.
        """
        hidden = dict(self.private)
        for secret in secrets:
            hidden.update(_spellings(secret))
        for value in sorted(hidden, key=len, reverse=True):
            text = text.replace(value, hidden[value])
        return text

    def _excerpt(self, body: bytes, secrets: Sequence[str]) -> str:
        if not body:
            return "an empty body"
        return repr(self.hide(body.decode("utf-8", "replace"), secrets)[:EXCERPT_CHARACTERS])


#: Name of the call that gets a token.
AUTHENTICATE = "authenticate"
#: Name of the call that sends.
SEND_SMS = "send_sms"


def authenticate(settings: ApiSettings) -> Call[TokenGrant]:
    """
    POST /auth: the OAuth2 client-credentials grant (RFC 6749, section 4.4), with the API's own answer.

    :param settings: whose credentials to send.
    :return: the call; its result is a :class:`TokenGrant`.
    """
    form = {
        "grant_type": "client_credentials",
        "client_id": settings.client_id,
        "client_secret": settings.client_secret,
    }
    return Call(
        name=AUTHENTICATE,
        method="POST",
        path="/api/auth",
        parse=_parse_grant,
        body=urlencode(form).encode("ascii"),
        content_type="application/x-www-form-urlencoded; charset=utf-8",
    )


def _spellings(secret: str) -> dict[str, str]:
    """Return a secret as text, form, URL, JSON and Python's repr write it, each with what stands in its place."""
    quoted = {quote_plus(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    return dict.fromkeys({secret, *quoted}, "***")


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
        parse=lambda answer: SmsDetails.from_answer(checked, answer),
        subject=checked,
    )


def send_sms(*, recipients: Sequence[str], text: SmsText, sender: str) -> Call[list[Submission]]:
    """
    POST /sms. Not repeatable: the API has no idempotency key.

    :param recipients: checked numbers, see :func:`~airflow_provider_rtisms.api.recipients.parse_recipients`.
    :param text: the message.
    :param sender: as allowed for the account.
    :return: the call; its result is one :class:`Submission` per recipient, by position.
    :raises RtiSmsInputError: the sender is not a str, or empty; nothing is sent.
    """
    if not isinstance(sender, str) or not sender:
        raise errors.RtiSmsInputError(f"sender is {errors.shape(sender)}: use a str that is not empty.")
    message = {"charset": text.charset, "text": text.encoded}
    order = {"recipients": list(recipients), "sender": sender, "message": message}
    private = {one: masked(one) for number in recipients for one in (number, number.removeprefix("+"))}
    for written in (text.characters, text.encoded):
        private[written] = private[json.dumps(written)[1:-1]] = "***"
    return Call(
        name=SEND_SMS,
        method="POST",
        path="/api/sms",
        parse=partial(_parse_submissions, len(recipients)),
        subject=f"to {len(recipients)} recipients",
        body=json.dumps(order).encode("ascii"),
        repeatable=False,
        private=private,
    )


def get_balance() -> Call[Decimal]:
    """
    GET /balance.

    :return: the call; its result is the exact :class:`~decimal.Decimal`.
    """
    return Call(name="get_balance", method="GET", path="/api/balance", parse=_parse_balance)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """
    Return the seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), or None where it says nothing.

    :param value: seconds, or an HTTP date.
    :param now: the time to count from; default the present.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _decode(body: bytes) -> Any:
    return _JSON.decode(body.decode("utf-8-sig"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_JSON = json.JSONDecoder(parse_constant=_no_constant)


def _parse_grant(answer: Any) -> TokenGrant:
    token = answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not token:
        raise ValueError("there is no 'access_token'")
    # VSCHAR without the space (RFC 6749, appendix A.12; RFC 6750, section 2.1): nothing that could end a header line.
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise errors.RtiSmsUnsafeTokenError(
            f"{AUTHENTICATE}: the access token holds characters that may not stand in a header. "
            + errors.REMEDIES[errors.RtiSmsUnsafeTokenError],
            call=AUTHENTICATE,
            status=200,
        )
    return TokenGrant(token, _parse_validity(answer.get("validity_period")))


def _parse_validity(value: Any) -> float | None:
    if isinstance(value, bool) or not re.fullmatch(r"\s*[0-9]{1,12}(\.[0-9]{1,12})?\s*", str(value)[:40]):
        return None
    return float(value)


def _parse_submissions(expected: int, answer: Any) -> list[Submission]:
    items = answer.get("submissions") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise ValueError("there is no list of 'submissions'")
    submissions = [Submission.from_answer(item) for item in items]
    if len(submissions) != expected:
        told = ", ".join(submission.submission_id or submission.status for submission in submissions)
        raise errors.RtiSmsAnswerError(
            f"{SEND_SMS}: {expected} recipients were sent to, but the answer tells of {len(submissions)} submissions "
            f"({told}), so that none can be matched with its recipient.",
            call=SEND_SMS,
            status=200,
            submissions=submissions,
        )
    return submissions


def _parse_balance(answer: Any) -> Decimal:
    balance = answer.get("balance") if isinstance(answer, dict) else None
    try:
        return read_amount(balance)
    except ValueError:
        raise ValueError("'balance' is no decimal string") from None
