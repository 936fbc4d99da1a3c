"""The settings of a client, as the fields of a Connection give them. They are checked once, here."""

from __future__ import annotations

import base64
import ipaddress
import math
import os
import ssl
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, shape
from airflow_provider_rtisms.api.values.recipients import parse_region
from airflow_provider_rtisms.api.values.secret import Secret, reveal

DEFAULT_BASE_URL = "https://www.rti-sms.com"
_HOST_FORMS = "use https://host or https://host:port"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """
    Everything that a client needs to know. It is hashable, so that equal settings can share a client. Its repr shows no
    secret.

    Numbers may be strings, as a form gives them. None and the empty string mean the default.

    :param client_id: OAuth2 client id (RFC 6749, section 2.3.1); Login of the Connection.
    :param client_secret: OAuth2 client secret, a str or a Secret; Password of the Connection.
    :param base_url: ``scheme://host[:port][/prefix]``, with or without ``/api`` at its end.
    :param timeout: seconds for one request and its response, from connect to the last byte.
    :param max_concurrency: most requests at once.
    :param requests_per_second: most requests a second in bulk fetches and triggers; None for no limit.
    :param proxy: URL of an HTTP proxy; None: the proxy environment variables decide.
    :param ca_bundle: file of PEM certificates to trust; None: REQUESTS_CA_BUNDLE, SSL_CERT_FILE, certifi.
    :param max_attempts: most attempts of one call, the first one included.
    :param allow_http: allow plain http to a host that is not loopback.
    :param sender: the sender of messages that name no other one.
    :param default_region: the country, such as ``CL``, in which phone numbers without + are dialled; None: refuse them.
    :param conn_id: the Connection that the values come from, for errors; None if there is none.
    :raises RtiSmsConfigError: a value is missing or malformed; names the field and the remedy.
    """

    client_id: str
    client_secret: Secret[str]
    base_url: str = DEFAULT_BASE_URL
    timeout: float = 30.0
    max_concurrency: int = 32
    requests_per_second: float | None = None
    proxy: str | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    max_attempts: int = 5
    allow_http: bool = False
    sender: str | None = None
    default_region: str | None = None
    conn_id: str | None = field(default=None, compare=False)
    #: The proxy that requests go through: that of the Connection or of the environment.
    _proxy_to_use: str | None = field(init=False, default=None, repr=False, compare=False)
    _secrets: tuple[Secret[str], ...] = field(init=False, default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        of = self.connection

        def extra(name: str) -> str:
            return f"Field {name!r} in the extra of {of}"

        checked = {
            "client_id": _credential("client_id", "Login", self.client_id, of),
            "client_secret": Secret(_credential("client_secret", "Password", reveal(self.client_secret), of)),
            "allow_http": _flag(extra("allow_http"), self.allow_http),
            "timeout": _number(extra("timeout"), self.timeout, 30.0, least=0.01, most=3600),
            "max_concurrency": _whole(extra("max_concurrency"), self.max_concurrency, 32, most=1000),
            "max_attempts": _whole(extra("max_attempts"), self.max_attempts, 5, most=100),
            "requests_per_second": _number(
                extra("requests_per_second"), self.requests_per_second, None, least=0.001, most=100_000
            ),
            "proxy": _proxy(self.proxy, extra("proxy")),
            "ca_bundle": (
                None if self.ca_bundle in (None, "") else _check_certificates(self.ca_bundle, extra("ca_bundle"))
            ),
            "sender": _sender(self.sender, extra("sender")),
            "default_region": _region(self.default_region, extra("default_region")),
        }
        checked["base_url"] = _base_url(self.base_url or DEFAULT_BASE_URL, bool(checked["allow_http"]), of)
        checked["_proxy_to_use"] = checked["proxy"] or _environment_proxy(str(checked["base_url"]))
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_secrets", (self.client_secret, *_proxy_secrets(self._proxy_to_use)))

    @property
    def connection(self) -> str:
        """What errors call the Connection."""
        return f"the Connection {self.conn_id}" if self.conn_id else "the Connection"

    @property
    def is_tls(self) -> bool:
        """Whether the API is reached over TLS."""
        return self.base_url.startswith("https:")

    @property
    def needs_certificates(self) -> bool:
        """Whether there is a certificate to verify: that of the API, or that of the proxy."""
        return self.is_tls or urlsplit(self._proxy_to_use or "").scheme == "https"

    def trusted_certificates(self) -> str:
        """
        Return the path of the PEM file, or of the folder, whose certificates verify the server.

        :raises RtiSmsConfigError: an environment variable names a file that holds no certificates.
        """
        if self.ca_bundle:
            return self.ca_bundle
        for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            if path := os.environ.get(variable):
                return _check_certificates(path, f"The environment variable {variable}")
        import certifi

        return certifi.where()

    def proxy_to_use(self) -> str | None:
        """
        Return the proxy URL for this API, or None for a direct connection.

        The HTTP libraries do not read the environment themselves, since they would also read ``.netrc``.
        """
        return self._proxy_to_use

    def odd_credentials(self) -> str:
        """Return a sentence on credentials that hold what people paste by accident; empty if they do not."""
        fields = {"Login": self.client_id, "Password": self.client_secret.get_secret_value()}
        odd = [name for name, value in fields.items() if any(one.isspace() or not one.isprintable() for one in value)]
        if not odd:
            return ""
        verb = "hold" if len(odd) > 1 else "holds"
        return f"{' and '.join(odd)} {verb} a blank, a line end or an invisible character: enter the value without it."

    def secrets(self) -> tuple[Secret[str], ...]:
        """
        Return what logs and errors must not show: the client secret, and the password and the header value of a proxy.
        """
        return self._secrets


def _proxy_secrets(proxy_url: str | None) -> list[Secret[str]]:
    """Return the password, or the user name if there is none, and the value of the header (RFC 7617, section 2)."""
    proxy = urlsplit(proxy_url or "")
    user, password = unquote(proxy.username or ""), unquote(proxy.password or "")
    if not user and not password:
        return []
    return [Secret(password or user), Secret(base64.b64encode(f"{user}:{password}".encode()).decode())]


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine itself (RFC 6761, section 6.3; RFC 1122)."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credential(name: str, form_field: str, value: Any, of: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RtiSmsConfigError(f"{name} is missing: set {form_field} of {of}.")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise RtiSmsConfigError(f"{name} holds characters that are not valid: correct {form_field} of {of}.")
    return value


def _base_url(value: str, allow_http: bool, of: str) -> str:
    try:
        parts = urlsplit(value.strip())
        host = parts.hostname
        is_url = parts.scheme in ("http", "https") and _is_host(host) and parts.port != 0
    except (ValueError, AttributeError):  # the reason would repeat a part of the value, which may be a secret
        raise RtiSmsConfigError(
            f"Base URL (Host) of {of} is {shape(value)} that is not a URL: {_HOST_FORMS}."
        ) from None
    if not is_url or not host or _has_spaces(value.strip()):
        raise RtiSmsConfigError(f"Base URL (Host) of {of} is {shape(value)} that is not a base URL: {_HOST_FORMS}.")
    # An "@" in the path follows a password that holds a "/".
    if parts.username is not None or "@" in parts.path or parts.query or parts.fragment:
        raise RtiSmsConfigError(
            f"Base URL (Host) of {of} holds credentials, a query or a fragment: {_HOST_FORMS}. Put credentials into "
            "Login and Password."
        )
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise RtiSmsConfigError(
            f"Base URL (Host) of {of} uses plain http, which shows the client secret to everyone on the network: use "
            "https, or set the field 'allow_http' in the extra of the Connection to true."
        )
    path = parts.path.rstrip("/").removesuffix("/api")
    return urlunsplit(SplitResult(parts.scheme, parts.netloc, path, "", ""))


def _proxy(value: Any, name: str) -> str | None:
    if value in (None, ""):
        return None
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in ("http", "https") and _is_host(parts.hostname) and parts.port != 0
    except (ValueError, TypeError, AttributeError):
        is_url = False
    # A path, a query or a fragment is what follows a "/", "?" or "#" that a password should hold percent-encoded.
    if not is_url or parts.path not in ("", "/") or parts.query or parts.fragment or _has_spaces(value):
        raise RtiSmsConfigError(
            f"{name} is {shape(value)} that is not a URL such as http://proxy.example:3128. Special characters of a "
            "password have to be percent-encoded."
        )
    return str(value)


def _environment_proxy(base_url: str) -> str | None:
    """Return the proxy for a URL that the environment variables name. They may leave out the scheme, as curl allows."""
    parts = urlsplit(base_url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    value = proxies.get(parts.scheme) or proxies.get("all")
    if value and "://" not in value:
        value = f"http://{value}"
    return _proxy(value, f"The environment variable {parts.scheme}_proxy or all_proxy")


def _is_host(host: str | None) -> bool:
    """Return whether a host name can be looked up; raise a ValueError where it cannot."""
    return bool(host) and bool(host.encode("idna"))  # type: ignore[union-attr]


def _has_spaces(value: str) -> bool:
    return any(ord(character) <= 32 or ord(character) == 127 for character in value)


def _sender(value: Any, name: str) -> str | None:
    if value in (None, ""):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # JSON such as {"sender": 96000}
    if not isinstance(value, str) or not value.strip():
        raise RtiSmsConfigError(f"{name} is {shape(value)}: use a str that is not empty.")
    return value


def _region(value: Any, name: str) -> str | None:
    if value in (None, ""):
        return None
    region = parse_region(value)
    if region is None:
        raise RtiSmsConfigError(f"{name} is {shape(value)}: use the two letters of a country, such as CL.")
    return region


def _check_certificates(value: Any, name: str) -> str:
    try:
        if not Path(value).is_dir():
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except (TypeError, ValueError, OSError):
        raise RtiSmsConfigError(
            f"{name} does not name a file of certificates on this machine: give the path of a PEM file."
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
        raise RtiSmsConfigError(f"{name} is not a whole number: use one from 1 to {most}.")
    return int(number)
