"""
What a call of the API is: the request that goes out, and how any response is read. Pure, no I/O.

Source: API page, chapters "Every other call" and "Errors".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote, quote_plus

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api import errors

T = TypeVar("T")

#: Name of the call that gets a token.
AUTHENTICATE = "authenticate"
#: No response of this API comes near it; reading stops here (design.md, rule 5).
MAX_RESPONSE_BYTES = 1024 * 1024
#: How much of an response an error message repeats.
EXCERPT_CHARACTERS = 200

_COMMON_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # no response can unfold into more than it weighs
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
class HttpResponse:
    """
    Bytes that came back.

    :param status: HTTP status.
    :param headers: a mapping that ignores case.
    :param body: the entity, at most :data:`MAX_RESPONSE_BYTES`.
    :param sent_at: when the request left, on the monotonic clock of a transport that keeps a pace.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    sent_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """
    One call of the API: what goes out, and how its response is read.

    :param name: for messages, such as ``get_sms``.
    :param method: HTTP method.
    :param path: path below the base URL.
    :param parse: turns decoded JSON into the result; raises ValueError where it cannot.
    :param subject: for messages, such as the submission id.
    :param body: the entity, or None.
    :param content_type: its media type; the API wants one even on GET.
    :param idempotent: False where repeating a request that was acted on does harm.
    :param private: values that no message may repeat, each with what stands in its place.
    """

    name: str
    method: str
    path: str
    parse: Callable[[Any], T] = field(repr=False)
    subject: str | None = None
    body: bytes | None = field(default=None, repr=False)
    content_type: str = "application/json"
    idempotent: bool = True
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
        return HttpRequest(self.method, self.path, headers, self.body, on_new_connection=not self.idempotent)

    def read(self, response: HttpResponse, secrets: Sequence[str] = ()) -> T:
        """
        Return the result that the response holds.

        :param response: what came back.
        :param secrets: what no message may repeat, though the response does: the token that was sent, the client secret.
        :raises RtiSmsError: the class for the response's status; RtiSmsInvalidResponseError for a 200 that cannot be read.
        """
        if response.status != 200:
            self._refuse(response, secrets)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self.error(
                errors.RtiSmsInvalidResponseError, "the response is compressed, which was not asked for", status=200
            )
        try:
            return self.parse(json.loads(response.body.decode("utf-8-sig")))
        except (ValueError, RecursionError) as problem:
            # A grant that cannot be read may still hold a token, so it is not repeated.
            came = "" if self.name == AUTHENTICATE else f": {self._excerpt(response.body, secrets)}"
            what = f"the response of {len(response.body)} bytes cannot be read ({problem}){came}"
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
        Return an error that says what was asked, what came and what to do.

        :param kind: its class.
        :param what: what came.
        :param status: HTTP status, if there was an response.
        :param retry_after: seconds the server asked to wait.
        """
        remedy = errors.REMEDIES.get(kind, "")
        message = f"{self}: {what}. {remedy}".rstrip()
        return kind(message, call=self.name, subject=self.subject, status=status, retry_after=retry_after)

    def _refuse(self, response: HttpResponse, secrets: Sequence[str]) -> NoReturn:
        status = response.status
        if self.name == AUTHENTICATE and status in (400, 401):
            kind: type[errors.RtiSmsError] = errors.RtiSmsAuthenticationError
        elif 300 <= status < 400:
            kind = errors.RtiSmsRedirectError
        else:
            kind = errors.STATUS_ERRORS.get(status, errors.RtiSmsUnexpectedStatusError)
        raise self.error(
            kind,
            f"the server responded HTTP {status} with {self._excerpt(response.body, secrets)}",
            status=status,
            retry_after=parse_retry_after(response.headers.get("Retry-After")),
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


def _spellings(secret: str) -> dict[str, str]:
    """Return a secret as text, form, URL, JSON and Python's repr write it, each with what stands in its place."""
    quoted = {quote_plus(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(str(secret))[1:-1]}
    return dict.fromkeys({secret, *quoted}, "***")
