"""Which failures of the API stop the retries of a task."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.api.errors import RtiSmsNotFoundError, RtiSmsTimeoutError
from airflow_provider_rtisms.hooks.rtisms import fail_without_retry


def test_a_permanent_error_stops_them_and_is_the_cause() -> None:
    error = RtiSmsNotFoundError("unknown")
    with pytest.raises(AirflowFailException, match=r"^unknown$") as failure, fail_without_retry():
        raise error
    assert failure.value.__cause__ is error


def test_a_transient_error_passes() -> None:
    error = RtiSmsTimeoutError("late")
    with pytest.raises(RtiSmsTimeoutError) as failure, fail_without_retry():
        raise error
    assert failure.value is error
