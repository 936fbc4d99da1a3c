"""
Refuse control calls from web pages.

The sandbox has no password, and a browser lets every page send requests to this machine. Two headers that a page cannot
choose tell its requests apart: ``Origin`` is the site of the page, and ``Host`` is the name in the URL, which is the
attacker's own after DNS rebinding.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from reprlib import repr as short_repr

# A host name, an IPv4 address, or an IPv6 address in brackets; then perhaps a port (RFC 9110, 7.2).
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^\s:/@\[\]]+))(?::[0-9]*)?", re.IGNORECASE)


def why_refused(headers: Mapping[str, str], own_hosts: Collection[str]) -> str | None:
    """
    Return why a control call is refused.

    :param headers: the headers of the request; names are not case-sensitive.
    :param own_hosts: names and addresses of the sandbox besides those of loopback.
    :return: the reason, for people; None if the call is allowed.
    """
    host, origin = headers.get("Host", ""), headers.get("Origin")
    match = _HOST.fullmatch(host)
    name = (match["ipv6"] or match["name"]).lower() if match else ""
    if not _is_loopback(name) and name not in {own.lower() for own in own_hosts}:
        return (
            f"the header Host is {short_repr(host)}; control calls must use localhost, a loopback address, "
            "or the host that the sandbox is bound to"
        )
    if origin is not None and origin.lower() != f"http://{host}".lower():
        return f"the header Origin is {short_repr(origin)}; web pages of other sites must not make control calls"
    return None


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
