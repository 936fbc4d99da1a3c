"""Turn what file systems and object stores raise into errors that say what failed and what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsPermanentError, RtiSmsTransientError

#: Characters of a foreign error message that ours repeats.
MAX_REASON = 200

_PERMANENT_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
#: HTTP statuses below 500 that a store sends for a condition that passes.
_TRANSIENT_STATUSES = {408, 409, 423, 425, 429}
#: What ``pip install`` needs, by the beginnings of schemes (s3a) and of the names of libraries (gcsfs, adlfs).
_PROVIDERS = {
    "s3": "apache-airflow-providers-amazon[s3fs]",
    "gs": "apache-airflow-providers-google",
    "gcs": "apache-airflow-providers-google",
    "abfs": "apache-airflow-providers-microsoft-azure",
    "adl": "apache-airflow-providers-microsoft-azure",
}


class RtiSmsStorageError(RtiSmsPermanentError):
    """A file, an object or a table cannot be read or written until a person changes something."""


class RtiSmsStorageUnavailableError(RtiSmsTransientError):
    """A file, an object or a table could not be read or written; the same may succeed later."""


#: Both of them, for ``except``.
STORAGE_ERRORS = (RtiSmsStorageError, RtiSmsStorageUnavailableError)


@contextmanager
def explain_failures(action: str, catch: type[Exception] = OSError) -> Iterator[None]:
    """
    Raise our own errors instead of those of a file system.

    :param action: what fails if something does, such as ``Reading /data/ids.txt``.
    :param catch: what counts as a failure; stores raise exceptions of their own, so use Exception there.
    :raises RtiSmsStorageError: a person has to change something first.
    :raises RtiSmsStorageUnavailableError: the same may succeed later.
    """
    try:
        yield
    except RtiSmsError:
        raise
    except catch as error:
        raise storage_error(action, error) from error


def storage_error(action: str, error: Exception) -> RtiSmsError:
    """
    Return the error that says what failed and what to do.

    :param action: what failed, such as ``Reading /data/ids.txt``.
    :param error: what a file system, a store or the import of its library raised.
    """
    is_permanent, remedy = _diagnose(error)
    error_class = RtiSmsStorageError if is_permanent else RtiSmsStorageUnavailableError
    return error_class(f"{action} failed ({describe(error)}). {remedy}")


def describe(error: BaseException | None) -> str:
    """Return the class and the message of a foreign error, on one line."""
    text = " ".join(str(error).split())[:MAX_REASON]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _diagnose(error: Exception) -> tuple[bool, str]:
    """Return whether the error is permanent, and what to do about it."""
    if isinstance(error, ImportError) or re.search("registered for scheme |Unsupported filesystem: ", str(error)):
        package = next((one for name, one in _PROVIDERS.items() if re.search(rf"\b{name}", str(error))), None)
        if package is None:
            return True, "Install the Airflow provider for this scheme on every worker, or use a local path."
        return True, f"Install the provider on every worker: pip install '{package}'."
    status = _http_status(error)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError) or status == 404 or _is_named(error, "AirflowNotFoundException"):
        return True, "Check the path: the file or folder, the bucket, and the Connection must exist."
    if isinstance(error, PermissionError) or status in (401, 403) or number in (errno.EPERM, errno.EROFS):
        return True, "Give the worker's user, or the Connection in the URL, the permission to do this."
    if number in _FULL_ERRNOS:
        return False, "The disk is full: free some space there, and run the task again."
    is_refused = status is not None and 400 <= status < 500 and status not in _TRANSIENT_STATUSES
    if is_refused or (status is None and number in _PERMANENT_ERRNOS):
        return True, "Check the path."
    return False, "This may be temporary: run the task again later. Airflow does so if the task has retries left."


def _http_status(error: BaseException | None) -> int | None:
    """Return the HTTP status in a chain of causes, as the libraries of Amazon, Microsoft and Google keep it."""
    for _ in range(10):
        if error is None:
            return None
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore
            status = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
        else:
            status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if isinstance(status, int | str) and re.fullmatch(r"[1-5]\d\d", str(status)):
            return int(status)
        error = error.__cause__
    return None


def _is_named(error: Exception, name: str) -> bool:
    return any(one.__name__ == name for one in type(error).__mro__)
