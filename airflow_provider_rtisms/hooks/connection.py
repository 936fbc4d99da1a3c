"""What a Connection says: its fields as settings of the API."""

from __future__ import annotations

import logging
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

    extras = dict(connection.extra_dejson or {})
    known = {name: extras.pop(name) for name in CONN_FIELDS if name in extras}
    settings = ApiSettings(
        client_id=connection.login or "",
        client_secret=connection.password or "",
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
