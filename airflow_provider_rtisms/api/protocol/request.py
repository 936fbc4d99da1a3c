"""
One call of the API: the request that goes out, and how its response is read. Pure, no I/O.

Source: docs/vendor-api.md, "Headers of every other call" and "Errors".
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NoReturn, TypeVar

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.values.redaction import contains, redact
from airflow_provider_rtisms.api.values.secret import Secret

T = TypeVar("T")

#: Name of the call that gets a token.
AUTHENTICATE = "authenticate"
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

_COMMON_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # a small compressed response cannot expand to gigabytes
    "User-Agent": f"airflow-provider-rtisms/{__version__}",
}


# Every request makes one of each of these classes. They are not frozen, because that makes a dataclass several times as
# slow. No code changes them all the same.
@dataclass(slots=True)
class HttpRequest:
    """
    A request to send. Its repr shows neither headers nor body, since both hold secrets.

    :param method: HTTP method.
    :param path: absolute path below the base URL.
    :param headers: all headers that matter to the API.
    :param body: the body, or None.
    :param on_new_connection: whether the request must open a new connection. If a connection that was kept open breaks,
        it is not known whether the server acted on the request.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    on_new_connection: bool = False


@dataclass(slots=True)
class HttpResponse:
    """
    The response that the server returned.

    :param status: HTTP status.
    :param headers: a mapping that ignores case.
    :param body: the body, at most :data:`MAX_RESPONSE_BYTES`.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(slots=True)
class Call(Generic[T]):
    """
    One call of the API: what goes out, and how its response is read.

    :param name: for messages, such as ``get_sms``.
    :param method: HTTP method.
    :param path: path below the base URL.
    :param parse: turns decoded JSON into the result; raises ValueError where it cannot.
    :param subject: for messages, such as the submission id.
    :param body: the body, or None.
    :param content_type: its media type; the API wants one even on GET.
    :param idempotent: False where sending the request twice does harm (RFC 9110, section 9.2.2).
    :param is_confidential: True where a response may repeat numbers, texts or credentials. Then no message repeats it.
    :param confidential: the numbers and the text of a send; a result must not repeat them.
    :param messages: how many messages the call sends.
    :param words: gives the words of a result that the server has chosen freely, such as an undocumented status.
    :param keep_text: returns the result with the text of the response added; None if no one wants the text.
    """

    name: str
    method: str
    path: str
    parse: Callable[[Any], T] = field(repr=False)
    subject: str | None = None
    body: bytes | None = field(default=None, repr=False)
    content_type: str = "application/json"
    idempotent: bool = True
    is_confidential: bool = False
    confidential: Sequence[Secret[str]] = field(default=(), repr=False)
    messages: int = field(default=0, repr=False)
    words: Callable[[T], Iterable[str]] = field(default=lambda result: (), repr=False)
    keep_text: Callable[[T, str], T] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the name and the subject, as messages begin."""
        return f"{self.name} {self.subject}" if self.subject else self.name

    def request(self, access_token: Secret[str] | None = None) -> HttpRequest:
        """
        Return the request to send.

        :param access_token: the bearer token (RFC 6750, section 2.1); None for POST /auth.
        """
        headers = {**_COMMON_HEADERS, "Content-Type": self.content_type}
        if access_token is not None:
            headers["Authorization"] = f"Bearer {access_token.get_secret_value()}"
        return HttpRequest(self.method, self.path, headers, self.body, on_new_connection=not self.idempotent)

    def read(self, response: HttpResponse, secrets: Iterable[Secret[str]] = ()) -> T:
        """
        Return the result that the response holds.

        :param response: what the server returned.
        :param secrets: what neither the result nor a message may repeat: the client secret, the token that was sent.
        :raises RtiSmsError: the class for the response's status; RtiSmsInvalidResponseError for a 200 that cannot be
            read.
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
            decoded = json.loads(text)
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

    def error(
        self,
        kind: type[errors.RtiSmsError],
        what: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> errors.RtiSmsError:
        """
        Return an error that says what was requested, what happened, and what to do.

        :param kind: its class.
        :param what: what happened.
        :param status: HTTP status, if there was a response.
        :param retry_after: seconds that the server asked to wait.
        """
        remedy = errors.REMEDIES.get(kind, "")
        message = f"{self}: {what}. {remedy}".rstrip()
        return kind(message, call=self.name, subject=self.subject, status=status, retry_after=retry_after)

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
            f"the server returned HTTP {status} with {self._excerpt(response, secrets)}",
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
    forms = [text, json.dumps(decoded, ensure_ascii=False)] if "\\" in text else [text]
    if any(contains(form, secret) for form in forms for secret in secrets):
        raise ValueError("it repeats the client secret or the token")


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """
    Return the seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), or None if it cannot be read.

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
