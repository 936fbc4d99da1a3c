"""
Decide what is repeated, when and how often: one policy for both clients, made of tenacity's strategies.

Source: docs/architecture.md, "Retries"; docs/vendor-api.md, "Errors".
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, cast

import tenacity

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsTransientError
from airflow_provider_rtisms.api.protocol.request import AUTHENTICATE, Call

log = logging.getLogger(__name__)

#: Seconds: the first pause is at most this, and each later one at most twice the one before.
BACKOFF_BASE = 0.5
#: Seconds: no pause is longer, unless the server asks for it.
BACKOFF_CAP = 30.0
#: Seconds: a Retry-After beyond it is cut to it.
RETRY_AFTER_CAP = 120.0
#: Seconds: no attempt begins later than this after the first one.
TOTAL_CAP = 300.0


def backoff(failures: int, retry_after: float | None = None) -> float:
    """
    Return the seconds to pause: exponential with full jitter, or Retry-After if that is longer.

    :param failures: how many attempts have failed, 1 or more.
    :param retry_after: seconds that the server asked to wait, or None.
    """
    state = tenacity.RetryCallState(tenacity.Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = failures
    pause = tenacity.wait_random_exponential(multiplier=BACKOFF_BASE, max=BACKOFF_CAP)(state)
    return max(pause, min(retry_after or 0.0, RETRY_AFTER_CAP))


class RetryPolicy:
    """
    Decide after each failed attempt of one call whether there is another one, and when.

    :param call: what is being done. A call that is not idempotent is repeated only if the server cannot have acted on
        it.
    :param max_attempts: most attempts.
    """

    def __init__(self, call: Call[Any], max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(partial(is_worth_repeating, call)),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(max_attempts), tenacity.stop_before_delay(TOTAL_CAP + 1e-9)
            ),
            wait=_pause,
            before_sleep=self._log,
            reraise=True,
        )
        self._retrying.begin()
        self._state = tenacity.RetryCallState(self._retrying, fn=None, args=(), kwargs={})

    def pause_after(self, error: RtiSmsError, elapsed: float) -> float:
        """
        Decide what follows a failed attempt, as tenacity's ``Retrying.__call__`` does. The caller does the pausing.

        :param error: why the attempt failed.
        :param elapsed: seconds since the first attempt began, without the time that a limiter held the call back.
        :return: seconds until the next attempt.
        :raises RtiSmsError: there is no next attempt; this is the error, with the number of attempts.
        """
        state = self._state
        state.set_exception((type(error), error, error.__traceback__))
        state.start_time, state.outcome_timestamp = 0.0, elapsed
        try:
            pause = cast(float, self._retrying.iter(state))
        except RtiSmsError:
            if state.attempt_number == 1:
                raise
            attempts = f"{state.attempt_number} attempts in {elapsed:.1f} s"
            raise error.with_context(f"Gave up after {attempts}.") from None
        state.prepare_for_next_attempt()
        return pause

    def _log(self, state: tenacity.RetryCallState) -> None:
        log.warning(
            "%s Attempt %d of %d failed; the next one starts in %.1f s",
            _failure(state),
            state.attempt_number,
            self.max_attempts,
            state.upcoming_sleep,
        )


def is_worth_repeating(call: Call[Any], error: BaseException) -> bool:
    """
    Return whether a call may be repeated after an error.

    :param call: the call that failed. While it gets a token for itself, that is a call of its own.
    :param error: why it failed.
    """
    if not isinstance(error, RtiSmsTransientError):
        return False
    if error.call == AUTHENTICATE != call.name:
        return False  # the call that gets the token has its own attempts
    return call.idempotent or not error.may_have_acted


def _pause(state: tenacity.RetryCallState) -> float:
    return backoff(state.attempt_number, _failure(state).retry_after)


def _failure(state: tenacity.RetryCallState) -> RtiSmsError:
    assert state.outcome is not None  # noqa: S101
    return cast(RtiSmsError, state.outcome.exception())
