"""The rules of retries by themselves: what is repeated, and after which pause."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.calls import AUTHENTICATE, Call
from airflow_provider_rtisms.api.retrying import backoff, is_worth_repeating
from airflow_provider_rtisms.api.settings import ApiSettings

SMS = endpoints.get_sms("1")
ONCE = Call(name="once", method="POST", path="/api/once", parse=lambda content: content, idempotent=False)
AUTH = endpoints.authenticate(ApiSettings(client_id="me", client_secret="s3cret"))


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pause be the longest that the jitter allows."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


@pytest.fixture
def shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pause be the shortest that the jitter allows."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)


class TestBackoff:
    @pytest.mark.usefixtures("longest")
    def test_doubles_from_half_a_second_to_half_a_minute(self) -> None:
        assert [backoff(failures) for failures in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]

    @pytest.mark.usefixtures("shortest")
    def test_may_be_nothing(self) -> None:
        assert [backoff(failures) for failures in range(1, 10)] == [0] * 9

    @pytest.mark.usefixtures("shortest")
    @pytest.mark.parametrize(
        ("retry_after", "pause"), [(None, 0), (0.0, 0), (7.5, 7.5), (120.0, 120), (120.1, 120), (1e9, 120)]
    )
    def test_is_at_least_retry_after_up_to_two_minutes(self, retry_after: float | None, pause: float) -> None:
        assert backoff(1, retry_after) == pause

    @pytest.mark.usefixtures("longest")
    def test_is_not_shortened_by_retry_after(self) -> None:
        assert backoff(7, 3.0) == 30


class TestIsWorthRepeating:
    @pytest.mark.parametrize(
        ("call", "kind", "is_repeated"),
        [
            (SMS, errors.RtiSmsServerError, True),
            (SMS, errors.RtiSmsRateLimitError, True),
            (SMS, errors.RtiSmsForbiddenError, False),
            (SMS, errors.RtiSmsError, False),
            (SMS, OSError, False),
            (ONCE, errors.RtiSmsServerError, False),
            (ONCE, errors.RtiSmsTimeoutError, False),
            (ONCE, errors.RtiSmsRateLimitError, True),
            (ONCE, errors.RtiSmsConnectError, True),
            (ONCE, errors.RtiSmsForbiddenError, False),
            (AUTH, errors.RtiSmsServerError, True),
        ],
    )
    def test_depends_on_the_error_and_on_the_call(
        self, call: Call[Any], kind: type[Exception], is_repeated: bool
    ) -> None:
        error = kind("what", call=call.name) if issubclass(kind, errors.RtiSmsError) else kind("what")  # type: ignore[call-arg]
        assert is_worth_repeating(call, error) is is_repeated

    @pytest.mark.parametrize("call", [SMS, ONCE])
    def test_the_failed_call_for_a_token_is_not_repeated_by_the_call_that_needs_it(self, call: Call[Any]) -> None:
        assert not is_worth_repeating(call, errors.RtiSmsRateLimitError("HTTP 429", call=AUTHENTICATE))
        assert not is_worth_repeating(call, errors.RtiSmsServerError("HTTP 503", call=AUTHENTICATE))
