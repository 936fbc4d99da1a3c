"""
The API's calls: what each one sends, and how its response is read. Pure, no I/O.

Source: docs/vendor-api.md, "Authenticate", "Headers of every other call", "Get SMS info", "Send SMS", "Get balance" and
"Errors".
"""

from __future__ import annotations

import codecs
import errno
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import partial
from json import dumps, loads
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import urlencode, urlsplit

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.models import DOCUMENTED_SEND_STATUSES, DOCUMENTED_STATUSES, SmsDetails, Submission
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.arguments import check_submission_id, parse_amount, plural
from airflow_provider_rtisms.api.values.recipients import Recipient, parse_recipients
from airflow_provider_rtisms.api.values.secret import Secret, contains, redact, reveal
from airflow_provider_rtisms.api.values.text import SmsText

T = TypeVar("T")

#: Names of calls.
AUTHENTICATE, SEND_SMS, GET_BALANCE = "authenticate", "send_sms", "get_balance"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: Bytes. No response of this API comes near it; a longer one is not read to its end.
MAX_RESPONSE_BYTES = 1024 * 1024
#: How many characters of a response an error message repeats.
EXCERPT_CHARACTERS = 200
#: Words that an error may repeat from the response to a call whose body is confidential.
SAFE_WORDS = frozenset(
    """
    account allowed authorization balance blocked charset credentials empty encoding error expired field forbidden
    format header internal invalid json length limit long malformed message method missing number operation parameter
    parse quota rate recipient recipients refused rejected request required sender server syntax temporary text
    threshold timeout token type unavailable unknown unsupported value wrong
    """.split()  # noqa: SIM905
)

#: Unreserved characters only (RFC 3986, section 2.3): without escapes there is one way to write "/", "?" and "..".
_PATH = re.compile(r"/?(?:api/)?([A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*/?)")
#: Digits in a row that may be a phone number; the last three may be shown.
_LONG_NUMBER = re.compile(r"[0-9]{5,}(?=[0-9]{3})")
_COMMON_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # a small compressed response cannot expand to gigabytes
    "User-Agent": f"airflow-provider-rtisms/{__version__}",
}


# Every request makes one of each of these classes. They are not frozen, because that makes a dataclass several times as
# slow. No code changes them all the same.
@dataclass(slots=True)
class HttpRequest:
    """A request to send. Its repr shows neither headers nor body, since both hold secrets."""

    method: str
    #: Below the base URL.
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    #: If a connection that was kept open breaks, it is not known whether the server acted on the request.
    on_new_connection: bool = False


@dataclass(slots=True)
class HttpResponse:
    """The response that the server returned. Its ``headers`` ignore case, and its ``body`` is bounded."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class TransportError(Exception):
    """
    A request got no response.

    :param kind: the class of the failure.
    :param what: what happened, in our words. Those of a library may repeat what the server wrote, and so secrets.
    :param remedy: what a person can do; default that of the class.
    """

    def __init__(self, kind: type[errors.RtiSmsError], what: str, remedy: str | None = None) -> None:
        super().__init__(kind, what, remedy)
        self.kind = kind
        self.what = what
        self.remedy = remedy


def describe_break(error: Exception) -> str:
    """
    Return what broke a connection. Words of a library may repeat the server's; those of the operating system cannot.
    """
    name = type(error).__name__
    return f"{name}: {error.strerror}" if isinstance(error, OSError) and error.strerror else name


#: What errors of the operating system mean that a wrong host or a firewall causes.
_NO_CONNECTION = {
    errno.ECONNREFUSED: "nothing listens on this port, or a firewall refuses it",
    errno.EHOSTUNREACH: "the network has no route to it",
    errno.ENETUNREACH: "the network has no route to it",
}
#: Reasons of OpenSSL (X509_V_ERR_*) why a certificate is not trusted.
_UNTRUSTED = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "its authority is not known here",
    20: "its authority is not known here",
    62: "it is for another host",
    64: "it is for another host",
}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an exception of requests, urllib3 or aiohttp, and those that it wraps."""
    known: list[BaseException] = []
    while error is not None and error not in known:
        yield error
        known.append(error)
        inner = (error.__cause__, getattr(error, "reason", None), *error.args, error.__context__)
        error = next((one for one in inner if isinstance(one, BaseException)), None)


def no_connection(
    error: BaseException, settings: ApiSettings, *, is_at_proxy: bool = False, is_name: bool = False
) -> TransportError:
    """
    Say in our words why no connection could be made. The request never left this machine.

    :param error: what requests or aiohttp raised.
    :param is_at_proxy: whether the proxy failed, and not what lies behind it.
    :param is_name: whether the library says that a name could not be resolved.
    """
    proxy = settings.proxy_to_use() if is_at_proxy else None
    parts = urlsplit(proxy or settings.base_url)
    host = f"{'the proxy ' if proxy else ''}{parts.hostname}"
    check = f'Check "Base URL (Host)" of {settings.connection}.'
    if proxy:
        source = f"field 'proxy' in the extra of {settings.connection}"
        check = f"Check the {source if settings.proxy else 'environment variables HTTPS_PROXY and HTTP_PROXY'}."
    causes = list(_causes(error))[::-1]  # what happened first, such as an error of OpenSSL, comes first
    is_name = is_name or any(isinstance(one, socket.gaierror) for one in causes)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = _UNTRUSTED.get(getattr(cause, "verify_code", 0), "it cannot be verified")
            what = f"the certificate of {host} is not trusted: {reason}"
            remedy = f"{check} {errors.REMEDIES[errors.RtiSmsCertificateError]}"
            return TransportError(errors.RtiSmsCertificateError, what, remedy)
        if isinstance(cause, OSError) and (refusal := re.match(r"Tunnel connection failed: (\d{3})\b", str(cause))):
            return refused_by_proxy(int(refusal[1]), settings)
    numbers = [one.errno for one in causes if isinstance(one, OSError) and one.errno]
    number = numbers[0] if numbers else 0
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if is_name:
        return TransportError(errors.RtiSmsConnectError, f"the name of {host} cannot be resolved (DNS)", check)
    if any(isinstance(one, ssl.SSLError) for one in causes):
        why = "TLS failed: maybe the server does not speak TLS on this port"
    elif number in _NO_CONNECTION:
        why = _NO_CONNECTION[number]
    elif number == errno.ETIMEDOUT or any(isinstance(one, TimeoutError) for one in causes) or not number:
        why = f"none within {settings.timeout:g} s"
    else:
        why = os.strerror(number)
    return TransportError(errors.RtiSmsConnectError, f"no connection to {host} port {port}: {why}", check)


def refused_by_proxy(status: int, settings: ApiSettings) -> TransportError:
    """Return the failure for a proxy that does not connect to the API."""
    remedy = f'Ask its administrator to allow it, and check "Base URL (Host)" of {settings.connection}.'
    if status == 407:
        remedy = "Put its user name and password into its URL, percent-encoded: http://user:password@host:port."
    what = f"the proxy refused the connection with HTTP {status}"
    return TransportError(errors.RtiSmsConnectError, what, remedy)


def too_large(status: int) -> TransportError:
    what = f"the server returned HTTP {status} with more than {MAX_RESPONSE_BYTES} bytes"
    return TransportError(errors.RtiSmsResponseTooLargeError, what)


@dataclass(slots=True)
class Call(Generic[T]):
    """One call of the API: what goes out, and how its response is read."""

    #: For messages, such as ``get_sms``; so is the subject, such as the submission id.
    name: str
    method: str
    path: str
    #: Turns decoded JSON into the result; raises ValueError where it cannot.
    parse: Callable[[Any], T] = field(repr=False)
    subject: str | None = None
    body: bytes | None = field(default=None, repr=False)
    #: The API wants one even on GET.
    content_type: str = "application/json"
    #: False where sending the request twice does harm (RFC 9110, section 9.2.2).
    idempotent: bool = True
    #: Whether a response may repeat numbers, texts or credentials. Then no message repeats it.
    is_confidential: bool = False
    #: The numbers and the text of a send; a result must not repeat them.
    confidential: Sequence[Secret[str]] = field(default=(), repr=False)
    #: How many messages the call sends.
    messages: int = field(default=0, repr=False)
    #: Gives the words of a result that the server has chosen freely, such as an undocumented status.
    words: Callable[[T], Iterable[str]] = field(default=lambda result: (), repr=False)
    #: Returns the result with the text of the response added; None if no one wants the text.
    keep_text: Callable[[T, str], T] | None = field(default=None, repr=False)
    #: Called when a request is about to leave; what it raises ends the call.
    before_request: Callable[[], None] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the name and the subject, as messages begin."""
        return f"{self.name} {self.subject}" if self.subject else self.name

    def request(self, access_token: Secret[str] | None = None) -> HttpRequest:
        """Return the request to send. Its bearer token is that of RFC 6750, section 2.1; POST /auth has none."""
        if self.before_request is not None:
            self.before_request()
        headers = {**_COMMON_HEADERS, "Content-Type": self.content_type}
        if access_token is not None:
            headers["Authorization"] = f"Bearer {access_token.get_secret_value()}"
        return HttpRequest(self.method, self.path, headers, self.body, on_new_connection=not self.idempotent)

    def read(self, response: HttpResponse, secrets: Iterable[Secret[str]] = ()) -> T:
        """
        Return the result that the response holds.

        :param response: what the server returned.
        :param secrets: what neither the result nor a message may repeat: the client secret, the token that was sent.
        :raises RtiSmsError: the class for the status; RtiSmsInvalidResponseError for a 200 that cannot be read.
        """
        secrets = tuple(secrets)
        if response.status != 200:
            self._raise_for_status(response, secrets)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            what = "the response is compressed, although the request did not allow that"
            raise self.error(errors.RtiSmsInvalidResponseError, what, status=200)
        try:
            # The codec utf-8-sig does the same, but it is written in Python.
            text = response.body.removeprefix(codecs.BOM_UTF8).decode()
            decoded = loads(text)
            result = self.parse(decoded)
            self._check_words(result, secrets)
            if self.keep_text is None:
                return result
            _check_text(text, decoded, secrets)
            return self.keep_text(result, text)
        except errors.RtiSmsInvalidResponseError:
            raise
        except (ValueError, RecursionError) as problem:
            reason = "" if self.is_confidential and isinstance(problem, UnicodeError) else f" ({problem})"
            what = f"the response cannot be read{reason}. It was {self._excerpt(response, secrets)}"
            raise self.error(errors.RtiSmsInvalidResponseError, what, status=200) from None

    @property
    def template(self) -> str | None:
        """The path without an id; None for a call that this package does not know, whose path may hold anything."""
        if self.name == "request":
            return None
        return self.path if self.name != "get_sms" else "/api/sms/{submissionId}"

    def error(
        self,
        kind: type[errors.RtiSmsError],
        what: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        remedy: str | None = None,
    ) -> errors.RtiSmsError:
        """Return an error that says what was requested, what happened, and what to do."""
        remedy = errors.REMEDIES.get(kind, "") if remedy is None else remedy
        message = f"{self}: {what}. {remedy}".rstrip()
        return kind(message, call=self.name, subject=self.subject, status=status, retry_after=retry_after)

    def failure(self, failure: TransportError, secrets: Iterable[Secret[str]] = ()) -> errors.RtiSmsError:
        """Return the error for a request that got no response. It does not repeat the secrets."""
        return self.error(failure.kind, redact(failure.what, secrets), remedy=failure.remedy)

    def _raise_for_status(self, response: HttpResponse, secrets: Iterable[Secret[str]]) -> NoReturn:
        status = response.status
        if self.name == AUTHENTICATE and status in (400, 401):
            kind: type[errors.RtiSmsError] = errors.RtiSmsAuthenticationError
        elif 300 <= status < 400:
            kind = errors.RtiSmsRedirectError
        else:
            kind = errors.STATUS_ERRORS.get(status, errors.RtiSmsUnexpectedStatusError)
        raise self.error(
            kind,
            f"the server returned HTTP {status}",
            # The remedy comes first, because Airflow's page cuts long lines.
            remedy=f"{errors.REMEDIES.get(kind, '')} The response was {self._excerpt(response, secrets)}.".lstrip(),
            status=status,
            retry_after=parse_retry_after(response.headers.get("Retry-After")),
        )

    def _check_words(self, result: T, secrets: Iterable[Secret[str]]) -> None:
        """Refuse a result that repeats what was sent to the server, since results go to XCom."""
        for word in self.words(result):
            if redact(word, secrets) != word or any(contains(word, value) for value in self.confidential):
                raise ValueError("a status or an id repeats confidential values of the request")

    def _excerpt(self, response: HttpResponse, secrets: Iterable[Secret[str]]) -> str:
        """Describe a body for a message: its beginning, or only its length if it is confidential."""
        body = response.body
        if not body:
            return "an empty body"
        # What is shown comes from the first characters; redacting a whole MiB would take seconds.
        text = body[: 20 * EXCERPT_CHARACTERS].decode("utf-8", "replace")
        if self.is_confidential:
            words = sorted(SAFE_WORDS.intersection(re.findall(r"[a-z]+", text.lower())))
            mentions = f" that mentions: {', '.join(words)}" if words else ""
            return f"a body of {len(body)} bytes{mentions} (not shown, since it may repeat confidential values)"
        text = " ".join(redact(text, secrets).split())
        return repr(text if len(text) <= EXCERPT_CHARACTERS else f"{text[:EXCERPT_CHARACTERS]}...")


def _check_text(text: str, decoded: Any, secrets: Iterable[Secret[str]]) -> None:
    """Refuse a text that repeats a credential, since it goes to files and tables."""
    forms = [text, dumps(decoded, ensure_ascii=False)] if "\\" in text else [text]
    if any(contains(form, secret) for form in forms for secret in secrets):
        raise ValueError("it repeats the client secret or the token")


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), or None if it is unreadable."""
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


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """The response of POST /auth. ``validity`` is in seconds, or None where ``validity_period`` could not be read."""

    access_token: Secret[str]
    validity: float | None


def authenticate(settings: ApiSettings) -> Call[TokenGrant]:
    """
    Describe POST /auth: the client-credentials grant of OAuth2 (RFC 6749, section 4.4).

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
        keep_text=(lambda details, text: replace(details, raw=text)) if raw else None,
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
        subject=f"to {plural(len(recipients), 'recipient')}",
        body=dumps(payload).encode("ascii"),
        idempotent=False,
        is_confidential=True,
        confidential=[*recipients, Secret(text.characters)],
        messages=len(recipients),
        words=_words_of_submissions,
    )


def check_sender(value: Any) -> str:
    """Return the sender of a message: a str that is not empty and can be printed."""
    if not isinstance(value, str) or not value.strip():
        raise RtiSmsInputError(f"sender is {shape(value)}: use a str that is not empty.")
    if not value.isprintable():
        raise RtiSmsInputError(f"sender is {shape(value)}, and one of them cannot be printed: use printable text.")
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

    If the call is not idempotent, or has ``params`` or ``json``, its errors do not repeat the response, which may hold
    phone numbers and texts.

    :param method: GET, POST, PUT, PATCH or DELETE.
    :param path: below the base URL, such as ``/sms/4193366853543393``, with or without ``/api``. Segments consist of
        letters, digits and ``. _ ~ -``.
    :param params: the query: a str, a number, a bool or a list of these for each name. None leaves a name out.
    :param json: the body, as JSON; None for no body.
    :param idempotent: whether the request may be sent again after its response was lost. Default: GET only.
    :return: the call; its result is the decoded JSON.
    :raises RtiSmsInputError: an argument has another form; nothing is sent.
    """
    if not isinstance(method, str) or method.upper() not in METHODS:
        raise RtiSmsInputError(f"method is {shape(method)}: use one of {', '.join(METHODS)}.")
    method, path = method.upper(), _check_path(path)
    if not isinstance(idempotent, bool | None):
        raise RtiSmsInputError(f"idempotent is {shape(idempotent)}: use True, False or None.")
    is_idempotent = method == "GET" if idempotent is None else idempotent
    query = _encode_query(params)
    return Call(
        name="request",
        method=method,
        path=path + query,
        parse=lambda response: response,
        subject=f"{method} {_LONG_NUMBER.sub('***', path)}",
        body=None if json is None else _encode_json(json),
        idempotent=is_idempotent,
        is_confidential=not is_idempotent or bool(query) or json is not None,
        words=_strings,
    )


def _check_path(value: Any) -> str:
    """Return the path below the base URL. No value of a template can turn one call into another."""
    match = _PATH.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        segments = match[1].rstrip("/").split("/")
        if segments[0].lower() == "auth":
            raise RtiSmsInputError("path is /auth: the client authenticates by itself, and does not return tokens.")
        if not {".", ".."} & set(segments) and segments != ["api"]:
            return f"/api/{match[1]}"
    raise RtiSmsInputError(
        f"path is {shape(value)} of another form: use a path below /api such as '/sms/4193366853543393', of letters, "
        "digits and . _ ~ -, and give the query as params."
    )


def _encode_query(params: Any) -> str:
    if params is None:
        return ""
    if not isinstance(params, Mapping):
        raise RtiSmsInputError(f"params is {shape(params)}: use a dict of names and values.")
    pairs = []
    for name, value in params.items():
        if not isinstance(name, str) or not name:
            raise RtiSmsInputError("params has a name that is not a str, or is empty.")
        values = value if isinstance(value, list | tuple) else [value]
        pairs += [(name, _encode_value(name, reveal(one))) for one in values if one is not None]
    try:
        query = urlencode(pairs)
    except UnicodeEncodeError:
        raise RtiSmsInputError("params holds half of a character (a lone surrogate).") from None
    return f"?{query}" if query else ""


def _encode_value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise RtiSmsInputError(f"params[{name!r}] is {shape(value)}: use a str, a number, a bool, or a list of these.")


def _encode_json(value: Any) -> bytes:
    try:
        return dumps(value, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError):
        raise RtiSmsInputError(
            f"json is {shape(value)} that JSON cannot hold: use dicts, lists, strings, numbers, bools and None."
        ) from None


def _strings(response: Any) -> Iterator[str]:
    """Give every string of a response."""
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
