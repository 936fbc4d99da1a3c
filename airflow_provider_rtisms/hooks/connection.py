"""A Connection: read without blocking an event loop, checked, and as widgets of the form in Airflow below 3.2."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from airflow_provider_rtisms.compat import mask_secret
from airflow_provider_rtisms.get_provider_info import CONN_FIELDS

if TYPE_CHECKING:
    from airflow_provider_rtisms.api.aio import SharedByKey
    from airflow_provider_rtisms.api.settings import ApiSettings
    from airflow_provider_rtisms.compat import Connection

log = logging.getLogger(__name__)

T = TypeVar("T")


@contextmanager
def reading_connection(conn_id: str) -> Iterator[None]:
    """Say what to do about a Connection that Airflow does not find. It skips one that it cannot read."""
    from airflow_provider_rtisms.compat import AirflowException, AirflowNotFoundException

    try:
        yield
    except AirflowException as error:
        if type(error).__name__ != "AirflowNotFoundException":  # a shell and a task have one of their own
            raise
        raise AirflowNotFoundException(
            f"There is no Connection {conn_id!r} that Airflow can read: add it, or correct it."
        ) from None


def export_connection(conn_id: str) -> None:
    """
    Let the hooks of this process find a Connection. They ask the execution API for it, and a shell has the database
    instead.
    """
    from airflow.models.connection import Connection

    with reading_connection(conn_id):
        connection = Connection.get_connection_from_secrets(conn_id)
    os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = connection.as_json()


def settings_from_connection(connection: Connection) -> ApiSettings:
    """
    Return the fields of a Connection, checked. Mask its secrets in logs.

    Host is ``scheme://host[:port]``, or the three are in Host, Port and Schema, as HttpHook reads them. Without a
    scheme it is https, or http for a loopback host.
    """
    from airflow_provider_rtisms.api.settings import ApiSettings
    from airflow_provider_rtisms.api.values.secret import Secret, encodings

    extras = _extras(connection)
    known = {name: extras.pop(name) for name in CONN_FIELDS if name in extras}
    settings = ApiSettings(
        client_id=connection.login or "",
        client_secret=Secret(connection.password or ""),
        base_url=_base_url(connection),
        conn_id=connection.conn_id,
        **known,
    )
    # The masker looks for exact strings, and the secret also travels form-encoded.
    for secret in settings.secrets():
        for encoded in encodings(secret):
            mask_secret(encoded)
    if extras:
        log.warning(
            "The extra of the Connection %s has fields that are not used: %s. The known ones are: %s",
            connection.conn_id,
            ", ".join(sorted(extras)),
            ", ".join(CONN_FIELDS),
        )
    return settings


def _extras(connection: Connection) -> dict[str, Any]:
    """Return the extras; Airflow reads text that is no JSON as none, and returns JSON of any kind."""
    from airflow_provider_rtisms.api.errors import RtiSmsConfigError, shape

    remedy = 'Use a JSON object such as {"timeout": 10}, or leave the extra empty.'
    try:
        extras = json.loads(connection.extra or "null")
    except (ValueError, TypeError, RecursionError):
        raise RtiSmsConfigError(
            f"The extra of the Connection {connection.conn_id} is {shape(connection.extra)} that is no JSON. {remedy}"
        ) from None
    if extras is not None and not isinstance(extras, dict):
        raise RtiSmsConfigError(
            f"The extra of the Connection {connection.conn_id} is JSON, but {shape(extras)}. {remedy}"
        )
    return dict(connection.extra_dejson) if extras else {}  # which masks the values of telling names


def _base_url(connection: Connection) -> str:
    from airflow_provider_rtisms.api.errors import RtiSmsConfigError, shape
    from airflow_provider_rtisms.api.settings import is_loopback

    host = (connection.host or "").strip()
    if not host:
        return ""
    schema = (connection.schema or "").strip().lower().removesuffix("://")
    if "://" not in host and schema not in ("", "http", "https"):
        raise RtiSmsConfigError(
            f"Schema of the Connection {connection.conn_id} is {shape(schema)}: use http or https, or leave it empty."
        )
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


async def in_thread(function: Callable[[], T]) -> T:
    """
    Run a function that asks Airflow for something, such as a Connection.

    Only a thread of asgiref's ``sync_to_async`` can do that in ``dag.test()`` and in a triggerer on every version: a
    triggerer's supervisor does not serve other threads.
    """
    from asgiref.sync import sync_to_async

    return await sync_to_async(function)()


async def amask_secret(secret: str) -> None:
    """Mask a secret in logs."""
    try:
        from airflow.sdk.log import amask_secret as mask
    except ImportError:  # before Airflow 3.3.2
        await in_thread(lambda: mask_secret(secret))
    else:
        await mask(secret)


@dataclass(slots=True)
class _Read:
    """The latest read of a Connection: when it began, and what it gave."""

    began: float = 0.0
    settings: ApiSettings | None = None


async def single_flight_read(conn_id: str, read: Callable[[], ApiSettings]) -> ApiSettings:
    """
    Read a Connection. Callers that ask at the same time share one read.

    The supervisor of a triggerer serves few reads a second, and a triggerer may start a thousand triggers at once. A
    caller never gets the result of a read that began before it asked.
    """
    asked = time.monotonic()
    with _reads().use(conn_id, _Read) as entry:
        async with entry.lock:
            latest = entry.value
            if latest.settings is None or latest.began < asked:
                latest.began = time.monotonic()
                latest.settings = None
                latest.settings = await in_thread(read)
            return latest.settings


@cache
def _reads() -> SharedByKey[_Read]:
    from airflow_provider_rtisms.api.aio import SharedByKey

    return SharedByKey()
