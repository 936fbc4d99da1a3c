"""Read the paths that DAG authors write: local ones, and URLs that ObjectStoragePath knows."""

from __future__ import annotations

from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, TypeAlias, TypeGuard
from urllib.parse import urlsplit

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    StoragePath: TypeAlias = Path | ObjectStoragePath


def is_local(path: object) -> TypeGuard[Path]:
    """Return whether a path is on this machine. On Airflow 2 ObjectStoragePath is a Path as well, but no PosixPath."""
    return isinstance(path, PosixPath)


def storage_path(field_name: str, value: object) -> StoragePath:
    """
    Return a path to read from or write to.

    :param field_name: how the error names it.
    :param value: a local path, a URL such as ``s3://conn_id@bucket/key`` or ``file:///folder/name``, or a path object.
    :raises RtiSmsInputError: it is anything else.
    """
    if is_local(value):
        return value
    if isinstance(value, str) and value.strip():
        if "://" not in value:
            return Path(value).expanduser()
        if urlsplit(value).scheme == "file":
            return Path(value.removeprefix("file://"))
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    if isinstance(value, ObjectStoragePath):
        return Path(value.path) if value.protocol in ("file", "local") else value
    if isinstance(value, str) and value.strip():
        return ObjectStoragePath(value)
    raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a path, or a URL such as s3://conn_id@bucket/key.")
