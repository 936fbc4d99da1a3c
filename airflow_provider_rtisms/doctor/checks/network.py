"""The settings, and the way to the API: name, TCP, proxy, TLS, HTTP, clock."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.settings import is_loopback
from airflow_provider_rtisms.doctor.checks.check import Check
from airflow_provider_rtisms.doctor.context import (
    BROKEN_REMEDY,
    PROXY_REMEDY,
    TIMEOUT_REMEDY,
    Context,
    Finding,
    ProblemError,
    differs,
    failed,
    milliseconds,
    ok,
    skipped,
)
from airflow_provider_rtisms.doctor.wire import ProxyRefusedError, Route

#: A certificate that is valid for fewer days is about to cause an outage.
LEAST_DAYS_LEFT = 14
#: Seconds that clocks may differ; the header Date has no fractions.
MOST_CLOCK_SKEW = 60

_NEEDS_PROXY = "If this network needs a proxy, set extra 'proxy' of the Connection or the variable HTTPS_PROXY."
#: Reasons of OpenSSL (X509_V_ERR_*), and what to do.
_CERTIFICATE_REMEDIES = {
    9: "Check the clock of this machine: the certificate is not valid yet.",
    10: "Check the clock of this machine. If it is right, tell RealTime that the certificate of the API has expired.",
    62: "Check Host of the Connection: the server there has a certificate for another name.",
    64: "Check Host of the Connection: the server there has a certificate for another name.",
}
_UNTRUSTED = (
    "If your company inspects TLS with its own authority, set extra 'ca_bundle' of the Connection, or the variable "
    "REQUESTS_CA_BUNDLE, to the PEM file of that authority. Otherwise do not trust this server: it may not be the API."
)


def check_settings(ctx: Context) -> Finding:
    """Check the values of the Connection."""
    try:
        settings = ctx.configured
        ctx.secrets += settings.secrets()
        if settings.is_tls:
            settings.trusted_certificates()
    except RtiSmsConfigError as error:
        return failed(f"a value cannot be used: {error}", "Correct the Connection, or the arguments of the command.")
    rate = settings.requests_per_second
    got = (
        f"base URL {settings.base_url}, timeout {settings.timeout:g} s, {settings.max_attempts} attempts, "
        f"{settings.max_concurrency} concurrent requests, {'no limit of' if rate is None else f'{rate:g}'} requests a "
        "second"
    )
    padded = [
        name
        for name, value in (
            ("client id", settings.client_id),
            ("client secret", settings.client_secret.get_secret_value()),
        )
        if value != value.strip()
    ]
    if padded:
        what = " and the ".join(padded)
        return differs(f"the {what} begins or ends with white space", "Check that it was copied without spaces.")
    return ok(got)


def check_name(ctx: Context) -> Finding:
    """Resolve the name of the API, or of the proxy."""
    route = Route(ctx.settings)
    host, port = route.first_hop
    if _is_address(host):
        return ok(f"{host} is an address, not a name")
    whose = "" if route.proxy is None else " of the proxy, which resolves the name of the API itself"
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


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_tcp(ctx: Context) -> Finding:
    """Connect to the API, or to the proxy."""
    route = Route(ctx.settings)
    host, port = route.first_hop
    started = time.monotonic()
    try:
        route.connect(ctx.options.timeout).close()
    except OSError as error:
        reason = "timeout" if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
        return failed(
            f"no connection to {host} port {port}: {reason}",
            f"Check host and port of the Connection, and that a firewall lets this machine connect. {_NEEDS_PROXY}"
            if route.proxy is None
            else f"Check host and port of the proxy, which come from {route.proxy_source()}.",
        )
    return ok(f"connected to {host} port {port} in {milliseconds(time.monotonic() - started)}")


def check_proxy(ctx: Context) -> Finding:
    """Ask the proxy for a way to the API."""
    route = Route(ctx.settings)
    proxy = route.proxy
    if proxy is None:
        return ok("none: direct connections")
    name = f"{proxy.scheme}://{proxy.hostname}:{route.first_hop[1]} from {route.proxy_source()}"
    if proxy.scheme not in ("http", "https"):
        return failed(f"{name}: not an HTTP proxy", "Use the URL of an HTTP proxy, such as http://proxy.example:3128.")
    if not ctx.settings.is_tls:
        return _ask_proxy_for_http(ctx, name)
    try:
        route.open_tunnel(ctx.options.timeout).close()
    except ProxyRefusedError as error:
        if error.status == 407:
            return failed(f"{name}: the proxy refused the connection: HTTP 407", PROXY_REMEDY)
        status = "a response that is not HTTP" if error.status is None else f"HTTP {error.status}"
        remedy = "Ask the administrator of the proxy to allow connections to the API."
        return failed(f"{name}: the proxy refused the connection: {status}", remedy)
    except ssl.SSLError:
        return failed(f"{name}: no TLS connection to the proxy", "Check the URL of the proxy; most begin with http://.")
    except TimeoutError:
        return failed(f"{name}: the proxy did not respond in {ctx.options.timeout:g} s", TIMEOUT_REMEDY)
    except OSError as error:
        return failed(f"{name}: the connection to the proxy broke ({type(error).__name__})", BROKEN_REMEDY)
    return ok(f"{name}: it connects to the API")


def _ask_proxy_for_http(ctx: Context, name: str) -> Finding:
    try:
        ctx.first_contact  # noqa: B018  # its problems count here if they are those of the proxy
    except ProblemError as problem:
        if problem.kind == "proxy":
            raise
    return ok(f"{name}: used for plain http")


def check_tls(ctx: Context) -> Finding:
    """Complete a TLS handshake, and look at the certificate."""
    route = Route(ctx.settings)
    host = route.target[0]
    if not ctx.settings.is_tls:
        if is_loopback(host):
            return skipped("plain http to this machine itself")
        return differs("plain http: everyone on the network can read the client secret", "Use https in Host.")
    try:
        with route.start_tls(ctx.options.timeout) as sock:
            version = sock.version()
            certificate: dict[str, Any] = dict(sock.getpeercert() or {})
    except ssl.SSLCertVerificationError as error:
        remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, _UNTRUSTED)
        return failed(
            f"the certificate is not trusted: {error.verify_message.rstrip('.')}. Verified by {_verifier(ctx)}", remedy
        )
    except ssl.SSLError as error:
        remedy = "Check host and port of the Connection: the server there may not speak TLS."
        return failed(f"no TLS connection: {error.reason or type(error).__name__}", remedy)
    except TimeoutError:
        return failed(f"the TLS handshake was not complete after {ctx.options.timeout:g} s", TIMEOUT_REMEDY)
    except ProxyRefusedError as error:
        return failed(f"the proxy refused the connection: HTTP {error.status}", PROXY_REMEDY)
    except OSError as error:
        return failed(f"the connection broke during the TLS handshake ({type(error).__name__})", BROKEN_REMEDY)
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
    issued_by = str(issuer.get("organizationName") or issuer.get("commonName") or "an authority without a name")[:60]
    got = f"{version}, certificate by {issued_by}, {days:.0f} days left, verified by {_verifier(ctx)}"
    if days < LEAST_DAYS_LEFT:
        return differs(
            got, "The certificate expires soon. If it is not renewed in time, every call fails: tell RealTime."
        )
    return ok(got)


def _verifier(ctx: Context) -> str:
    if ctx.settings.ca_bundle:
        return f"extra ca_bundle ({ctx.settings.ca_bundle})"
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if os.environ.get(name):
            return f"the environment variable {name} ({os.environ[name]})"
    import certifi

    return f"certifi {certifi.__version__}"


def check_http(ctx: Context) -> Finding:
    """Send a request with a made-up token, and see whether an API responds."""
    exchange = ctx.first_contact
    return ok(f"HTTP {exchange.status} to a request with a made-up token, in {milliseconds(exchange.seconds)}")


def check_clock(ctx: Context) -> Finding:
    """Compare the clocks of this machine and of the server."""
    if not ctx.exchanges:
        return skipped("not checked: there was no response")
    exchange = ctx.exchanges[0]
    try:
        date = parsedate_to_datetime(exchange.headers["Date"])
        skew = exchange.at - exchange.seconds / 2 - date.replace(tzinfo=date.tzinfo or UTC).timestamp()
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


_API = "The RTI SMS HTTP API"

CHECKS = (
    Check(
        "settings",
        "a base URL, a client id and a client secret that can be used",
        "Authenticate",
        check_settings,
        extra_seconds=lambda ctx: 60.0,  # Airflow and a secrets backend can be slow
    ),
    Check("name_resolution", "the host name resolves", _API, check_name, ("settings",)),
    Check("tcp", "the port accepts connections", _API, check_tcp, ("name_resolution",), steps=2),
    Check("proxy", "no proxy, or one that lets requests through", _API, check_proxy, ("tcp",), steps=3),
    Check(
        "tls",
        f"TLS, with a trusted certificate that is valid for {LEAST_DAYS_LEFT} days or more",
        _API,
        check_tls,
        ("proxy",),
        steps=3,
    ),
    Check("http", "the API itself responds: no redirect, no web page, no error", "Errors", check_http, ("tls",), 2),
    Check(
        "clock",
        f"clocks that differ by {MOST_CLOCK_SKEW} s or less",
        "Authenticate",
        check_clock,
        ("tls",),
    ),
)
