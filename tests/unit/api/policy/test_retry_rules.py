"""The retry policy by itself: what is repeated, after which pause, and when it gives up."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.policy.retry import RetryPolicy, backoff, is_worth_repeating
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import AUTHENTICATE, Call
from airflow_provider_rtisms.api.settings import ApiSettings

SMS = endpoints.get_sms("1")
ONCE = Call(name="once", method="POST", path="/api/once", parse=lambda content: content, idempotent=False)
AUTH = endpoints.authenticate(ApiSettings(client_id="me", client_secret="s3cret"))
SERVER = errors.RtiSmsServerError("HTTP 503.", call="get_sms")


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


@pytest.mark.usefixtures("longest")
class TestPolicy:
    def test_gives_up_after_max_attempts(self) -> None:
        policy = RetryPolicy(SMS, 3)
        assert [policy.pause_after(SERVER, 1.0), policy.pause_after(SERVER, 2.0)] == [0.5, 1.0]
        with pytest.raises(errors.RtiSmsServerError) as caught:
            policy.pause_after(SERVER, 3.04)
        assert str(caught.value) == "HTTP 503. Gave up after 3 attempts in 3.0 s."
        assert caught.value.__suppress_context__
        assert caught.value.call == "get_sms"

    def test_one_attempt_is_no_giving_up(self) -> None:
        with pytest.raises(errors.RtiSmsServerError) as caught:
            RetryPolicy(SMS, 1).pause_after(SERVER, 1.0)
        assert caught.value is SERVER

    def test_a_permanent_error_ends_it_at_once(self) -> None:
        error = errors.RtiSmsForbiddenError("HTTP 403.")
        with pytest.raises(errors.RtiSmsForbiddenError) as caught:
            RetryPolicy(SMS, 5).pause_after(error, 1.0)
        assert caught.value is error

    @pytest.mark.parametrize(("elapsed", "is_repeated"), [(0.0, True), (299.5, True), (299.51, False), (400.0, False)])
    def test_no_attempt_begins_later_than_five_minutes_after_the_first(self, elapsed: float, is_repeated: bool) -> None:
        policy = RetryPolicy(SMS, 5)
        if is_repeated:
            assert policy.pause_after(SERVER, elapsed) == 0.5
        else:
            with pytest.raises(errors.RtiSmsServerError):
                policy.pause_after(SERVER, elapsed)

    def test_retry_after_is_waited(self) -> None:
        error = errors.RtiSmsRateLimitError("HTTP 429", retry_after=33.0)
        assert RetryPolicy(SMS, 5).pause_after(error, 0.0) == 33.0

    def test_each_retry_is_one_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        policy = RetryPolicy(SMS, 4)
        policy.pause_after(SERVER, 0.0)
        policy.pause_after(SERVER, 0.0)
        assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
            ("WARNING", "HTTP 503. Attempt 1 of 4 failed; the next one starts in 0.5 s"),
            ("WARNING", "HTTP 503. Attempt 2 of 4 failed; the next one starts in 1.0 s"),
        ]
