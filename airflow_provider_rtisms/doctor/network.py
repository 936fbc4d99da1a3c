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
from urllib.parse import SplitResult, unquote, urlsplit

from urllib3.util import make_headers

from airflow_provider_rtisms.api import ApiSettings
from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.settings import is_loopback
from airflow_provider_rtisms.doctor.examination import (
    BROKEN_REMEDY,
    CHECK_HOST,
    PAGE_REMEDY,
    PROXY_REMEDY,
    TIMEOUT_REMEDY,
    UNTRUSTED_REMEDY,
    Check,
    Examination,
    Finding,
    differs,
    failed,
    milliseconds,
    not_the_api,
    ok,
    skipped,
)

#: A certificate that is valid for fewer days is about to cause an outage.
LEAST_DAYS_LEFT = 14
#: Seconds that clocks may differ; the header Date has no fractions.
MOST_CLOCK_SKEW = 60

_NEEDS_PROXY = "If this network needs a proxy, set extra 'proxy' of the Connection or the variable HTTPS_PROXY."
_WRONG_NAME = f"{CHECK_HOST} The server there has a certificate for another name."
#: Reasons of OpenSSL (X509_V_ERR_*), and what to do.
_CERTIFICATE_REMEDIES = {
    9: "Check the clock of this machine: the certificate is not valid yet.",
    10: "Check the clock of this machine. If it is right, tell RealTime that the certificate of the API has expired.",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}


def check_settings(exam: Examination) -> Finding:
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
    if status != 200:
        remedy = "Ask the administrator of the proxy to allow connections to the API."
        got = f"{name}: the proxy refused the connection: HTTP {status}"
        return failed(got, PROXY_REMEDY if status == 407 else remedy)
    return ok(f"{name}: it connects to the API")


def check_tls(exam: Examination) -> Finding:
    host, port = _address(urlsplit(exam.settings.base_url))
    proxy, timeout = _proxy(exam.settings), exam.timeout
    if not exam.settings.is_tls:
        if is_loopback(host):
            return skipped("plain http to this machine itself")
        remedy = "Use https in Base URL (Host) of the Connection."
        return differs("plain http: everyone on the network can read the client secret", remedy)
    if proxy is not None and proxy.scheme == "https":
        return skipped("not checked by itself, since the proxy speaks TLS too; the check http verifies the certificate")
    connection = http.client.HTTPSConnection(
        *_first_hop(exam.settings), timeout=timeout, context=_tls_context(exam.settings)
    )
    if proxy is not None:
        connection.set_tunnel(host, port, headers=_login(proxy))
    verifier = _verifier(exam.settings)
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
    except TimeoutError:
        return failed(f"the TLS handshake was not complete after {timeout:g} s", TIMEOUT_REMEDY)
    except OSError as error:
        return failed(f"the connection broke during the TLS handshake ({type(error).__name__})", BROKEN_REMEDY)
    finally:
        connection.close()
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
    response = exam.first_contact = exam.send("GET", "/balance", token=f"doctor.{token_hex(16)}.made-up")
    got = f"HTTP {response.status} to a request with a made-up token, in {milliseconds(response.seconds)}"
    if response.status == 401 and not response.body:
        return ok(got)
    body = response.json()
    is_balance = response.status == 200 and isinstance(body, dict) and "balance" in body
    if not is_balance and (response.status not in (400, 401, 403) or (response.is_page and response.status != 401)):
        raise not_the_api(str(response), PAGE_REMEDY if response.is_page else CHECK_HOST)
    if not exam.is_granted:
        remedy = f"{CHECK_HOST} If it is right, check Login and Password." if exam.is_refused else CHECK_HOST
        raise not_the_api(f"{response} to a made-up token, and {exam.granted} to the credentials", remedy)
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


_TLS = f"TLS, with a trusted certificate that is valid for {LEAST_DAYS_LEFT} days or more"

CHECKS = (
    Check(
        "settings",
        "a base URL, a client id and a client secret that can be used",
        "",
        check_settings,
        extra_seconds=lambda exam: 60.0,  # Airflow and a secrets backend can be slow
    ),
    Check("name_resolution", "the host name resolves", "settings", check_name),
    Check("tcp", "the port accepts connections", "name_resolution", check_tcp, steps=2),
    Check("proxy", "no proxy, or one that lets requests through", "tcp", check_proxy, steps=3),
    Check("tls", _TLS, "proxy", check_tls, steps=3),
    Check("http", "the API itself responds: no redirect, no web page, no error", "tls", check_http, steps=3),
    Check("clock", f"clocks that differ by {MOST_CLOCK_SKEW} s or less", "tls", check_clock),
)
