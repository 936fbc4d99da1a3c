"""Send one request as the blocking client does, and keep what that client drops: version, time, connection."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.exceptions import HTTPError

from airflow_provider_rtisms.api.protocol.request import HttpRequest
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport.blocking import new_session, read_capped, transport_error

_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    One response. The repr shows neither headers nor body, since both may hold secrets.

    :param status: HTTP status.
    :param headers: a mapping that ignores case.
    :param body: the body.
    :param version: HTTP version, such as ``HTTP/1.1``.
    :param seconds: from the request to the last byte.
    :param at: when the response was complete, in seconds since 1970.
    :param port: the local port of the connection; None if the server closed it at once.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    version: str
    seconds: float
    at: float
    port: int | None

    def json(self) -> Any:
        """Return the decoded body, or None if it is not JSON."""
        try:
            return json.loads(self.body.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None

    def is_web_page(self) -> bool:
        """Return whether the body is HTML."""
        is_declared = "html" in self.headers.get("Content-Type", "").lower()
        return self.body.lstrip()[:1] == b"<" or (is_declared and self.json() is None)

    def redirect_host(self) -> str:
        """Return where a redirect leads, for a sentence; its path and query may hold secrets."""
        with suppress(ValueError):
            host = urlsplit(self.headers.get("Location", "")).netloc
            if re.fullmatch(r"[A-Za-z0-9.:-]{1,100}", host):
                return f" to {host}"
        return ""


class Prober:
    """
    Send requests one after the other, on connections that stay open, and not faster than the Connection allows.

    :param settings: where the API is.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._session = new_session(settings)
        rate = settings.requests_per_second
        #: Seconds between two requests.
        self.pause = 0.0 if rate is None else min(1 / rate, settings.timeout)
        self._next_at = 0.0

    def send(self, request: HttpRequest) -> Exchange:
        """
        Send a request and read the response.

        :raises TransportError: there was no complete response.
        """
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        started = time.monotonic()
        self._next_at = started + self.pause
        try:
            with self._session.request(
                request.method,
                self._settings.base_url + request.path,
                data=request.body,
                headers=dict(request.headers),
                timeout=urllib3.Timeout(total=self._settings.timeout),  # type: ignore[arg-type]
                allow_redirects=False,
                stream=True,
            ) as response:
                port = _local_port(response)
                body = read_capped(response)
                return Exchange(
                    response.status_code,
                    response.headers,
                    body,
                    _VERSIONS.get(response.raw.version, "another version of HTTP"),
                    time.monotonic() - started,
                    time.time(),
                    port,
                )
        except (requests.RequestException, HTTPError) as error:
            raise transport_error(error, self._settings.timeout) from None

    def close(self) -> None:
        """Close all sockets."""
        self._session.close()


def _local_port(response: requests.Response) -> int | None:
    sock: Any = getattr(getattr(response.raw, "connection", None), "sock", None)
    with suppress(OSError, AttributeError):
        return int(sock.getsockname()[1])
    return None
