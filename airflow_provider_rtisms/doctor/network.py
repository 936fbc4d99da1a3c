"""The first checks: the settings, and the way to the API: name, TCP, proxy, TLS, HTTP, clock."""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from urllib3.util import make_headers

from airflow_provider_rtisms.api import ApiSettings
from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.settings import is_loopback
from airflow_provider_rtisms.doctor.examination import (
    BROKEN_REMEDY,
    PROXY_REMEDY,
    TIMEOUT_REMEDY,
    UNTRUSTED_REMEDY,
    Check,
    Examination,
    FailedError,
    Finding,
    differs,
    failed,
    milliseconds,
    ok,
    skipped,
)

#: A certificate that is valid for fewer days is about to cause an outage.
LEAST_DAYS_LEFT = 14
#: Seconds that clocks may differ; the header Date has no fractions.
MOST_CLOCK_SKEW = 60

_NEEDS_PROXY = "If this network needs a proxy, set extra 'proxy' of the Connection or the variable HTTPS_PROXY."
_WRONG_NAME = "Check Host of the Connection: the server there has a certificate for another name."
#: Reasons of OpenSSL (X509_V_ERR_*), and what to do.
_CERTIFICATE_REMEDIES = {
    9: "Check the clock of this machine: the certificate is not valid yet.",
    10: "Check the clock of this machine. If it is right, tell RealTime that the certificate of the API has expired.",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}


def check_settings(exam: Examination) -> Finding:
    """Check the values of the Connection."""
    try:
        settings = exam.configured
        exam.secrets += settings.secrets()
        if settings.is_tls:
            settings.trusted_certificates()
    except RtiSmsConfigError as error:
        return failed(f"a value cannot be used: {error}", "Correct the Connection, or the arguments of the command.")
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
    """Resolve the name of the API, or of the proxy."""
    host, port = _first_hop(exam.settings)
    if _is_address(host):
        return ok(f"{host} is an address, not a name")
    whose = "" if _proxy(exam.settings) is None else " of the proxy, which resolves the name of the API itself"
    started = time.monotonic()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        remedy = f"Check the host name in Host of the Connection, and the DNS of this machine. {_NEEDS_PROXY}"
        return failed(f"the name {host}{whose} cannot be resolved: {reason}", remedy)
    addresses = sorted({str(one[4][0]) for one in found})
    shown = ", ".join(addresses[:4]) + (" and others" if len(addresses) > 4 else "")
    return ok(f"{host}{whose}: {shown}, in {milliseconds(time.monotonic() - started)}")


def check_tcp(exam: Examination) -> Finding:
    """Connect to the API, or to the proxy."""
    host, port = _first_hop(exam.settings)
    started = time.monotonic()
    try:
        socket.create_connection((host, port), exam.timeout).close()
    except OSError as error:
        reason = "timeout" if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
        remedy = f"Check host and port of the Connection, and that a firewall lets this machine connect. {_NEEDS_PROXY}"
        if _proxy(exam.settings) is not None:
            remedy = f"Check host and port of the proxy, which come from {_proxy_source(exam.settings)}."
        return failed(f"no connection to {host} port {port}: {reason}", remedy)
    return ok(f"connected to {host} port {port} in {milliseconds(time.monotonic() - started)}")


def check_proxy(exam: Examination) -> Finding:
    """Ask the proxy for a way to the API."""
    proxy, timeout = _proxy(exam.settings), exam.timeout
    if proxy is None:
        return ok("none: direct connections")
    host, port = _first_hop(exam.settings)
    name = f"{proxy.scheme}://{host}:{port} from {_proxy_source(exam.settings)}"
    if not exam.settings.is_tls:
        return ok(f"{name}: used for plain http")
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if proxy.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=_tls_context(exam.settings))
    target = "{}:{}".format(*_address(urlsplit(exam.settings.base_url)))
    try:
        connection.request("CONNECT", target, headers={"Host": target, **_login(proxy)})
        status = connection.getresponse().status
    except http.client.HTTPException:
        return failed(f"{name}: it sent something that is not HTTP", "Check host and port of the proxy.")
    except ssl.SSLError:
        return failed(f"{name}: no TLS connection to the proxy", "Check the URL of the proxy; most begin with http://.")
    except TimeoutError:
        return failed(f"{name}: the proxy did not respond in {timeout:g} s", TIMEOUT_REMEDY)
    except OSError as error:
        return failed(f"{name}: the connection to the proxy broke ({type(error).__name__})", BROKEN_REMEDY)
    finally:
        connection.close()
    if status == 407:
        return failed(f"{name}: the proxy refused the connection: HTTP 407", PROXY_REMEDY)
    if status != 200:
        remedy = "Ask the administrator of the proxy to allow connections to the API."
        return failed(f"{name}: the proxy refused the connection: HTTP {status}", remedy)
    return ok(f"{name}: it connects to the API")


def check_tls(exam: Examination) -> Finding:
    """Complete a TLS handshake, and look at the certificate."""
    host, port = _address(urlsplit(exam.settings.base_url))
    proxy, timeout = _proxy(exam.settings), exam.timeout
    if not exam.settings.is_tls:
        if is_loopback(host):
            return skipped("plain http to this machine itself")
        return differs("plain http: everyone on the network can read the client secret", "Use https in Host.")
    if proxy is not None and proxy.scheme == "https":
        return skipped("not checked by itself, since the proxy speaks TLS too; the check http verifies the certificate")
    connection = http.client.HTTPSConnection(
        *_first_hop(exam.settings), timeout=timeout, context=_tls_context(exam.settings)
    )
    if proxy is not None:
        connection.set_tunnel(host, port, headers=_login(proxy))
    try:
        connection.connect()
        version, certificate = connection.sock.version(), dict(connection.sock.getpeercert() or {})
    except ssl.SSLCertVerificationError as error:
        reason = f"{error.verify_message.rstrip('.')}. Verified by {_verifier(exam.settings)}"
        remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, UNTRUSTED_REMEDY)
        return failed(f"the certificate is not trusted: {reason}", remedy)
    except ssl.SSLError as error:
        remedy = "Check host and port of the Connection: the server there may not speak TLS."
        return failed(f"no TLS connection: {error.reason or type(error).__name__}", remedy)
    except TimeoutError:
        return failed(f"the TLS handshake was not complete after {timeout:g} s", TIMEOUT_REMEDY)
    except OSError as error:
        return failed(f"the connection broke during the TLS handshake ({type(error).__name__})", BROKEN_REMEDY)
    finally:
        connection.close()
    return _judge_certificate(f"{version}, certificate by", certificate, _verifier(exam.settings))


def _judge_certificate(got: str, certificate: dict[str, Any], verifier: str) -> Finding:
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    issued_by = str(issuer.get("organizationName") or issuer.get("commonName") or "an authority without a name")[:60]
    got = f"{got} {issued_by}, {days:.0f} days left, verified by {verifier}"
    if days < LEAST_DAYS_LEFT:
        remedy = "The certificate expires soon. If it is not renewed in time, every call fails: tell RealTime."
        return differs(got, remedy)
    return ok(got)


def check_http(exam: Examination) -> Finding:
    """Send a request with a made-up token, and see whether an API responds."""
    response = exam.first_contact = exam.send("GET", "/balance", token=f"doctor.{token_hex(16)}.made-up")
    if response.status in (404, 405):
        raise FailedError(f"HTTP {response.status}: this is not the RTI SMS API", "Check Host of the Connection.")
    return ok(f"HTTP {response.status} to a request with a made-up token, in {milliseconds(response.seconds)}")


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


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _proxy(settings: ApiSettings) -> SplitResult | None:
    url = settings.proxy_to_use()
    return None if url is None else urlsplit(url)


def _proxy_source(settings: ApiSettings) -> str:
    if settings.proxy:
        return "extra 'proxy' of the Connection"
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


def _verifier(settings: ApiSettings) -> str:
    if settings.ca_bundle:
        return f"extra ca_bundle ({settings.ca_bundle})"
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if os.environ.get(name):
            return f"the environment variable {name} ({os.environ[name]})"
    import certifi

    return f"certifi {certifi.__version__}"


_API, _AUTH = "The RTI SMS HTTP API", "Authenticate"
_TLS = f"TLS, with a trusted certificate that is valid for {LEAST_DAYS_LEFT} days or more"
_HTTP = "the API itself responds: no redirect, no web page, no error"

CHECKS = (
    Check(
        "settings",
        "a base URL, a client id and a client secret that can be used",
        _AUTH,
        (),
        check_settings,
        extra_seconds=lambda exam: 60.0,  # Airflow and a secrets backend can be slow
    ),
    Check("name_resolution", "the host name resolves", _API, ("settings",), check_name),
    Check("tcp", "the port accepts connections", _API, ("name_resolution",), check_tcp, steps=2),
    Check("proxy", "no proxy, or one that lets requests through", _API, ("tcp",), check_proxy, steps=3),
    Check("tls", _TLS, _API, ("proxy",), check_tls, steps=3),
    Check("http", _HTTP, "Errors", ("tls",), check_http, steps=2),
    Check("clock", f"clocks that differ by {MOST_CLOCK_SKEW} s or less", _AUTH, ("tls",), check_clock),
)
