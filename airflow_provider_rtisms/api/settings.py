"""
Where the API is, who asks, and within which limits: the values that a Connection holds, checked once.
"""

from __future__ import annotations

import ipaddress
import math
import os
import ssl
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, shape
from airflow_provider_rtisms.api.values.secret import Secret

DEFAULT_BASE_URL = "https://www.rti-sms.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """
    Everything a transport has to know; hashable, so that it can key what is shared. Its repr shows no secret.

    Numbers may come as strings, as a form gives them; None and the empty string mean the default.

    :param client_id: OAuth2 client id (RFC 6749, section 2.3.1); Login of the Connection.
    :param client_secret: OAuth2 client secret; Password of the Connection.
    :param base_url: ``scheme://host[:port][/prefix]``, with or without ``/api`` at its end.
    :param timeout: seconds for one HTTP exchange, from connect to the last byte. Default 30.
    :param max_concurrency: most exchanges under way at once in bulk fetches and triggers. Default 32.
    :param requests_per_second: most requests a second in bulk fetches and triggers. Default None: no limit.
    :param proxy: URL of an HTTP proxy. Default None: the proxy environment variables decide.
    :param ca_bundle: file of PEM certificates to trust. Default None: REQUESTS_CA_BUNDLE, SSL_CERT_FILE, certifi.
    :param max_attempts: attempts of one call, the first one included. Default 5.
    :param allow_http: allow plain http to a host that is not loopback. Default False.
    :raises RtiSmsConfigError: a value is missing or malformed; names the field and the remedy.
    """

    client_id: str
    client_secret: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    timeout: float = 30.0
    max_concurrency: int = 32
    requests_per_second: float | None = None
    proxy: str | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    max_attempts: int = 5
    allow_http: bool = False

    def __post_init__(self) -> None:
        checked = {
            "client_id": _credential("client_id", "Login", self.client_id),
            "client_secret": Secret(_credential("client_secret", "Password", self.client_secret)),
            "allow_http": _flag("allow_http", self.allow_http),
            "timeout": _number("timeout", self.timeout, 30.0, least=0.01, most=3600),
            "max_concurrency": _whole("max_concurrency", self.max_concurrency, 32, most=1000),
            "max_attempts": _whole("max_attempts", self.max_attempts, 5, most=100),
            "requests_per_second": _number(
                "requests_per_second", self.requests_per_second, None, least=0.001, most=100_000
            ),
            "proxy": _proxy(self.proxy),
            "ca_bundle": _ca_bundle(self.ca_bundle),
        }
        checked["base_url"] = _base_url(self.base_url or DEFAULT_BASE_URL, bool(checked["allow_http"]))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def is_tls(self) -> bool:
        """Whether the API is spoken to over TLS."""
        return self.base_url.startswith("https:")

    def trusted_certificates(self) -> str:
        """Return the path of the PEM file (or folder) to verify the server against."""
        import certifi

        return (
            self.ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where()
        )

    def proxy_to_use(self) -> str | None:
        """
        Return the proxy URL for this API, or None for a direct connection.

        The transports' own look at the environment stays off, since it would also read ``.netrc`` and put what
        it finds there over our Authorization header.
        """
        if self.proxy:
            return self.proxy
        parts = urlsplit(self.base_url)
        if urllib.request.proxy_bypass(parts.netloc):
            return None
        proxies = urllib.request.getproxies()
        return proxies.get(parts.scheme) or proxies.get("all")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine itself (RFC 6761, section 6.3; RFC 1122)."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credential(name: str, place: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RtiSmsConfigError(f"{name} is missing: put it into {place} of the Connection.")
    return value


def _base_url(value: str, allow_http: bool) -> str:
    try:
        parts = urlsplit(value.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise RtiSmsConfigError(f"Host is no URL ({error}): use https://host or https://host:port.") from None
    if parts.scheme not in ("http", "https") or not host or any(ord(c) <= 32 for c in value.strip()):
        raise RtiSmsConfigError(f"Host is {shape(value)}, but not https://host or https://host:port.")
    if parts.username is not None or parts.query or parts.fragment:
        raise RtiSmsConfigError(
            "Host holds more than https://host:port: credentials go into Login and Password, nothing follows the path."
        )
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise RtiSmsConfigError(
            f"Host {host!r} would be spoken to over plain http, which shows the client secret to the network: "
            "use https, or set extra 'allow_http' to true."
        )
    path = parts.path.rstrip("/").removesuffix("/api")
    return urlunsplit(SplitResult(parts.scheme, parts.netloc, path, "", ""))


def _proxy(value: Any) -> str | None:
    if value in (None, ""):
        return None
    try:
        parts = urlsplit(value)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port is not False:
            return str(value)
    except (ValueError, TypeError, AttributeError):
        pass
    raise RtiSmsConfigError(f"proxy is {shape(value)}, but not a URL such as http://proxy.example:3128.")


def _ca_bundle(value: Any) -> str | None:
    if value in (None, ""):
        return None
    try:
        if not Path(value).is_dir():
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except (TypeError, ValueError, OSError):
        raise RtiSmsConfigError(
            "ca_bundle names no file of certificates on this machine: give the path of a PEM file."
        ) from None
    return str(value)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "false": False, "0": False, "": False, "none": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise RtiSmsConfigError(f"{name} is {shape(value)}: use true or false.") from None


def _number(name: str, value: Any, default: float | None, *, least: float, most: float) -> float | None:
    if value is None or value == "":
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= most:
        raise RtiSmsConfigError(f"{name} is {shape(value)}: use a number from {least:g} to {most:g}.")
    return number


def _whole(name: str, value: Any, default: int, *, most: int) -> int:
    number = _number(name, value, default, least=1, most=most)
    if number is None or number != int(number):
        raise RtiSmsConfigError(f"{name} is no whole number: use one from 1 to {most}.")
    return int(number)
