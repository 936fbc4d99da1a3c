"""
What is repeated, when, and how often: one policy (tenacity's strategies) for both transports.

Source: design.md, rules 1 and 2; API page, chapter "Errors".
"""

from __future__ import annotations

import logging
import random
from typing import Any, cast

import tenacity

from airflow_provider_rtisms.api.errors import (
    RtiSmsError,
    RtiSmsRateLimitError,
    RtiSmsTokenExpiredError,
    RtiSmsTransientError,
)
from airflow_provider_rtisms.api.protocol.request import AUTHENTICATE, Call

log = logging.getLogger(__name__)

#: Seconds: the first pause is at most this, each further one at most twice the one before.
BACKOFF_BASE = 0.5
#: Seconds: no pause of our own choosing is longer.
BACKOFF_CAP = 30.0
#: Seconds: a Retry-After beyond it is cut to it.
RETRY_AFTER_CAP = 120.0
#: Seconds: no try begins later than this after the first one.
TOTAL_CAP = 300.0


def backoff(attempts: int, retry_after: float | None = None) -> float:
    """
    Return the seconds to pause after a failed try: exponential with full jitter, or Retry-After where that is longer.

    :param attempts: how many attempts have failed, 1 or more.
    :param retry_after: seconds the server asked to wait, or None.
    """
    jittered = random.uniform(0, min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(attempts - 1, 30)))  # noqa: S311
    return max(jittered, min(retry_after or 0.0, RETRY_AFTER_CAP))


class RetryPolicy:
    """
    The tenacity strategies for one call, from its first failure on.

    Two failures are no attempts of the call: a 401, which is responded at once with one new token, and only once (rule 1),
    and a 429 that slows everyone down. A call that is not idempotent is repeated only where the server surely has not
    acted on it.

    :param call: what is being done.
    :param max_attempts: most attempts.
    :param started: when the first try began, on the monotonic clock.
    """

    def __init__(self, call: Call[Any], max_attempts: int, started: float) -> None:
        self.call = call
        self.max_attempts = max_attempts
        self._retrying = tenacity.Retrying(
            retry=self._is_worth_repeating,
            stop=self._is_enough,
            wait=self._pause,
            before_sleep=self._tell,
            reraise=True,
        )
        self._retrying.begin()
        self._state = tenacity.RetryCallState(self._retrying, fn=None, args=(), kwargs={})
        self._state.start_time = started
        self._uncounted = 0

    def pause_after(self, error: RtiSmsError) -> float:
        """
        Ask tenacity, as its ``Retrying.__call__`` does; the pausing stays with the transport.

        :param error: why the last try failed.
        :return: seconds until the next try.
        :raises RtiSmsError: the same error, if there is to be no other try.
        """
        state = self._state
        state.set_exception((type(error), error, error.__traceback__))
        try:
            pause = cast(float, self._retrying.iter(state))
        except RtiSmsError:
            attempts = self._tries(state)
            if attempts > 1:
                error.args = (f"{error} Given up after {attempts} attempts in {state.seconds_since_start or 0:.1f} s.",)
            raise
        state.prepare_for_next_attempt()
        return pause

    def _tries(self, state: tenacity.RetryCallState) -> int:
        return state.attempt_number - self._uncounted

    def _is_worth_repeating(self, state: tenacity.RetryCallState) -> bool:
        error = _failure(state)
        if not isinstance(error, RtiSmsTransientError):
            return False
        if error.call == AUTHENTICATE != self.call.name:
            return False  # getting the token has been retried already
        if _is_uncounted(error):
            self._uncounted += 1
        return self.call.idempotent or not error.may_have_acted

    def _is_enough(self, state: tenacity.RetryCallState) -> bool:
        error = _failure(state)
        if isinstance(error, RtiSmsTokenExpiredError):
            return False
        elapsed = state.seconds_since_start or 0.0
        is_last = self._tries(state) >= self.max_attempts and not _is_uncounted(error)
        return is_last or elapsed + state.upcoming_sleep > TOTAL_CAP

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = _failure(state)
        if _is_uncounted(error):
            return 0.0
        return backoff(self._tries(state), error.retry_after if error else None)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = _failure(state)
        if isinstance(error, RtiSmsTokenExpiredError):
            log.info("%s: the token was refused (HTTP 401); repeating the call with a new one", self.call)
        elif _is_uncounted(error):
            log.debug("%s Repeating the call once the pause of all requests is over", error)
        else:
            log.warning(
                "%s Attempt %d of %d failed, the next begins in %.1f s",
                error,
                self._tries(state),
                self.max_attempts,
                state.upcoming_sleep,
            )


def _failure(state: tenacity.RetryCallState) -> RtiSmsError | None:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, RtiSmsError) else None


def _is_uncounted(error: RtiSmsError | None) -> bool:
    return isinstance(error, RtiSmsTokenExpiredError) or (isinstance(error, RtiSmsRateLimitError) and error.is_shared)
