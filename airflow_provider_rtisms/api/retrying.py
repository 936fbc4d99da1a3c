"""
What is repeated, when and how often: one set of arguments for tenacity's ``Retrying`` and ``AsyncRetrying``; and the
token that all requests bear, which a 401 replaces.

What happens on a 401: ``Call.read`` raises RtiSmsTokenExpiredError in ``_attempt`` of a client. ``Attempts._retry``
asks ``_is_renewal_due``, which throws the token away. tenacity repeats the attempt at once, and ``_attempt`` gets the
next token of :class:`TokenCache`. A 401 that is not repeated ends the call with RtiSmsTokenRefusedError
(``final_error``).

Source: docs/architecture.md, "Retries" and "The way of a token"; docs/vendor-api.md, "Errors".
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import tenacity

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.calls import AUTHENTICATE, GET_BALANCE, Call, TokenGrant
from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.api.models import SendOutcome
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds: the first pause is at most this, and each later one at most twice the one before.
BACKOFF_BASE = 0.5
#: Seconds: no pause is longer, unless the server asks for it.
BACKOFF_CAP = 30.0
#: Seconds: a Retry-After beyond it is cut to it.
RETRY_AFTER_CAP = 120.0
#: Seconds: no attempt begins later than this after the first one.
TOTAL_CAP = 300.0
#: How often a call may be refused for tokens that are revoked while it is under way, before that counts as final. It
#: also bounds the tokens that are issued for a call that the server refuses while it accepts all others.
MAX_REVOKED_TOKENS = 30
#: How often one request may be refused with 429 while the limiter slows all requests down, before that is a failure.
MAX_THROTTLES = 50
#: Seconds before its end at which a token is renewed, but never more than half its validity.
RENEWAL_LEAD = 120.0
#: Seconds for which a token is used where ``validity_period`` cannot be read.
FALLBACK_VALIDITY = 60.0
#: Seconds after an accepted request in which a refused token counts as revoked: the server accepts new tokens.
ACCEPTED_FOR = 5.0
#: Arguments of tenacity that a user may replace.
RETRY_ARGS = ("stop", "wait", "retry", "before_sleep")


def backoff(failures: int, retry_after: float | None = None) -> float:
    """
    Return the seconds to pause: exponential with full jitter, or Retry-After if that is longer.

    :param failures: how many attempts have failed, 1 or more.
    :param retry_after: seconds that the server asked to wait, or None.
    """
    longest = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures - 1, 60))
    return max(random.uniform(0, longest), min(retry_after or 0.0, RETRY_AFTER_CAP))  # noqa: S311  # not a secret


def is_safe_to_repeat(call: Call[Any], error: BaseException | None) -> bool:
    """
    Return whether a repetition does no harm: the server has not acted on the request, or may act on it twice.

    Errors of the call for a token are not repeated by the call that needs it: that call has its own attempts.
    """
    if not isinstance(error, RtiSmsError) or error.call == AUTHENTICATE != call.name:
        return False
    return call.idempotent or not error.may_have_acted


def check_retry_args(value: Any) -> dict[str, Callable[..., Any]]:
    """
    Return the ``retry_args`` of a user: arguments of tenacity by name, see :data:`RETRY_ARGS`.

    :raises RtiSmsInputError: it is anything else; names the argument.
    """
    if not isinstance(value, Mapping):
        raise RtiSmsInputError(f"retry_args is {shape(value)}: use a dict of arguments of tenacity.Retrying, or None.")
    for name, strategy in value.items():
        if name not in RETRY_ARGS:
            raise RtiSmsInputError(f"retry_args holds an argument that is not one of: {', '.join(RETRY_ARGS)}.")
        if not callable(strategy):
            raise RtiSmsInputError(f"retry_args: {name} is {shape(strategy)}: use a strategy of tenacity.")
    return dict(value)


class Attempts:
    """
    The attempts of one call: what is repeated, and what each failure means. Both clients use it. It does no I/O.

    Two refusals are repeated at once and count as no attempt: a 401, with a new token, and a 429 after which the
    limiter has slowed all requests down.

    :param clock: seconds on a monotonic clock, without the time for which a limiter held the call back.
    :param retry_args: what the user replaces in :meth:`_arguments`.
    """

    def __init__(
        self,
        call: Call[Any],
        settings: ApiSettings,
        tokens: TokenCache,
        stats: Stats,
        clock: Callable[[], float],
        retry_args: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.call = call
        #: The token of the last request; None for the call that gets one.
        self.token: Token | None = None
        #: Whether the limiter has slowed all requests down after the last 429.
        self.is_throttled_together = False
        self._settings = settings
        self._tokens = tokens
        self._stats = stats
        self._clock = clock
        self._retry_args = retry_args
        self._started = clock()
        #: Since the last attempt that counts: 401s, 429s, and whether the newest token was refused.
        self._refusals = self._throttles = 0
        self._is_renewed = False
        #: Whether the last failure is repeated at once and counts as no attempt.
        self._is_free = False

    def run(self, attempt: Callable[[Attempts], T]) -> T:
        """
        Attempt the call until an attempt succeeds or the last one has failed.

        :param attempt: sends the call once and reads its response; sets :attr:`token`.
        :raises RtiSmsError: a permanent failure, or a transient one in every attempt.
        """
        try:
            result: T = tenacity.Retrying(sleep=time.sleep, **self._arguments())(attempt, self)
        except RtiSmsError as error:
            raise self.final_error(error) from None
        self.on_end(result)
        return result

    async def retry_async(
        self, attempt: Callable[[Attempts], Awaitable[T]], on_sleep: Callable[[], None], first_error: RtiSmsError
    ) -> T:
        """
        Do what follows a first attempt that has failed, on an event loop.

        The asyncio client makes its first attempt without tenacity. Most calls succeed at once, and tenacity takes half
        as long as a request.

        :param attempt: as for :meth:`run`; also sets :attr:`is_throttled_together`.
        :param on_sleep: called before a pause.
        :param first_error: why the first attempt has failed.
        """
        failed = [first_error]

        async def next_attempt() -> T:
            if failed:
                raise failed.pop()
            return await attempt(self)

        async def sleep(seconds: float) -> None:
            if seconds:
                on_sleep()
                await asyncio.sleep(seconds)

        result: T = await tenacity.AsyncRetrying(sleep=sleep, **self._arguments())(next_attempt)
        return result

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments for tenacity's ``Retrying`` and ``AsyncRetrying``."""
        return {
            "retry": self._retry,
            "wait": self._wait,
            "stop": self._stop,
            "before_sleep": self._before_sleep,
            "retry_error_callback": self._give_up,
        }

    def final_error(self, error: RtiSmsError) -> RtiSmsError:
        """Return the error that the call raises when its last attempt has failed, and count the call."""
        call = self.call
        if isinstance(error, errors.RtiSmsTokenExpiredError):
            what = "the server returned HTTP 401 twice, the second time for a new token"
            error = call.error(errors.RtiSmsTokenRefusedError, what, status=error.status)
        elif not call.idempotent and error.may_have_acted and error.call != AUTHENTICATE:
            error = errors.RtiSmsUncertainError(
                f"{error} It is uncertain whether the server acted on the request, so the request is not repeated.",
                call=error.call,
                subject=error.subject,
                status=error.status,
                submissions=error.submissions,
            )
        elif isinstance(error, errors.RtiSmsAuthenticationError) and call.name == AUTHENTICATE:
            hint = self._settings.odd_credentials()
            error = error.with_context(hint) if hint else error
        self.on_end(error)
        return error

    def on_end(self, outcome: Any) -> None:
        """Count the call, which has ended with a result or an error."""
        if self.call.name == AUTHENTICATE and not isinstance(outcome, RtiSmsError):
            self._stats.on_token()
        if self._stats.report is not None:
            self._stats.on_call(self.call, self._clock() - self._started, outcome)

    def _retry(self, state: tenacity.RetryCallState) -> bool:
        """Return whether there is another attempt, unless :meth:`_stop` says that it is enough."""
        error = _error(state)
        if error is None:
            return False
        state.start_time = cast(float, state.outcome_timestamp) - (self._clock() - self._started)
        if isinstance(error, errors.RtiSmsTokenExpiredError):
            self._is_free = self._is_renewal_due()
            if not self._is_free:
                return False
        elif isinstance(error, errors.RtiSmsRateLimitError) and error.call == self.call.name:
            self._stats.on_throttled(self.call)
            self._throttles += 1
            self._is_free = self.is_throttled_together and self._throttles < MAX_THROTTLES
        else:
            self._is_free = False
        if self._is_free:
            state.attempt_number -= 1  # tenacity counts up before the next attempt
            return True
        self._refusals = self._throttles = 0
        self._is_renewed = False
        retry = self._retry_args.get("retry")
        if not is_safe_to_repeat(self.call, error):
            return False
        return isinstance(error, errors.RtiSmsTransientError) if retry is None else bool(retry(state))

    def _is_renewal_due(self) -> bool:
        """
        Decide what follows a 401: whether the request is repeated with a new token.

        A second 401 is final if it is for the newest token again, and the server has accepted no token lately.
        Otherwise the server accepts new tokens, and something revokes them.
        """
        self._refusals += 1
        is_newest = self._tokens.discard(cast(Token, self.token))
        if (is_newest and self._is_renewed and not self._tokens.is_accepted()) or self._refusals > MAX_REVOKED_TOKENS:
            return False
        self._is_renewed = self._is_renewed or is_newest
        return True

    def _wait(self, state: tenacity.RetryCallState) -> float:
        if self._is_free:
            return 0.0
        wait = self._retry_args.get("wait")
        return backoff(state.attempt_number, _error(state).retry_after) if wait is None else float(wait(state))

    def _stop(self, state: tenacity.RetryCallState) -> bool:
        if self._is_free:
            return False
        stop = self._retry_args.get("stop") or tenacity.stop_any(
            tenacity.stop_after_attempt(self._settings.max_attempts), tenacity.stop_before_delay(TOTAL_CAP + 1e-9)
        )
        return bool(stop(state))

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        self._stats.on_retry(self.call)
        error = _error(state)
        if isinstance(error, errors.RtiSmsTokenExpiredError):
            log.info("%s: the server refused the token (HTTP 401); repeating the request with a new token", self.call)
        elif self._is_free:
            log.debug("%s Repeating the request after the pause of all requests", error)
        elif "before_sleep" in self._retry_args:
            self._retry_args["before_sleep"](state)
        else:
            most = "" if "stop" in self._retry_args else f" of {self._settings.max_attempts}"
            what = "%s Attempt %d%s failed; the next one starts in %.1f s"
            log.warning(what, error, state.attempt_number, most, state.upcoming_sleep)

    def _give_up(self, state: tenacity.RetryCallState) -> None:
        error = _error(state)
        if state.attempt_number == 1:
            raise error
        attempts = f"{state.attempt_number} attempts in {state.seconds_since_start:.1f} s"
        raise error.with_context(f"Gave up after {attempts}.") from None


def _error(state: tenacity.RetryCallState) -> Any:
    assert state.outcome is not None  # noqa: S101
    return state.outcome.exception()


@dataclass(slots=True, eq=False)
class Token:
    """A bearer token, the time on the monotonic clock from which no new request uses it, and what the server said."""

    value: Secret[str]
    renew_at: float
    is_refused: bool = False


class TokenCache:
    """
    Hold one token for many callers: renewed early, and got by one caller at a time.

    Threads have one lock, and the tasks of each event loop another one. A thread and a loop that need a token at the
    same moment get one each, which does no harm. Source: docs/vendor-api.md, "Authenticate".
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: How many requests for a token have ended.
        self._renewals = 0
        self._newest: Token | None = None
        #: How the last request for a token has failed; None if it has not.
        self._failure: RtiSmsError | None = None
        self._accepted_at = -math.inf
        self._lock = threading.RLock()  # a signal handler may call the API while its thread holds the lock
        self._pid = os.getpid()
        #: How many tasks of event loops hold the lock of their loop or wait for it.
        self._asking = 0
        self._loop_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def fresh(self) -> Token | None:
        """Return the token if there is a fresh one. Most calls find one, and need no lock."""
        token = self._newest
        return token if token is not None and not token.is_refused and self._clock() < token.renew_at else None

    def get(self, authenticate: Callable[[], TokenGrant]) -> Token:
        """
        Return a fresh token. If there is none, one thread gets it and the others wait.

        :param authenticate: does POST /auth.
        :raises RtiSmsError: authentication failed; every caller that waited raises the same error.
        """
        token = self.fresh()
        if token is None:
            renewals = self._renewals
            with self._lock_of_threads():
                token = self._found_since(renewals)
                if token is None:
                    with self._renewal() as store:
                        token = store(authenticate())
        return token

    @asynccontextmanager
    async def renewal(
        self, on_wait: Callable[[], None]
    ) -> AsyncIterator[tuple[Token | None, Callable[[TokenGrant], Token]]]:
        """
        Hold the lock of a task of an event loop that has found no fresh token.

        :param on_wait: called before the task waits for another one.
        :return: the token that another task has got meanwhile, or None; and what keeps a new one.
        :raises RtiSmsError: another task has asked for a token meanwhile, and authentication failed.
        """
        renewals = self._renewals
        if self._asking:  # the lock itself may seem free while the next task in the queue is about to run
            on_wait()
        self._asking += 1
        try:
            async with self._loop_locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
                token = self._found_since(renewals)
                with self._renewal() as store:
                    yield token, store
        finally:
            self._asking -= 1

    def _lock_of_threads(self) -> AbstractContextManager[Any]:
        if self._pid != os.getpid():  # after a fork no thread of this process releases the lock
            self._pid, self._lock = os.getpid(), threading.RLock()
        return self._lock

    def _found_since(self, renewals: int) -> Token | None:
        """
        Return the token that a caller who has just got the lock can use, or None if it has to get one.

        A caller that waited uses the new token at least once, even if its validity is zero: there is no newer one. If
        no token could be got meanwhile, it raises a copy of the error, since a traceback belongs to one thread.
        """
        if self._renewals == renewals:
            return self.fresh()
        if self._failure is not None:
            raise copy.copy(self._failure) from None
        token = self._newest
        return None if token is None or token.is_refused else token

    @contextmanager
    def _renewal(self) -> Iterator[Callable[[TokenGrant], Token]]:
        """Give what keeps the token of a request that begins now; note the failure of the request."""
        try:
            yield partial(self._store, self._clock())
        except RtiSmsError as error:
            self._failure = error
            self._renewals += 1
            raise

    def _store(self, requested_at: float, grant: TokenGrant) -> Token:
        """Keep a new token. Its validity counts from the request, so that the token is never used for too long."""
        validity = grant.validity
        if validity is None:
            log.warning(
                "The response to POST /auth has no validity_period that can be read. The token is used for %d s",
                FALLBACK_VALIDITY,
            )
            validity = FALLBACK_VALIDITY
        token = Token(grant.access_token, requested_at + validity - min(RENEWAL_LEAD, validity / 2))
        self._newest, self._failure = token, None
        self._renewals += 1
        return token

    def discard(self, token: Token) -> bool:
        """Mark a token as refused by the server; return whether it was the newest one."""
        token.is_refused = True
        return token is self._newest

    def on_accepted(self) -> None:
        """Note that the server has accepted a token."""
        self._accepted_at = self._clock()

    def is_accepted(self) -> bool:
        """Return whether the server has accepted a token within the last :data:`ACCEPTED_FOR` seconds."""
        return self._clock() - self._accepted_at < ACCEPTED_FOR


#: Gets the name of what happened, a value, and words about it, see ``hooks/metrics.py``.
Report = Callable[..., None]


@dataclass(slots=True)
class Stats:
    """
    Counters of one client: requests, tokens, retries and responses of 429. They only grow.

    :param report: passes on what happens, such as to metrics. It is called between two steps of a call, on event loops
        too, so it must return at once and raise nothing.
    """

    requests: int = 0
    tokens: int = 0
    retries: int = 0
    throttled: int = 0
    report: Report | None = field(default=None, repr=False, compare=False)

    def on_request(self, call: Call[Any], status: int | None) -> None:
        """Count a request that has ended, with an HTTP status or, for whatever reason, without a usable response."""
        self.requests += 1
        if self.report is not None:
            kind = "no_response" if status is None else f"{status // 100}xx" if 100 <= status < 600 else "other"
            self.report("requests", 1, call.name, kind)

    def on_retry(self, call: Call[Any]) -> None:
        """Count a call that repeats its request: after a transient error, a 429, or a 401 with a new token."""
        self.retries += 1
        self._report("retries", 1, call.name)

    def on_throttled(self, call: Call[Any]) -> None:
        self.throttled += 1
        self._report("throttled", 1, call.name)

    def on_token(self) -> None:
        self.tokens += 1
        self._report("tokens", 1)

    def on_call(self, call: Call[Any], seconds: float, outcome: Any) -> None:
        """
        Report a call that has ended. A call that is cancelled or interrupted is not reported.

        :param seconds: how long it took, with its retries, without the time for which the limiter held it back.
        :param outcome: its result, or the :class:`~airflow_provider_rtisms.api.errors.RtiSmsError` that it raises.
        """
        kind = "success"
        if isinstance(outcome, RtiSmsError):
            kind = "transient_error" if isinstance(outcome, errors.RtiSmsTransientError) else "permanent_error"
        self._report("call_duration", seconds * 1000, call.name, kind)
        if isinstance(outcome, errors.RtiSmsUncertainError) and call.messages:
            self._report("messages", call.messages, SendOutcome.UNCERTAIN)
        elif isinstance(outcome, RtiSmsError):
            return
        elif call.messages:
            for verdict, count in Counter(submission.outcome for submission in outcome).items():
                self._report("messages", count, verdict)
        elif call.name == GET_BALANCE:
            self._report("balance", float(outcome))

    def on_records(self, count: int) -> None:
        """Report that a bulk fetch has fetched so many records."""
        self._report("bulk_records", count)

    def on_delivery(self, seconds: float) -> None:
        """Report that a message was found to be delivered, so many seconds after the vendor accepted it."""
        self._report("delivery_duration", seconds * 1000)

    def _report(self, *what: Any) -> None:
        if self.report is not None:
            self.report(*what)
