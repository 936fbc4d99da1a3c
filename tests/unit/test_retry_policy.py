"""The ready retry policy: what it makes of each failure, and what Airflow below 3.3 says."""

from __future__ import annotations

import importlib
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.api import errors

pytestmark = pytest.mark.airflow

needs_policies = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="retry policies are from Airflow 3.3 on")


def decide(error: BaseException, own_delay: float = 5) -> tuple[str, float | None]:
    from airflow_provider_rtisms.retry_policy import RtiSmsRetryPolicy

    policy = RtiSmsRetryPolicy.deserialize(RtiSmsRetryPolicy(longest=timedelta(minutes=10)).serialize())
    context: Any = {"task": SimpleNamespace(retry_delay=timedelta(seconds=own_delay))}
    decision = policy.evaluate(error, 1, 3, context)
    return decision.action.value, decision.retry_delay and decision.retry_delay.total_seconds()


@needs_policies
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.RtiSmsAuthenticationError("wrong"), ("fail", None)),
        (errors.RtiSmsSenderRefusedError("wrong", status=406), ("fail", None)),
        (errors.RtiSmsUncertainError("lost"), ("fail", None)),
        (errors.RtiSmsRateLimitError("slow down", status=429, retry_after=90), ("retry", 90)),
        (errors.RtiSmsRateLimitError("slow down", status=429, retry_after=1), ("retry", 5)),
        (errors.RtiSmsRateLimitError("slow down", status=429, retry_after=86400), ("retry", 600)),
        (errors.RtiSmsRateLimitError("slow down", status=429), ("default", None)),
        (errors.RtiSmsServerError("down"), ("default", None)),
        (ValueError("not ours"), ("default", None)),
    ],
)
def test_each_failure_has_its_consequence(error: BaseException, expected: Any) -> None:
    assert decide(error) == expected


@needs_policies
def test_an_error_of_the_api_is_found_behind_another() -> None:
    wrapped = AirflowFailException("failed")
    wrapped.__cause__ = errors.RtiSmsRateLimitError("slow down", retry_after=90)
    assert decide(wrapped) == ("retry", 90)


@pytest.mark.skipif(AIRFLOW_V_3_3_PLUS, reason="there are retry policies")
def test_below_3_3_the_import_says_why_it_fails() -> None:
    with pytest.raises(ImportError, match=r"needs Airflow 3\.3"):
        importlib.import_module("airflow_provider_rtisms.retry_policy")
