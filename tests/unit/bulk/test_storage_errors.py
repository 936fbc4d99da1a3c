"""What file systems and object stores raise, and what people read in its place."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsForbiddenError
from airflow_provider_rtisms.bulk.storage_errors import (
    RtiSmsStorageError,
    RtiSmsStorageUnavailableError,
    describe,
    explain_failures,
    storage_error,
)

pytestmark = pytest.mark.outer_minors


class StatusError(Exception):
    """What a store's library raises; each keeps the status elsewhere."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("Refused")
        self.__dict__.update(attributes)


def _boto(status: Any) -> Exception:
    """Return what s3fs raises: an OSError, with the error of botocore as its cause."""
    error = OSError(errno.EBUSY, "Please reduce your request rate.")
    error.__cause__ = StatusError(response=status and {"ResponseMetadata": {"HTTPStatusCode": status}})
    return error


def _named(name: str) -> Exception:
    return type("Newer", (type(name, (Exception,), {}),), {})("No such connection")


PATH = "Check the path."
EXISTS = "Check the path: the file or folder, the bucket, and the Connection must exist."
PERMISSION = "Give the worker's user, or the Connection in the URL, the permission to do this."
FULL = "The disk is full: free some space there, and run the task again."
LATER = "This may be temporary: run the task again later. Airflow does so if the task has retries left."
NO_PROVIDER = "Install the Airflow provider for this scheme on every worker, or use a local path."


def install(package: str) -> str:
    return f"Install the provider on every worker: pip install 'apache-airflow-providers-{package}'."


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file"), EXISTS),
        (StatusError(status_code=404), EXISTS),
        (_boto(404), EXISTS),
        (_named("AirflowNotFoundException"), EXISTS),
        (PermissionError("Access Denied"), PERMISSION),
        (OSError(errno.EROFS, "Read-only file system"), PERMISSION),
        (StatusError(code=401), PERMISSION),
        (StatusError(code=403), PERMISSION),
        (_boto(403), PERMISSION),
        (_boto(400), PATH),
        (StatusError(status_code=400), PATH),
        (StatusError(status_code=499), PATH),
        (StatusError(code=412), PATH),
        *[
            (OSError(number, "Whatever"), PATH)
            for number in (
                errno.EISDIR,
                errno.ENOTDIR,
                errno.EEXIST,
                errno.ENAMETOOLONG,
                errno.ELOOP,
                errno.EINVAL,
            )
        ],
        (ImportError("Install s3fs to access S3"), install("amazon[s3fs]")),
        (ImportError("Please install gcsfs to access Google Storage"), install("google")),
        (ImportError("Install adlfs to access Azure"), install("microsoft-azure")),
        *[
            (ValueError(f"No file system registered for scheme {scheme}"), install(package))
            for scheme, package in {
                "s3": "amazon[s3fs]",
                "s3a": "amazon[s3fs]",
                "gs": "google",
                "gcs": "google",
                "abfs": "microsoft-azure",
                "abfss": "microsoft-azure",
                "adl": "microsoft-azure",
            }.items()
        ],
        (ValueError("Unsupported filesystem: 'gs'"), install("google")),
        (ValueError("No file system registered for scheme hdfs"), NO_PROVIDER),
        (ImportError("No module named 'paramiko'"), NO_PROVIDER),
        (ImportError("cannot import name 'kwargs' from 'logs'"), NO_PROVIDER),
    ],
)
def test_what_a_person_has_to_change_is_permanent(error: Exception, remedy: str) -> None:
    raised = storage_error("Writing s3://bucket/key", error)
    assert isinstance(raised, RtiSmsStorageError)
    assert str(raised) == f"Writing s3://bucket/key failed ({describe(error)}). {remedy}"


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (OSError(errno.EDQUOT, "Quota exceeded"), FULL),
        (OSError(errno.EIO, "Input/output error"), LATER),
        (TimeoutError(), LATER),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), LATER),
        (_boto(503), LATER),
        (_boto(None), LATER),
        (StatusError(response={}), LATER),
        (StatusError(status_code=500), LATER),
        (StatusError(status_code=600), LATER),
        (StatusError(status_code=399), LATER),
        *[(StatusError(code=str(status)), LATER) for status in (408, 409, 423, 425, 429)],
        (StatusError(code="AccessDenied"), LATER),
        (StatusError(code=lambda: 403), LATER),
        (_named("AirflowException"), LATER),
    ],
)
def test_what_may_pass_is_transient(error: Exception, remedy: str) -> None:
    raised = storage_error("Writing s3://bucket/key", error)
    assert isinstance(raised, RtiSmsStorageUnavailableError)
    assert str(raised) == f"Writing s3://bucket/key failed ({describe(error)}). {remedy}"


def test_a_status_goes_before_the_number_of_an_error() -> None:
    """s3fs turns a 503 into an OSError with a number of its own choice, such as EINVAL."""
    error = OSError(errno.EINVAL, "Slow down")
    error.__cause__ = StatusError(status_code=503)
    assert isinstance(storage_error("Writing", error), RtiSmsStorageUnavailableError)


def test_causes_in_a_circle_end() -> None:
    error, cause = StatusError(), StatusError()
    error.__cause__, cause.__cause__ = cause, error
    assert isinstance(storage_error("Writing", error), RtiSmsStorageUnavailableError)


def test_a_description_is_one_line_of_bounded_length() -> None:
    assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
    assert describe(ValueError()) == "ValueError"
    assert describe(ValueError("x" * 500)) == "ValueError: " + "x" * 200


class TestExplainFailures:
    def test_our_own_errors_stay_as_they_are(self) -> None:
        error = RtiSmsForbiddenError("403")
        with pytest.raises(RtiSmsForbiddenError) as caught, explain_failures("Writing", Exception):
            raise error
        assert caught.value is error

    def test_other_errors_become_the_cause(self) -> None:
        error = OSError(errno.EIO, "Input/output error")
        with pytest.raises(RtiSmsStorageUnavailableError) as caught, explain_failures("Writing"):
            raise error
        assert caught.value.__cause__ is error

    def test_only_stores_raise_anything(self) -> None:
        with pytest.raises(KeyError), explain_failures("Writing"):
            raise KeyError
        with pytest.raises(RtiSmsStorageUnavailableError), explain_failures("Writing", Exception):
            raise KeyError
        with pytest.raises(KeyboardInterrupt), explain_failures("Writing", Exception):
            raise KeyboardInterrupt
