"""Read the paths that DAG authors write: local ones, and URLs that ObjectStoragePath knows."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PosixPath
from typing import IO, TYPE_CHECKING, TypeAlias, TypeGuard, cast
from urllib.parse import urlsplit

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.bulk.storage_errors import explain_failures

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
    :raises RtiSmsStorageError: Airflow knows no store for the URL's scheme.
    """
    check_rendered(field_name, value)
    if is_local(value):
        return value
    if isinstance(value, str) and value.strip():
        if "://" not in value:
            return Path(value).expanduser()
        if urlsplit(value).scheme == "file":
            return Path(value.removeprefix("file://"))
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    if isinstance(value, ObjectStoragePath):
        if value.protocol in ("file", "local"):
            return Path(value.path)
        with explain_failures(f"Opening {value} ({field_name})", Exception):
            _connect(value)
        return value
    if isinstance(value, str) and value.strip():
        with explain_failures(f"Opening {value} ({field_name})", Exception):
            path = ObjectStoragePath(value)
            _connect(path)
            return path
    raise RtiSmsInputError(f"{field_name} is {shape(value)}: use a path, or a URL such as s3://conn_id@bucket/key.")


def check_rendered(field_name: str, value: object) -> None:
    """
    Refuse an argument whose template rendered to the word None.

    :param field_name: how the error names it.
    :param value: the argument.
    :raises RtiSmsInputError: it is that word.
    """
    if isinstance(value, str) and value.strip() == "None":
        raise RtiSmsInputError(
            f'{field_name} is the word "None": the task or variable that its template reads from returned nothing.'
        )


def open_to_read(path: StoragePath, action: str) -> IO[bytes]:
    """
    Open a file or an object. ObjectStoragePath.open would report lineage, with the conn_id in the URI.

    :param path: local or in an object store.
    :param action: what an error of a store says, such as ``Reading s3://bucket/ids.txt``.
    :raises OSError: the local file cannot be opened.
    :raises RtiSmsError: the object cannot be read.
    """
    if is_local(path):
        return path.open("rb")
    from airflow_provider_rtisms.bulk.object_reader import open_object

    return open_object(cast("ObjectStoragePath", path), action)


def _connect(path: ObjectStoragePath) -> None:
    """
    Let Airflow open the store, which it keeps for the rest of the process.

    This is done here because the file systems of some providers call asyncio.run, which fails inside an event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        path.fs  # noqa: B018
    else:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: path.fs).result()
