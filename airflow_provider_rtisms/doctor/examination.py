"""What the checks of the doctor share: the settings, the requests, what earlier checks got, and the words for it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

from airflow_provider_rtisms.api import ApiSettings, RtiSmsClient, Secret, endpoints
from airflow_provider_rtisms.api.calls import Call, TransportError
from airflow_provider_rtisms.api.errors import (
    REMEDIES,
    RtiSmsCertificateError,
    RtiSmsForbiddenError,
    RtiSmsResponseTooLargeError,
    RtiSmsTimeoutError,
)
from airflow_provider_rtisms.api.values.recipients import Recipient
from airflow_provider_rtisms.doctor.report import Outcome

#: The documented response to POST /auth.
GRANT = {"access_token": "a string", "validity_period": "a string"}
CHECK_HOST = "Check Base URL (Host) of the Connection."
ISSUE = "Open an issue with this report."
#: What to do about a difference that does no harm.
REPORT_IT = "The package handles this. Please open an issue with this report, since the API has changed."
TIMEOUT_REMEDY = (
    "The server or a proxy sends too slowly, or not at all. Run the doctor again with a longer --timeout. If that "
    "helps, raise 'timeout' of the Connection; if not, ask RealTime or your network's administrator."
)
BROKEN_REMEDY = (
    "Something ends the connection: the server, a proxy or a firewall. Run the doctor again; then ask your network's "
    "administrator."
)
PROXY_REMEDY = (
    "Put the user name and the password into the URL of the proxy, percent-encoded: http://user:password@host:port, in "
    "extra 'proxy' of the Connection or in the environment variable HTTPS_PROXY."
)
UNTRUSTED_REMEDY = (
    "If your company inspects TLS with its own authority, set extra 'ca_bundle' of the Connection, or the variable "
    "REQUESTS_CA_BUNDLE, to the PEM file of that authority. Otherwise do not trust this server: it may not be the API."
)
PAGE_REMEDY = f"{CHECK_HOST} If it is right, a proxy or a login page of the network answers in place of the API."


class Finding(NamedTuple):
    """What a check found: how it ended, what came or why it was skipped, and what a person can do."""

    outcome: Outcome
    got: str
    remedy: str = ""


ok, failed, skipped = (partial(Finding, outcome) for outcome in (Outcome.OK, Outcome.FAILED, Outcome.SKIPPED))


def differs(got: str, remedy: str = REPORT_IT) -> Finding:
    return Finding(Outcome.DIFFERS, got, remedy)


class FailedError(Exception):
    """A check failed: what came, and what a person can do."""

    def __init__(self, got: str, remedy: str) -> None:
        super().__init__(got, remedy)
        self.finding = failed(got, remedy)


def not_the_api(got: str, remedy: str = CHECK_HOST) -> FailedError:
    return FailedError(f"{got}: this is not the RTI SMS API", remedy)


@dataclass(frozen=True, slots=True)
class Response:
    """One response. The repr shows neither headers nor body, since both may hold secrets."""

    status: int
    headers: Mapping[str, str] = field(repr=False)  # ignores case
    body: bytes = field(repr=False)
    seconds: float  # from the request to the last byte
    at: float  # Unix time of the last byte

    def json(self) -> Any:
        """Return the decoded body, or None if it is not JSON."""
        try:
            return json.loads(self.body.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None

    @property
    def is_page(self) -> bool:
        """Whether it is HTML or XML."""
        is_declared = "html" in self.headers.get("Content-Type", "").lower()
        return self.body.lstrip()[:1] == b"<" or (is_declared and self.json() is None)

    def __str__(self) -> str:
        """Return what came, in words. The path and the query of a redirect may hold secrets."""
        value, words = self.json(), ""
        if 300 <= self.status < 400:
            host = re.match(r"https?://([A-Za-z0-9.:-]{1,100})(?=[/?#]|$)", self.headers.get("Location", ""))
            words = f", a redirect to {host[1]}" if host else ", a redirect"
        elif self.is_page:
            words = " with a web page"
        elif self.status == 200:
            kind = "something that is not JSON" if value is None else f"{type_name(value)} in JSON, not an object"
            words = " with a JSON object" if isinstance(value, dict) else f" with {kind}"
        return f"HTTP {self.status}{words}"

    def json_object(self) -> dict[str, Any]:
        """Return the JSON object of a response with status 200, or raise FailedError."""
        value = self.json()
        if self.status == 200 and isinstance(value, dict):
            return value
        raise self.unexpected()

    def unexpected(self, remedy: str = "") -> FailedError:
        usual = REMEDIES[RtiSmsForbiddenError] if self.status == 403 else PAGE_REMEDY if self.is_page else CHECK_HOST
        return FailedError(str(self), remedy or usual)

    def check_server(self) -> None:
        """Raise FailedError for an error of a proxy or of the server."""
        if self.status == 407:
            raise FailedError("the proxy refused the request: HTTP 407", PROXY_REMEDY)
        if self.status == 429:
            remedy = "The account passed a threshold. Wait some minutes, then run the doctor again."
            raise FailedError("HTTP 429: too many requests", remedy)
        if self.status >= 500 and self.status != 501:  # a server that does not know the method
            remedy = "The server or a proxy before it has a problem. Run the doctor again later; then ask RealTime."
            raise FailedError(f"HTTP {self.status}: an error of the server", remedy)


@dataclass(kw_only=True)
class Examination:
    """The state of one run: what the caller of ``diagnose`` asked for, and what the checks have got."""

    load: Callable[[], ApiSettings]
    timeout: float
    submission_id: str | None
    probe_credentials: bool
    send_to: Recipient | None
    sender: str | None
    follow_for: float
    #: What no result may show. Checks add the tokens that they get.
    secrets: list[Secret[str]] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    #: The response to a request with a made-up token.
    first_contact: Response = field(init=False)
    grant: dict[str, Any] = field(default_factory=dict)
    token: Secret[str] = field(init=False)
    sent_id: str | None = None
    _next_at: float = 0.0

    @cached_property
    def configured(self) -> ApiSettings:
        """The settings as they are stored."""
        return self.load()

    @cached_property
    def settings(self) -> ApiSettings:
        """The settings with the timeout of this run."""
        return replace(self.configured, timeout=self.timeout, max_attempts=1)

    @cached_property
    def client(self) -> RtiSmsClient:
        return RtiSmsClient(self.settings, on_secret=lambda token: self.secrets.append(Secret(token)))

    @cached_property
    def granted(self) -> Response:
        """The response to the credentials."""
        return self.send(endpoints.authenticate(self.settings))

    @property
    def is_granted(self) -> bool:
        """Whether the credentials got something with a documented field."""
        body = self.granted.json()
        return self.granted.status == 200 and isinstance(body, dict) and not GRANT.keys().isdisjoint(body)

    @property
    def pause(self) -> float:
        """Seconds between two requests, which ``requests_per_second`` of the Connection asks for."""
        rate = self.settings.requests_per_second if "settings" in self.__dict__ else None
        return 0.0 if rate is None else min(1 / rate, self.timeout)

    def send(self, call: Call[Any], token: Secret[str] | None = None) -> Response:
        """
        Send the request of a call, and return what came back, whatever it is.

        :raises FailedError: no complete response came, or a proxy or the server has a problem.
        """
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        started = time.monotonic()
        self._next_at = started + self.pause
        try:
            got = self.client.send(call.request(token))
        except TransportError as error:  # its detail may repeat what a server or a proxy wrote
            raise self._no_response(error) from None
        response = Response(got.status, got.headers, got.body, time.monotonic() - started, time.time())
        self.responses.append(response)
        response.check_server()
        if self.grant and 300 <= response.status < 400:  # before there is one, this is not the API
            raise response.unexpected()
        return response

    def _no_response(self, error: TransportError) -> FailedError:
        if error.kind is RtiSmsResponseTooLargeError or "BadStatusLine" in error.what:
            return not_the_api(error.what)
        remedies = {RtiSmsCertificateError: UNTRUSTED_REMEDY, RtiSmsTimeoutError: TIMEOUT_REMEDY}
        return FailedError(error.what, remedies.get(error.kind, BROKEN_REMEDY))


class Check(NamedTuple):
    """One check, and what is documented of it. If one that it needs failed, it is skipped."""

    name: str
    expected: str
    needs: str
    #: Does it; may raise FailedError.
    run: Callable[[Examination], Finding]
    #: Most requests or connections, each of which takes at most the timeout; and how much longer it may take.
    steps: int = 1
    extra_seconds: Callable[[Examination], float] = lambda exam: 2.0

    def limit(self, exam: Examination) -> float:
        """Return the seconds after which the check is given up."""
        return self.steps * (exam.timeout + exam.pause) + self.extra_seconds(exam)


def type_name(value: Any) -> str:
    """Return the JSON type of a value, with its article."""
    names = {"NoneType": "null", "bool": "a boolean", "str": "a string", "int": "an integer", "float": "a number"}
    return {**names, "list": "an array", "dict": "an object"}[type(value).__name__]


def safe_name(name: str) -> str:
    """Return a name that the server chose, such as the name of a field, if it cannot be a secret or a number."""
    if re.fullmatch(r"[A-Za-z_$@][A-Za-z0-9_$@-]{0,39}", name) and not re.search(r"[0-9]{4}", name):
        return name
    return f"(a name of {len(name)} characters, not shown)"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
