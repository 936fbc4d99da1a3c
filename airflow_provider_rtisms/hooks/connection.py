"""The fields of a Connection: as checked settings, and as widgets of the form in Airflow below 3.2."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import mask_secret

from airflow_provider_rtisms.get_provider_info import CONN_FIELDS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_rtisms.api.settings import ApiSettings

log = logging.getLogger(__name__)


def settings_from_connection(connection: Connection) -> ApiSettings:
    """
    Return the fields of a Connection, checked. Mask its secrets in logs.

    Host is ``scheme://host[:port]``, or the three are in Host, Port and Schema, as HttpHook reads them. Without a
    scheme it is https, or http for a loopback host.

    :param connection: of type ``rtisms``.
    :raises RtiSmsConfigError: a field is missing or malformed; names it.
    """
    from airflow_provider_rtisms.api.settings import ApiSettings
    from airflow_provider_rtisms.api.values.secret import Secret, encodings

    extras = _extras(connection)
    known = {name: extras.pop(name) for name in CONN_FIELDS if name in extras}
    settings = ApiSettings(
        client_id=connection.login or "",
        client_secret=Secret(connection.password or ""),
        base_url=_base_url(connection),
        **known,
    )
    # The masker looks for exact strings, and the secret also travels form-encoded.
    for secret in settings.secrets():
        for encoded in encodings(secret.get_secret_value()) | {secret.get_secret_value().strip()}:
            mask_secret(encoded)
    if extras:
        log.warning(
            "Connection %s has extras that are not used: %s. The known ones are: %s",
            connection.conn_id,
            ", ".join(sorted(extras)),
            ", ".join(CONN_FIELDS),
        )
    return settings


def _extras(connection: Connection) -> dict[str, Any]:
    """
    Return the extras; Airflow reads text that is no JSON as none, and returns JSON of any kind.

    :raises RtiSmsConfigError: they are no JSON object.
    """
    from airflow_provider_rtisms.api.errors import RtiSmsConfigError, shape

    remedy = 'Use a JSON object such as {"timeout": 10}, or leave Extra empty.'
    try:
        extras = json.loads(connection.extra or "null")
    except (ValueError, TypeError, RecursionError):
        raise RtiSmsConfigError(
            f"Extra of the Connection is {shape(connection.extra)} that is no JSON. {remedy}"
        ) from None
    if extras is not None and not isinstance(extras, dict):
        raise RtiSmsConfigError(f"Extra of the Connection is JSON, but {shape(extras)}. {remedy}")
    return dict(connection.extra_dejson) if extras else {}  # which masks the values of telling names


def _base_url(connection: Connection) -> str:
    from airflow_provider_rtisms.api.errors import RtiSmsConfigError, shape
    from airflow_provider_rtisms.api.settings import is_loopback

    host = (connection.host or "").strip()
    if not host:
        return ""
    schema = (connection.schema or "").strip().lower().removesuffix("://")
    if "://" not in host and schema not in ("", "http", "https"):
        raise RtiSmsConfigError(f"Schema is {shape(schema)}: use http or https, or leave it empty.")
    with suppress(ValueError):  # not a URL: ApiSettings raises an error that says so
        if "://" not in host:
            name, slash, path = host.partition("/")
            if name.count(":") > 1 and not name.startswith("["):
                host = f"[{name}]{slash}{path}"
            default = "http" if is_loopback(urlsplit(f"//{host}").hostname or "") else "https"
            host = f"{schema or default}://{host}"
        if connection.port:
            parts = urlsplit(host)
            if parts.netloc.rpartition("]")[2].count(":") == 0:
                host = parts._replace(netloc=f"{parts.netloc}:{connection.port}").geturl()
    return host


def form_widgets() -> dict[str, Any]:
    """Return the extra fields of the form for Airflow below 3.2, made from ``CONN_FIELDS``."""
    from flask_appbuilder.fieldwidgets import BS3TextFieldWidget  # type: ignore[import-not-found,unused-ignore]
    from wtforms import BooleanField, StringField  # type: ignore[import-untyped,unused-ignore]

    widgets: dict[str, Any] = {}
    for name, conn_field in CONN_FIELDS.items():
        label, help_text = conn_field["label"], conn_field["description"]
        if "boolean" in conn_field["schema"]["type"]:
            widgets[name] = BooleanField(label, description=help_text)
        else:
            widgets[name] = StringField(label, description=help_text, widget=BS3TextFieldWidget())
    return widgets
