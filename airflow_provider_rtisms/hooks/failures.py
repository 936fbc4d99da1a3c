"""How a failure of the API becomes a failure of a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.api.errors import RtiSmsPermanentError


@contextmanager
def fail_without_retry() -> Iterator[None]:
    """
    Raise AirflowFailException for an error that a task retry cannot fix. It stops the retries of the task.

    Transient errors pass unchanged, so that Airflow can retry the task.

    :raises AirflowFailException: in place of an RtiSmsPermanentError, which is its cause.
    """
    try:
        yield
    except RtiSmsPermanentError as error:
        raise AirflowFailException(str(error)) from error
