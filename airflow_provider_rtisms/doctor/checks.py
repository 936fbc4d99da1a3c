"""
The checks of the doctor, in the order in which they run, each within its time.

A check asks through the :class:`Examination`, which holds the settings and what earlier checks have got.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from pathlib import Path
from secrets import token_hex
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from urllib3.util import make_headers

from airflow_provider_rtisms.api import ApiSettings, RtiSmsClient, Secret, SmsDetails, SmsStatus, endpoints, errors
from airflow_provider_rtisms.api.calls import Call, TransportError
from airflow_provider_rtisms.api.models import Submission
from airflow_provider_rtisms.api.settings import is_loopback
from airflow_provider_rtisms.api.values.arguments import check_submission_id, name_some
from airflow_provider_rtisms.api.values.recipients import Recipient, parse_recipients
from airflow_provider_rtisms.api.values.secret import redact
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.doctor.report import DEFAULT_FOLLOW_FOR, DEFAULT_TIMEOUT, CheckResult, Outcome, Report

#: The documented response to POST /auth.
GRANT = {"access_token": "a string", "validity_period": "a string"}
CHECK_HOST = "Check Base URL (Host) of the Connection."
ISSUE = "Open an issue with this report."
#: What to do about a difference that does no harm.
REPORT_IT = "The package handles this. Please open an issue with this report, since the API has changed."
TIMEOUT_REMEDY = (
    "The server or a proxy sends too slowly, or not at all. Run the doctor again with a longer --timeout. If that "
    "helps, raise the field 'timeout' in the extra of the Connection; if not, ask RealTime or the administrator of "
    "your network."
)
BROKEN_REMEDY = (
    "Something ends the connection: the server, a proxy or a firewall. Run the doctor again; then ask your network's "
    "administrator."
)
PROXY_REMEDY = (
    "Put the user name and the password into the URL of the proxy, percent-encoded: http://user:password@host:port, in "
    "the field 'proxy' in the extra of the Connection or in the environment variable HTTPS_PROXY."
)
UNTRUSTED_REMEDY = (
    "If your company inspects TLS with its own authority, set the field 'ca_bundle' in the extra of the Connection, or "
    "the variable REQUESTS_CA_BUNDLE, to the PEM file of that authority. Otherwise do not trust this server: it may "
    "not be the API."
)
PAGE_REMEDY = f"{CHECK_HOST} If it is right, a proxy or a login page of the network answers in place of the API."
STRING, INTEGER, NUMBER = "a string", "an integer", "a number"
BALANCE = {"balance": STRING}
SUBMISSION = {"status": STRING, "submissionId": STRING}
DETAILS = {
    **{"id": STRING, "timestamps.registered": INTEGER, "timestamps.sent": INTEGER, "timestamps.done": INTEGER},
    **{"info.status.code": STRING, "info.status.status": STRING, "info.cost": NUMBER},
    **{f"info.operator.{name}": STRING for name in ("id", "name", "mcc", "mnc")},
}
#: Fields that the vendor may leave out, or fill with null, until a stage is reached.
LATER = ("timestamps.sent", "timestamps.done")
#: How many fields of each kind a report names.
NAMED = 50
#: Ids that cannot exist. Some servers take the first one for malformed.
IMPOSSIBLE_IDS = ("0", "9" * 16)
#: How many calls are timed, and the seconds above which a median makes bulk fetches slow.
TIMED_CALLS, SLOW = 10, 2.0
#: The text of the SMS, and seconds between two polls of it: the first and the longest pause.
TEXT = "Test message of airflow-provider-rtisms. No action is needed."
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
_CHECK_CREDENTIALS = errors.REMEDIES[errors.RtiSmsAuthenticationError]
_TOKEN_REFUSED = f"The server refused its own new token. {_CHECK_CREDENTIALS}"
_LIMIT_HEADERS = re.compile(r"(x-)?(rate-?limit|quota|throttl)[a-z-]*|retry-after", re.IGNORECASE)
#: A certificate that is valid for fewer days is about to cause an outage.
LEAST_DAYS_LEFT = 14
#: Seconds that clocks may differ; the header Date has no fractions.
MOST_CLOCK_SKEW = 60

_NEEDS_PROXY = "If this network needs a proxy, set the field 'proxy' in the extra of the Connection, or HTTPS_PROXY."
_WRONG_NAME = f"{CHECK_HOST} The server there has a certificate for another name."
#: Reasons of OpenSSL (X509_V_ERR_*), and what to do.
_CERTIFICATE_REMEDIES = {
    9: "Check the clock of this machine: the certificate is not valid yet.",
    10: "Check the clock of this machine. If it is right, tell RealTime that the certificate of the API has expired.",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}


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
        if self.status == 403:
            remedy = remedy or errors.REMEDIES[errors.RtiSmsForbiddenError]
        return FailedError(str(self), remedy or (PAGE_REMEDY if self.is_page else CHECK_HOST))

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
        if error.kind is errors.RtiSmsResponseTooLargeError or "BadStatusLine" in error.what:
            return not_the_api(error.what)
        remedies = {errors.RtiSmsCertificateError: UNTRUSTED_REMEDY, errors.RtiSmsTimeoutError: TIMEOUT_REMEDY}
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


def check_settings(exam: Examination) -> Finding:
    try:
        settings = exam.configured
        exam.secrets += settings.secrets()
        if settings.needs_certificates:
            settings.trusted_certificates()
    except errors.RtiSmsConfigError as error:
        return failed(str(error), "")  # it says what to do
    rate = settings.requests_per_second
    values = {"client id": settings.client_id, "client secret": settings.client_secret.get_secret_value()}
    if padded := [name for name, value in values.items() if value != value.strip()]:
        what = " and the ".join(padded)
        return differs(f"the {what} begins or ends with white space", "Check that it was copied without spaces.")
    return ok(
        f"base URL {settings.base_url}, timeout {settings.timeout:g} s, {settings.max_attempts} attempts, "
        f"{settings.max_concurrency} concurrent requests, {'no limit of' if rate is None else f'{rate:g}'} requests a "
        "second"
    )


def check_name(exam: Examination) -> Finding:
    host, port = _first_hop(exam.settings)
    try:
        return ok(f"{ipaddress.ip_address(host)} is an address, not a name")
    except ValueError:
        whose = "" if _proxy(exam.settings) is None else " of the proxy, which resolves the name of the API itself"
    started = time.monotonic()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        remedy = f"{CHECK_HOST} Check the DNS of this machine too. {_NEEDS_PROXY}"
        return failed(f"the name {host}{whose} cannot be resolved: {reason}", remedy)
    addresses = sorted({str(one[4][0]) for one in found})
    shown = ", ".join(addresses[:4]) + (" and others" if len(addresses) > 4 else "")
    return ok(f"{host}{whose}: {shown}, in {milliseconds(time.monotonic() - started)}")


def check_tcp(exam: Examination) -> Finding:
    host, port = _first_hop(exam.settings)
    started = time.monotonic()
    try:
        socket.create_connection((host, port), exam.timeout).close()
    except OSError as error:
        reason = "timeout" if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
        remedy = f"{CHECK_HOST} Check that a firewall lets this machine connect. {_NEEDS_PROXY}"
        if _proxy(exam.settings) is not None:
            remedy = f"Check host and port of the proxy, which come from {_proxy_source(exam.settings)}."
        return failed(f"no connection to {host} port {port}: {reason}", remedy)
    return ok(f"connected to {host} port {port} in {milliseconds(time.monotonic() - started)}")


def check_proxy(exam: Examination) -> Finding:
    proxy = _proxy(exam.settings)
    if proxy is None:
        return ok("none: direct connections")
    host, port = _first_hop(exam.settings)
    name = f"{proxy.scheme}://{host}:{port} from {_proxy_source(exam.settings)}"
    if not exam.settings.is_tls:
        return ok(f"{name}: used for plain http")
    connection = http.client.HTTPConnection(host, port, timeout=exam.timeout)
    if proxy.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=exam.timeout, context=_tls_context(exam.settings))
    target = "{}:{}".format(*_address(urlsplit(exam.settings.base_url)))
    with _connecting(f"{name}: the connection to the proxy", connection):
        try:
            connection.request("CONNECT", target, headers={"Host": target, **_login(proxy)})
            status = connection.getresponse().status
        except http.client.HTTPException:
            return failed(f"{name}: it sent something that is not HTTP", "Check host and port of the proxy.")
        except ssl.SSLError:
            remedy = "Check the URL of the proxy; most begin with http://."
            return failed(f"{name}: no TLS connection to the proxy", remedy)
    if status != 200:
        remedy = "Ask the administrator of the proxy to allow connections to the API."
        got = f"{name}: the proxy refused the connection: HTTP {status}"
        return failed(got, PROXY_REMEDY if status == 407 else remedy)
    return ok(f"{name}: it connects to the API")


def check_tls(exam: Examination) -> Finding:
    host, port = _address(urlsplit(exam.settings.base_url))
    proxy = _proxy(exam.settings)
    if not exam.settings.is_tls:
        if is_loopback(host):
            return skipped("plain http to this machine itself")
        remedy = "Use https in Base URL (Host) of the Connection."
        return differs("plain http: everyone on the network can read the client secret", remedy)
    if proxy is not None and proxy.scheme == "https":
        return skipped("not checked by itself, since the proxy speaks TLS too; the check http verifies the certificate")
    context = _tls_context(exam.settings)
    connection = http.client.HTTPSConnection(*_first_hop(exam.settings), timeout=exam.timeout, context=context)
    if proxy is not None:
        connection.set_tunnel(host, port, headers=_login(proxy))
    verifier = exam.settings.trusted_certificates()
    with _connecting("the TLS handshake", connection):
        try:
            connection.connect()
            version, certificate = connection.sock.version(), dict(connection.sock.getpeercert() or {})
        except ssl.SSLCertVerificationError as error:
            reason = f"{error.verify_message.rstrip('.')}. Verified by {verifier}"
            remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, UNTRUSTED_REMEDY)
            return failed(f"the certificate is not trusted: {reason}", remedy)
        except ssl.SSLError as error:
            remedy = f"{CHECK_HOST} The server there may not speak TLS."
            return failed(f"no TLS connection: {error.reason or type(error).__name__}", remedy)
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    issued_by = str(issuer.get("organizationName") or issuer.get("commonName") or "an authority without a name")[:60]
    got = f"{version}, certificate by {issued_by}, {days:.0f} days left, verified by {verifier}"
    if days < LEAST_DAYS_LEFT:
        remedy = "The certificate expires soon. If it is not renewed in time, every call fails: tell RealTime."
        return differs(got, remedy)
    return ok(got)


def check_http(exam: Examination) -> Finding:
    """Send a made-up token. If the refusal is not the documented one, the credentials show whether it is the API."""
    response = exam.first_contact = exam.send(endpoints.get_balance(), Secret(f"doctor.{token_hex(16)}.made-up"))
    got = f"HTTP {response.status} to a request with a made-up token, in {milliseconds(response.seconds)}"
    if response.status == 401 and not response.body:
        return ok(got)
    body = response.json()
    is_balance = response.status == 200 and isinstance(body, dict) and "balance" in body
    if not is_balance and (response.status not in (400, 401, 403) or (response.is_page and response.status != 401)):
        raise not_the_api(str(response), PAGE_REMEDY if response.is_page else CHECK_HOST)
    if not exam.is_granted:
        remedy = " If it is right, check Login and Password." if exam.granted.status in (400, 401) else ""
        got = f"{response} to a made-up token, and {exam.granted} to the credentials"
        raise not_the_api(got, CHECK_HOST + remedy)
    return ok(got)


def check_clock(exam: Examination) -> Finding:
    """Compare the clocks of this machine and of the server, which wrote its time half of the way through."""
    if not exam.responses:
        return skipped("not checked: there was no response")
    response = exam.responses[0]
    try:
        date = parsedate_to_datetime(response.headers["Date"])
        skew = response.at - response.seconds / 2 - date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return skipped("not checked: the response has no header Date that can be read")
    if abs(skew) <= MOST_CLOCK_SKEW:
        return ok(f"the clocks agree to within {max(1, round(abs(skew)))} s")
    direction = "ahead of" if skew > 0 else "behind"
    return differs(
        f"this machine's clock is {abs(skew):.0f} s {direction} the server's",
        "Synchronize the clock of this machine (NTP). Wrong clocks break TLS, and make the times in Airflow's logs "
        "differ from those of the submissions. If this machine is right, the server is wrong: tell RealTime.",
    )


def _proxy(settings: ApiSettings) -> SplitResult | None:
    url = settings.proxy_to_use()
    return None if url is None else urlsplit(url)


def _proxy_source(settings: ApiSettings) -> str:
    if settings.proxy:
        return "the field 'proxy' in the extra of the Connection"
    scheme = urlsplit(settings.base_url).scheme
    names = [name for name in os.environ if name.lower() in (f"{scheme}_proxy", "all_proxy")]
    return f"the environment ({', '.join(sorted(names)) or 'system settings'})"


def _login(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    login = make_headers(proxy_basic_auth=f"{unquote(proxy.username)}:{unquote(proxy.password or '')}")
    return {"Proxy-Authorization": login["proxy-authorization"]}


def _first_hop(settings: ApiSettings) -> tuple[str, int]:
    """Return host and port that this machine connects to."""
    return _address(_proxy(settings) or urlsplit(settings.base_url))


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _tls_context(settings: ApiSettings) -> ssl.SSLContext:
    """Return a context that trusts what the clients trust."""
    trusted = settings.trusted_certificates()
    is_folder = Path(trusted).is_dir()
    return ssl.create_default_context(capath=trusted if is_folder else None, cafile=None if is_folder else trusted)


@contextmanager
def _connecting(what: str, connection: http.client.HTTPConnection) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise FailedError(f"{what} was not complete after {connection.timeout:g} s", TIMEOUT_REMEDY) from None
    except OSError as error:
        raise FailedError(f"{what} broke ({type(error).__name__})", BROKEN_REMEDY) from None
    finally:
        connection.close()


def drift(
    form: Mapping[str, str], body: Mapping[str, Any], may_lack: Sequence[str] = (), may_have: Sequence[str] = ()
) -> str:
    """Return how a response differs from its documented form: for each path of a field, the type of its value."""
    found = _types(body)
    parts = {
        "missing fields": [path for path in form if path not in (*found, *may_lack)],
        "unknown fields": [path for path in found if path not in (*form, *may_have)],
        "fields of another type": [
            f"{path} ({found[path]}, not {kind})"
            for path, kind in form.items()
            if path in found and found[path] != kind and (found[path], kind) != (INTEGER, NUMBER)
            if not (path in LATER and found[path] == "null")
        ],
    }
    return "; ".join(f"{title}: {name_some(names, limit=NAMED)}" for title, names in parts.items() if names)


def _types(body: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in body.items():
        path = prefix + safe_name(name)
        found |= _types(value, f"{path}.") if isinstance(value, dict) and value else {path: type_name(value)}
    return found


def check_authentication(exam: Examination) -> Finding:
    response = exam.granted
    if exam.granted.status in (400, 401):
        why = exam.settings.odd_credentials() or "A client secret that was replaced no longer works."
        return failed(f"the server refused the credentials: HTTP {response.status}", f"{_CHECK_CREDENTIALS} {why}")
    if not exam.is_granted:
        raise response.unexpected() if response.status == 403 else not_the_api(str(response))
    exam.grant = response.json_object()
    got, unknown = f"accepted in {milliseconds(response.seconds)}", _unknown_fields(exam)
    is_complete = exam.grant.keys() >= GRANT.keys()  # a renamed field is reported by the check that misses it
    return differs(got + unknown) if unknown and is_complete else ok(got)


def _unknown_fields(exam: Examination) -> str:
    unknown = {name: exam.grant[name] for name in exam.grant if name not in GRANT}
    return f"; {drift({}, unknown)}" if unknown else ""


def check_access_token(exam: Examination) -> Finding:
    token = exam.grant.get("access_token")
    if "access_token" not in exam.grant:
        return failed(f"missing{_unknown_fields(exam)}", CHECK_HOST)
    if not isinstance(token, str) or not token:
        return failed(f"{'an empty string' if token == '' else type_name(token)}, not a token", CHECK_HOST)
    exam.secrets.append(Secret(token))
    try:
        endpoints.authenticate(exam.settings).parse(exam.grant)
    except errors.RtiSmsUnsafeTokenError:
        return failed("the token holds characters that a header must not contain", CHECK_HOST)
    exam.token = exam.secrets[-1]
    return ok(f"a string of {len(token)} characters")


def check_validity_period(exam: Examination) -> Finding:
    seconds = endpoints.authenticate(exam.settings).parse({**exam.grant, "access_token": "any"}).validity
    kind = type_name(exam.grant.get("validity_period"))
    if seconds is None:
        is_there = "validity_period" in exam.grant
        got = f"{kind} that is not a number of seconds" if is_there else f"missing{_unknown_fields(exam)}"
        return differs(f"{got}. The package assumes a validity, and gets a new token after a 401")
    got = f"{kind}: {seconds:g} s"
    if kind == STRING and seconds < 60:
        return differs(f"{got}. So short a validity means many requests for tokens", "Ask RealTime for a longer one.")
    return ok(got) if kind == STRING else differs(got)


def check_balance(exam: Examination) -> Finding:
    response = exam.send(endpoints.get_balance(), exam.token)
    if response.status == 401:
        raise response.unexpected(_TOKEN_REFUSED)
    body = response.json_object()
    got = drift(BALANCE, body)
    if "balance" not in body:
        return failed(got, f"The package cannot read the balance. {ISSUE}")
    try:
        endpoints.get_balance().parse(body)
    except ValueError:
        return failed(f"{type_name(body['balance'])} that is not an amount", ISSUE)
    return differs(got) if got else ok("a decimal string")


def check_unknown_token(exam: Examination) -> Finding:
    response = exam.first_contact
    if response.status == 401:
        length = len(response.body)
        return differs(f"HTTP 401 with a body of {length} bytes") if length else ok("HTTP 401 with an empty body")
    if response.status == 200:
        return differs("HTTP 200: the server accepts any token", CHECK_HOST)
    remedy = f"The package gets a new token only after a 401, so a wait fails once its token has expired. {ISSUE}"
    return failed(f"HTTP {response.status}", remedy)


def check_unknown_id(exam: Examination) -> Finding:
    statuses = []
    for submission_id in IMPOSSIBLE_IDS:
        response = exam.send(endpoints.get_sms(submission_id), exam.token)
        statuses.append(response.status)
        if response.status != 400:
            break
    got = " and ".join(f"HTTP {status}" for status in statuses)
    if response.status == 401:
        raise response.unexpected(_TOKEN_REFUSED)
    if response.status == 200:
        remedy = f"The package cannot tell an unknown submission from a known one. {ISSUE}"
        return failed(f"{got}: the server returns a submission that cannot exist", remedy)
    remedy = f"The package reports unknown ids with another error than usual. {ISSUE}"
    return ok(got) if response.status == 404 else differs(got, remedy)


def check_latency(exam: Examination) -> Finding:
    times: list[float] = []
    give_up_at = time.monotonic() + exam.timeout
    while len(times) < TIMED_CALLS and (not times or time.monotonic() < give_up_at):
        try:
            response = exam.send(endpoints.get_balance(), exam.token)
        except FailedError:
            if not times or exam.responses[-1].status != 429:
                raise
            remedy = (
                "The account has a low threshold. Set 'requests_per_second' in the extra of the Connection below it."
            )
            return differs(f"HTTP 429 after {len(times)} calls in a row", remedy)
        if response.status != 200:
            raise response.unexpected()
        times.append(response.seconds)
    least, middle, most = min(times), median(times), max(times)
    rate = (concurrent := exam.settings.max_concurrency) / max(middle, 1e-6)
    reason = f"{concurrent} requests at once give"
    if (limit := exam.settings.requests_per_second) is not None and limit < rate:
        rate, reason = limit, "requests_per_second allows"
    a_second = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    got = (
        f"{len(times)} calls: min {milliseconds(least)}, median {milliseconds(middle)}, max {milliseconds(most)}. "
        f"{reason} at most {a_second} a second, {rate * 3600:,.0f} submissions an hour, if this machine is fast enough"
    )
    remedy = "Bulk fetches and waits take long. Check the network, then ask RealTime."
    return differs(got, remedy) if middle > SLOW else ok(got)


def check_rate_limit(exam: Examination) -> Finding:
    found = {
        safe_name(name): value if re.fullmatch(r"[0-9]{1,6}", value) else "(not shown)"
        for response in exam.responses
        for name, value in response.headers.items()
        if _LIMIT_HEADERS.fullmatch(name)
    }
    if not found:
        return ok("no headers about limits")
    remedy = (
        "Set the field 'requests_per_second' in the extra of the Connection so that bulk fetches stay below the limit."
    )
    return ok(", ".join(f"{name}: {value}" for name, value in found.items()), remedy)


def check_submission(exam: Examination) -> Finding:
    submission_id = exam.submission_id
    if submission_id is None:
        return skipped("not asked for: --submission-id ID does it, with the id of one of your own submissions")
    response = exam.send(endpoints.get_sms(submission_id), exam.token)
    if response.status == 404:
        return failed("HTTP 404: the API does not know this submission", "Give the id of one of your own submissions.")
    body = response.json_object()
    try:
        details = SmsDetails.from_response(submission_id, body)
    except ValueError as error:
        return failed(str(error), f"The package cannot read this submission. {ISSUE}")
    pending = [] if details.is_final else [path for path in LATER if path not in _types(body)]
    got = [drift(DETAILS, body, may_lack=pending)]
    if details.status is None:
        return failed(got[0], f"The package cannot see the status. {ISSUE}")
    if details.status not in SmsStatus.__members__:
        got.append(f"an undocumented status: {safe_name(details.status)}")
    if any(got):
        return differs("; ".join(filter(None, got)))
    later = f"; not there yet: {', '.join(pending)}" if pending else ""
    return ok(f"{details.status}, every field is as documented{later}")


def check_wrong_secret(exam: Examination) -> Finding:
    if not exam.probe_credentials:
        return skipped("not asked for: --probe-credentials does it. It may count against the account")
    response = exam.send(endpoints.authenticate(replace(exam.settings, client_secret=Secret(token_hex(16)))))
    if response.status == 200:
        return failed("a wrong secret was accepted", CHECK_HOST)
    got = f"refused with HTTP {response.status}"
    return ok(got) if response.status in (400, 401) else differs(got)


def check_send(exam: Examination) -> Finding:
    if exam.send_to is None or exam.sender is None:
        return skipped("not asked for: --send-to NUMBER --sender SENDER sends one SMS, which costs money")
    exam.secrets.append(exam.send_to)
    call = endpoints.send_sms(recipients=[exam.send_to], text=SmsText.of(TEXT), sender=exam.sender)
    bodies: list[Any] = []

    def parse(body: Any) -> list[Submission]:
        bodies.append(body)
        return call.parse(body)

    try:
        (submission,) = exam.client.perform(replace(call, parse=parse))
    except errors.RtiSmsError as error:
        is_uncertain = isinstance(error, errors.RtiSmsUncertainError)
        ask = "Ask the recipient whether the SMS arrived before you send another one."
        return failed(str(error), ask if is_uncertain else "See the message. No SMS was sent.")
    if not submission.is_submitted:
        status = safe_name(submission.status or "no status")
        remedy = "Top up the account." if status == "account_no_balance" else "Run the doctor again later."
        return failed(f"the API did not accept the SMS: {status}", remedy)
    exam.sent_id = submission.submission_id
    got = f"submitted to {exam.send_to}, 1 part; submission {exam.sent_id}"
    unknown = drift(SUBMISSION, {**bodies[-1], **bodies[-1]["submissions"][0]}, may_have=("submissions",))
    return differs(f"{got}; {unknown}") if unknown else ok(got)


def check_delivery(exam: Examination) -> Finding:
    """Follow the SMS until its status is final."""
    if exam.sent_id is None:
        return skipped("not asked for: it follows the SMS of --send-to")
    started, seen, pause, is_final = time.monotonic(), [""], FIRST_PAUSE, False
    while not is_final:
        try:
            details = exam.client.get_sms(exam.sent_id)
            state, is_final = safe_name(details.status or "no status"), details.is_final
        except (errors.RtiSmsTransientError, errors.RtiSmsNotFoundError) as error:
            state = f"HTTP {error.status}" if error.status not in (None, 200) else "no response that can be read"
        seen += [state] if seen[-1] != state else []
        elapsed = time.monotonic() - started
        got = f"{', then '.join(seen[1:])} after {elapsed:.0f} s"
        if not is_final and elapsed + pause > exam.follow_for:
            remedy = f"Look at it again later: run the doctor with --submission-id {exam.sent_id}."
            return differs(f"{got}; not final yet", remedy)
        if not is_final:
            time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    remedy = "The SMS did not arrive. Check the number, then ask RealTime about this submission."
    return ok(got) if state == "DELIVERED" else differs(got, remedy)


_SETTINGS = "a base URL, a client id and a client secret that can be used"
_TLS = f"TLS, with a trusted certificate that is valid for {LEAST_DAYS_LEFT} days or more"
_HTTP = "the API itself responds: no redirect, no web page, no error"
_GRANT = "HTTP 200, with a JSON object of access_token and validity_period"
_401 = "HTTP 401 with an empty body for a made-up token"
_LATENCY = f"a median of {SLOW:g} s or less; RealTime promises nothing"
_FIELDS = "the documented fields, each of its type, and no others"
_SEND = "HTTP 200, with one submission that has a submissionId"
_DELIVERY = "PENDING, SENT, and at the end DELIVERED"
#: In the order in which they run. Settings have a minute more, since Airflow and a secrets backend can be slow.
CHECKS = (
    Check("settings", _SETTINGS, "", check_settings, extra_seconds=lambda exam: 60.0),
    Check("name_resolution", "the host name resolves", "settings", check_name),
    Check("tcp", "the port accepts connections", "name_resolution", check_tcp, steps=2),
    Check("proxy", "no proxy, or one that lets requests through", "tcp", check_proxy, steps=3),
    Check("tls", _TLS, "proxy", check_tls, steps=3),
    Check("http", _HTTP, "tls", check_http, steps=3),
    Check("clock", f"clocks that differ by {MOST_CLOCK_SKEW} s or less", "tls", check_clock),
    Check("authentication", _GRANT, "http", check_authentication),
    Check("access_token", "a string without spaces", "authentication", check_access_token),
    Check("validity_period", "a string of seconds", "authentication", check_validity_period),
    Check("balance", "a balance that is a decimal string", "access_token", check_balance),
    Check("unknown_token", _401, "http", check_unknown_token),
    Check("unknown_id", "HTTP 404 for a submission that does not exist", "access_token", check_unknown_id, steps=2),
    Check("latency", _LATENCY, "balance", check_latency, steps=2),
    Check("rate_limit", "no documented limits", "http", check_rate_limit),
    Check("submission", _FIELDS, "access_token", check_submission),
    Check("wrong_secret", "HTTP 400 or 401 for a wrong secret", "authentication", check_wrong_secret),
    Check("send", _SEND, "access_token", check_send, steps=2),
    Check("delivery", _DELIVERY, "send", check_delivery, 2, lambda exam: exam.follow_for + 2.0),
)


def diagnose(
    settings: ApiSettings | Callable[[], ApiSettings],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    submission_id: str | int | None = None,
    probe_credentials: bool = False,
    send_to: str | None = None,
    sender: str | None = None,
    follow_for: float = DEFAULT_FOLLOW_FOR,
    conn_id: str | None = None,
    on_result: Callable[[CheckResult], Any] = lambda result: None,
) -> Report:
    """
    Check an account, a network and the API. Nothing is changed or sent, unless ``send_to`` asks for it.

    :param settings: where the API is, and the credentials; or a function that returns them, whose RtiSmsConfigError
        becomes a result.
    :param timeout: seconds for one request and its response. Every check takes a few times that at most.
    :param submission_id: a submission of the account, to compare its details with the documentation.
    :param probe_credentials: authenticate once with a wrong secret. It may count against the account.
    :param send_to: a phone number in international form. **One SMS is sent to it, which costs money.**
    :param sender: the sender of that SMS.
    :param follow_for: most seconds to wait until that SMS is final.
    :param conn_id: the Connection that the settings come from; the report names it.
    :param on_result: called with each result as soon as it is there.
    :return: the results.
    :raises RtiSmsInputError: an argument cannot be used; nothing was checked.
    """
    if send_to is not None and not sender:
        raise errors.RtiSmsInputError("sender is missing: a message needs the sender that the recipient sees.")
    if not 0 < timeout <= 3600:
        raise errors.RtiSmsInputError("timeout is not a number of seconds from 0 to 3600.")
    exam = Examination(
        load=settings if callable(settings) else lambda: settings,
        timeout=timeout,
        submission_id=None if submission_id is None else check_submission_id(submission_id),
        probe_credentials=probe_credentials,
        send_to=None if send_to is None else parse_recipients([send_to])[0],
        sender=sender,
        follow_for=follow_for,
    )
    named = "the Connection" if conn_id is None else f"the Connection {conn_id}"
    results: list[CheckResult] = []
    blocked: dict[str, str] = {}
    for check in CHECKS:
        outcome, *texts = _run(exam, check, blocked)
        got, remedy = (
            redact(text, exam.secrets).replace(named, "the Connection").replace("the Connection", named)
            for text in texts
        )
        results.append(CheckResult(check.name, outcome, check.expected, got, remedy))
        on_result(results[-1])
    if "client" in vars(exam):
        exam.client.close()
    return Report(results)


class _ExpiredError(Exception):
    """A check took too long."""


def _run(exam: Examination, check: Check, blocked: dict[str, str]) -> Finding:
    """Run one check; ``blocked`` names the one that is to blame for each check that did not end well."""
    if blame := blocked.get(check.needs):
        blocked[check.name] = blame
        return skipped(f"not checked, because {blame} failed")
    limit = check.limit(exam)
    try:
        finding = _run_within(limit, lambda: check.run(exam))
    except _ExpiredError:
        finding = failed(f"gave up after {limit:g} s", TIMEOUT_REMEDY)
    except FailedError as error:
        finding = error.finding
    except errors.RtiSmsError as error:
        finding = failed(str(error), "See the message.")
    except Exception as error:
        finding = failed(f"the check itself has a defect: {type(error).__name__}", ISSUE)
    if finding.outcome is Outcome.FAILED:
        blocked[check.name] = check.name
    return finding


def _run_within(seconds: float, work: Callable[[], Finding]) -> Finding:
    """Do some work in a thread, and leave it behind if it takes too long: the lookup of a name has no timeout."""
    done: Future[Finding] = Future()

    def target() -> None:
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=target, name="rtisms-doctor", daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():  # the work itself raised it
            raise
        raise _ExpiredError from None
