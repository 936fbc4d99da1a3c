"""What the checks share: the settings, the options, what earlier checks found, and the words for a finding."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from secrets import token_hex

from airflow_provider_rtisms.api.errors import (
    REMEDIES,
    STATUS_ERRORS,
    RtiSmsRedirectError,
    RtiSmsTimeoutError,
    RtiSmsUnexpectedStatusError,
)
from airflow_provider_rtisms.api.policy.perform import TransportError
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import HttpRequest
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.recipients import Recipient
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.doctor.exchange import Exchange, Prober
from airflow_provider_rtisms.doctor.report import Outcome

#: What to do about a difference that does no harm.
REPORT_IT = "Nothing: the package handles this. Please open an issue with this report, since the API has changed."


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What a check found.

    :param outcome: how it ended.
    :param got: what came, or why the check was skipped.
    :param remedy: what a person can do.
    """

    outcome: Outcome
    got: str
    remedy: str = ""


def ok(got: str, remedy: str = "") -> Finding:
    """Return a finding that is as documented."""
    return Finding(Outcome.OK, got, remedy)


def differs(got: str, remedy: str = REPORT_IT) -> Finding:
    """Return a finding that is not as documented, although the package works."""
    return Finding(Outcome.DIFFERS, got, remedy)


def failed(got: str, remedy: str) -> Finding:
    """Return a finding that keeps the package from working."""
    return Finding(Outcome.FAILED, got, remedy)


def skipped(got: str) -> Finding:
    """Return why a check was skipped."""
    return Finding(Outcome.SKIPPED, got)


class ProblemError(Exception):
    """
    Something that several checks can run into. The first one fails; the others are skipped and name the first one.

    :param kind: two problems of the same kind have the same cause.
    :param got: what came.
    :param remedy: what a person can do.
    """

    def __init__(self, kind: str, got: str, remedy: str) -> None:
        super().__init__(kind, got, remedy)
        self.kind = kind
        self.got = got
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Options:
    """
    What the caller asked for.

    :param timeout: seconds for one request and its response.
    :param submission_id: a submission whose details to check.
    :param probe_credentials: whether to authenticate once with a wrong secret.
    :param send_to: where to send one SMS.
    :param sender: the sender of that SMS.
    :param follow_for: seconds for which to follow that SMS.
    """

    timeout: float
    submission_id: str | None = None
    probe_credentials: bool = False
    send_to: Recipient | None = None
    sender: str | None = None
    follow_for: float = 300.0


@dataclass
class Context:
    """
    The state of one run.

    :param load: returns the settings, or raises RtiSmsConfigError.
    :param options: what the caller asked for.
    """

    load: Callable[[], ApiSettings]
    options: Options
    #: What no result may show. Checks add the tokens that they get.
    secrets: list[Secret[str]] = field(default_factory=list)
    #: The first check that ran into each kind of problem.
    problems: dict[str, str] = field(default_factory=dict)
    #: For each check that failed or was skipped because of another one: the check that is to blame.
    blocked: dict[str, str] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    timed: list[Exchange] = field(default_factory=list)
    grant: dict[str, object] = field(default_factory=dict)
    token: Secret[str] | None = None
    sent_id: str | None = None

    @cached_property
    def configured(self) -> ApiSettings:
        """The settings as they are stored."""
        return self.load()

    @cached_property
    def settings(self) -> ApiSettings:
        """The settings with the timeout of this run."""
        return replace(self.configured, timeout=self.options.timeout, max_attempts=1)

    @cached_property
    def prober(self) -> Prober:
        """What sends the requests."""
        return Prober(self.settings)

    @property
    def pause(self) -> float:
        """The longest pause before a request, in seconds, which ``requests_per_second`` of the Connection asks for."""
        return self.prober.pause if "prober" in self.__dict__ else 0.0

    def close(self) -> None:
        """Close all sockets."""
        if "prober" in self.__dict__:
            self.prober.close()

    def send(self, request: HttpRequest) -> Exchange:
        """
        Send a request and return what came back.

        :raises ProblemError: nothing usable came back: no response, a redirect, an error of the server or of a proxy.
        """
        try:
            exchange = self.prober.send(request)
        except TransportError as error:  # its detail may repeat what a server or a proxy wrote
            remedy = TIMEOUT_REMEDY if error.kind is RtiSmsTimeoutError else BROKEN_REMEDY
            raise ProblemError(error.kind.__name__, error.what, remedy) from None
        self.exchanges.append(exchange)
        status = exchange.status
        if 300 <= status < 400:
            remedy = REMEDIES[RtiSmsRedirectError]
            raise ProblemError("redirect", f"HTTP {status}, a redirect{exchange.redirect_host()}", remedy)
        if status == 407:
            raise ProblemError("proxy", "the proxy refused the request: HTTP 407", PROXY_REMEDY)
        if status == 429:
            remedy = "The account passed a threshold. Wait some minutes, then run the doctor again."
            raise ProblemError("HTTP 429", "HTTP 429: too many requests", remedy)
        if status >= 500:
            remedy = "The server or a proxy before it has a problem. Run the doctor again later; then ask RealTime."
            raise ProblemError(f"HTTP {status}", f"HTTP {status}: an error of the server", remedy)
        if status == 200 and exchange.is_web_page():
            remedy = (
                "Something between this machine and the API sends web pages, such as a login page of the network; or "
                "Host is not the API."
            )
            raise ProblemError("web page", "a web page (HTML) with HTTP 200, not JSON", remedy)
        return exchange

    @cached_property
    def first_contact(self) -> Exchange:
        """The response to a request with a token that does not exist."""
        made_up = Secret(f"doctor.{token_hex(16)}.made-up")
        return self.send(endpoints.get_balance().request(made_up))

    def authorized(self, request: Callable[[Secret[str]], HttpRequest]) -> Exchange:
        """Send a request with the token of this run."""
        assert self.token is not None  # noqa: S101  # every caller needs the check "access_token"
        return self.send(request(self.token))


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


def unexpected(exchange: Exchange, kinds: dict[int, str] | None = None) -> ProblemError:
    """
    Return the problem of a response whose status is not the expected one.

    :param exchange: what came.
    :param kinds: remedies that are better than the usual ones, by status.
    """
    status = exchange.status
    usual = REMEDIES.get(STATUS_ERRORS.get(status, RtiSmsUnexpectedStatusError), "")
    remedy = (kinds or {}).get(status) or usual or REMEDIES[RtiSmsUnexpectedStatusError]
    return ProblemError(f"HTTP {status}", f"HTTP {status}", remedy)


def json_object(exchange: Exchange) -> dict[str, object]:
    """
    Return the JSON object of a response with status 200.

    :raises ProblemError: it holds something else.
    """
    value = exchange.json()
    if isinstance(value, dict):
        return value
    what = "something that is not JSON" if value is None else f"JSON that is not an object (a {type(value).__name__})"
    raise ProblemError("not JSON", f"HTTP 200 with {what}", REMEDIES[RtiSmsUnexpectedStatusError])


def safe_name(name: str) -> str:
    """Return a name that the server chose, such as the name of a field, if it cannot be a secret or a number."""
    if re.fullmatch(r"[A-Za-z_$@][A-Za-z0-9_$@-]{0,39}", name) and not re.search(r"[0-9]{4}", name):
        return name
    return f"(a name of {len(name)} characters, not shown)"


def milliseconds(seconds: float) -> str:
    """Return a duration for a person."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
