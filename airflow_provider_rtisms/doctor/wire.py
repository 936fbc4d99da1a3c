"""Connections below HTTP: TCP, the tunnel of a proxy, and TLS. Each step has its own error."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from urllib3.util import make_headers
from urllib3.util.ssltransport import SSLTransport

from airflow_provider_rtisms.api.settings import ApiSettings

_PORTS = {"http": 80, "https": 443}
_MAX_HEAD = 65536


class ProxyRefusedError(Exception):
    """
    A proxy did not open a tunnel.

    :param status: its HTTP status; None if its response was not HTTP.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Route:
    """
    The way to the API.

    :param settings: where the API is.
    """

    settings: ApiSettings

    @property
    def target(self) -> tuple[str, int]:
        """Host and port of the API."""
        return _address(urlsplit(self.settings.base_url))

    @property
    def proxy(self) -> SplitResult | None:
        """The proxy; None for a direct connection."""
        url = self.settings.proxy_to_use()
        return None if url is None else urlsplit(url if "://" in url else f"http://{url}")

    @property
    def first_hop(self) -> tuple[str, int]:
        """Host and port that this machine connects to."""
        return self.target if self.proxy is None else _address(self.proxy)

    def proxy_source(self) -> str:
        """Return where the proxy is configured."""
        if self.settings.proxy:
            return "extra 'proxy' of the Connection"
        scheme = urlsplit(self.settings.base_url).scheme
        names = [name for name in os.environ if name.lower() in (f"{scheme}_proxy", "all_proxy")]
        return f"the environment ({', '.join(sorted(names)) or 'system settings'})"

    def connect(self, timeout: float) -> socket.socket:
        """
        Connect to the first hop.

        :raises OSError: there is no connection.
        """
        return socket.create_connection(self.first_hop, timeout)

    def open_tunnel(self, timeout: float) -> socket.socket | SSLTransport:
        """
        Connect to the API, through the proxy if there is one.

        :raises OSError: a connection failed.
        :raises ProxyRefusedError: the proxy opened no tunnel.
        """
        sock: socket.socket | SSLTransport = self.connect(timeout)
        proxy = self.proxy
        try:
            if proxy is None:
                return sock
            if proxy.scheme == "https":
                sock = tls_context(self.settings).wrap_socket(sock, server_hostname=proxy.hostname)  # type: ignore[arg-type]
            sock.sendall(_connect_request(self.target, proxy))
            status = _read_status(sock, time.monotonic() + timeout)
            if status != 200:
                raise ProxyRefusedError(status)
            return sock
        except BaseException:
            sock.close()
            raise

    def start_tls(self, timeout: float) -> ssl.SSLSocket | SSLTransport:
        """
        Connect to the API and complete the TLS handshake, with the same trust as the clients.

        :raises OSError: a connection or the handshake failed; ssl.SSLError is one.
        :raises ProxyRefusedError: the proxy opened no tunnel.
        """
        context = tls_context(self.settings)
        sock = self.open_tunnel(timeout)
        try:
            if isinstance(sock, ssl.SSLSocket):  # TLS to the API inside TLS to the proxy
                return SSLTransport(sock, context, server_hostname=self.target[0])
            return context.wrap_socket(sock, server_hostname=self.target[0])  # type: ignore[arg-type]
        except BaseException:
            sock.close()
            raise


def tls_context(settings: ApiSettings) -> ssl.SSLContext:
    """Return a context that trusts what the clients trust."""
    trusted = settings.trusted_certificates()
    is_folder = Path(trusted).is_dir()
    return ssl.create_default_context(capath=trusted if is_folder else None, cafile=None if is_folder else trusted)


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or _PORTS.get(url.scheme, 80)


def _connect_request(target: tuple[str, int], proxy: SplitResult) -> bytes:
    host = f"[{target[0]}]" if ":" in target[0] else target[0]
    lines = [f"CONNECT {host}:{target[1]} HTTP/1.1", f"Host: {host}:{target[1]}"]
    if proxy.username is not None:
        credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers = make_headers(proxy_basic_auth=credentials)
        lines += [f"Proxy-Authorization: {value}" for value in headers.values()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _read_status(sock: socket.socket | SSLTransport, deadline: float) -> int | None:
    """Read the head of a response, byte by byte, since what follows it belongs to TLS."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < _MAX_HEAD:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the proxy did not respond in time")
        sock.settimeout(left)
        byte = bytes(sock.recv(1))
        if not byte:
            break
        head += byte
    match = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", head)
    return int(match[1]) if match else None
