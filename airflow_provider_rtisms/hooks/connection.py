"""What a Connection says, and how it is read on the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.providers.common.compat.sdk import mask_secret

from airflow_provider_rtisms.get_provider_info import CONN_FIELDS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_rtisms.api.settings import ApiSettings

log = logging.getLogger(__name__)


def settings_from_connection(connection: Connection) -> ApiSettings:
    """
    Return what a Connection says, checked.

    Host is ``scheme://host[:port]``, or the three stand in Host, Port and Schema as HttpHook reads them. Without a
    scheme it is https, and http for a loopback host.

    :param connection: of type ``rtisms``.
    :raises RtiSmsConfigError: a field is missing or malformed; names it.
    """
    from airflow_provider_rtisms.api.settings import ApiSettings
    from airflow_provider_rtisms.api.values.secret import Secret

    extras = dict(connection.extra_dejson or {})
    known = {name: extras.pop(name) for name in CONN_FIELDS if name in extras}
    settings = ApiSettings(
        client_id=connection.login or "",
        client_secret=Secret(connection.password or ""),
        base_url=_base_url(connection),
        **known,
    )
    # The secret also travels form-encoded, and a proxy URL may hold a password.
    for secret in (quote(settings.client_secret, safe=""), urlsplit(settings.proxy or "").password):
        if secret:
            mask_secret(secret)
    if extras:
        log.warning(
            "Connection %s has extras that mean nothing here: %s. Known ones: %s",
            connection.conn_id,
            ", ".join(sorted(extras)),
            ", ".join(CONN_FIELDS),
        )
    return settings


@dataclass(slots=True)
class _Reading:
    """The latest read of a Connection, for those who wait for it; made anew once nobody does."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    began: float = 0.0
    settings: ApiSettings | None = None


_readings: dict[tuple[asyncio.AbstractEventLoop, str], _Reading] = {}


async def single_flight_read(conn_id: str, read: Callable[[], ApiSettings]) -> ApiSettings:
    """
    Read a Connection in a thread, the one way that serves dag.test and the real triggerer on every version.

    asgiref's ``sync_to_async`` keeps the way back to the triggerer's supervisor open; a bare thread does not. Triggers
    that ask at the same time share a read that began after they had asked: the supervisor serves few reads a second,
    and a triggerer may start a thousand triggers at once.

    :param conn_id: which Connection.
    :param read: reads it, blocking.
    :raises RtiSmsConfigError: a field of the Connection is missing or malformed.
    """
    from asgiref.sync import sync_to_async

    asked = time.monotonic()
    key = (asyncio.get_running_loop(), conn_id)
    reading = _readings.setdefault(key, _Reading())
    reading.users += 1
    try:
        async with reading.turn:
            if reading.settings is None or reading.began < asked:
                reading.began = time.monotonic()
                reading.settings = None
                reading.settings = await sync_to_async(read)()
            return reading.settings
    finally:
        reading.users -= 1
        if reading.users == 0:
            _readings.pop(key, None)


def _base_url(connection: Connection) -> str:
    from airflow_provider_rtisms.api.settings import is_loopback

    host = (connection.host or "").strip()
    if not host:
        return ""
    if "://" not in host:
        name = host.split("/")[0]
        bare = name.strip("[]") if name.count(":") > 1 else name.split(":")[0]
        if name.count(":") > 1 and not name.startswith("["):
            host = host.replace(name, f"[{name}]", 1)
        scheme = (connection.schema or ("http" if is_loopback(bare) else "https")).removesuffix("://")
        host = f"{scheme}://{host}"
    if connection.port:
        parts = urlsplit(host)
        if parts.netloc.rpartition("]")[2].count(":") == 0:
            host = parts._replace(netloc=f"{parts.netloc}:{connection.port}").geturl()
    return host
