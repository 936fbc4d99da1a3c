"""
What is repeated, when and how often: one set of arguments for tenacity's ``Retrying`` and ``AsyncRetrying``.

What happens on a 401: ``Call.read`` raises RtiSmsTokenExpiredError in ``_attempt`` of a client. ``Attempts._retry``
asks ``_is_renewal_due``, which throws the token away. tenacity repeats the attempt at once, and ``_attempt`` gets the
next token of ``auth.TokenCache``. A 401 that is not repeated ends the call with RtiSmsTokenRefusedError
(``final_error``).

Source: docs/architecture.md, "Retries" and "The way of a token"; docs/vendor-api.md, "Errors".
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import tenacity

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.auth import Token, TokenCache
from airflow_provider_rtisms.api.calls import AUTHENTICATE, GET_BALANCE, Call
from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.api.models import SendOutcome
from airflow_provider_rtisms.api.settings import ApiSettings

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
        self._resends = 0

    def span(self) -> AbstractContextManager[Any]:
        """Make a span of the call, with all its attempts, where the process traces."""
        return nullcontext() if self._stats.tracer is None else self._trace(self._stats.tracer)

    @contextmanager
    def _trace(self, tracer: Any) -> Iterator[None]:
        """
        Make a span, as OpenTelemetry's semantic conventions for HTTP clients say; that of a token is inside of it.

        It has no ``url.full``, since a path holds an id, and no text of an error.
        """
        from opentelemetry.trace import SpanKind

        call, server = self.call, urlsplit(self._settings.base_url)
        attributes: dict[str, Any] = {
            "http.request.method": call.method,
            "server.address": server.hostname,
            "server.port": server.port or (443 if server.scheme == "https" else 80),
        }
        if call.template is not None:
            attributes["url.template"] = call.template
        name = f"{call.method} {call.template or ''}".rstrip()
        with span_of(tracer, name, kind=SpanKind.CLIENT, attributes=attributes) as note:
            status: int | None = None
            try:
                yield
                status = 200
            except RtiSmsError as error:
                status = error.status if error.call == call.name else None
                raise
            finally:
                if status is not None:
                    note({"http.response.status_code": status})
                if self._resends:
                    note({"http.request.resend_count": self._resends})

    def run(self, attempt: Callable[[Attempts], T]) -> T:
        """
        Attempt the call until an attempt succeeds or the last one has failed.

        :param attempt: sends the call once and reads its response; sets :attr:`token`.
        :raises RtiSmsError: a permanent failure, or a transient one in every attempt.
        """
        with self.span():
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
        if self._settings.conn_id is not None:
            error = error.naming(self._settings.conn_id)
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
        self._resends += 1
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


@contextmanager
def span_of(tracer: Any, name: str, **options: Any) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """
    Make a span, which knows the class of an error and not its text. A tracer that fails does not fail what it traces.

    :param options: of OpenTelemetry's ``Tracer.start_as_current_span``.
    :return: a function that adds attributes to the span.
    """
    from opentelemetry.trace import StatusCode

    with ExitStack() as stack:
        span: Any = None
        with tolerating_tracer():
            manager = tracer.start_as_current_span(name, **options)
            span = manager.__enter__()
            stack.callback(_end, manager)

        def note(attributes: Mapping[str, Any]) -> None:
            if span is not None:
                with tolerating_tracer():
                    span.set_attributes(attributes)

        try:
            yield note
        except BaseException as error:  # a cancelled call too
            note({"error.type": type(error).__name__})
            if span is not None:
                with tolerating_tracer():
                    span.set_status(StatusCode.ERROR)
            raise


def _end(manager: AbstractContextManager[Any]) -> None:
    with tolerating_tracer():
        manager.__exit__(None, None, None)  # without the error, whose text may name people


@contextmanager
def tolerating_tracer() -> Iterator[None]:
    """Log that a tracer fails, once for each reason, since that must not fail a call."""
    try:
        yield
    except Exception as error:
        _warn_once(f"{type(error).__name__}: {error}")


@lru_cache(maxsize=10)
def _warn_once(problem: str) -> None:
    log.warning("Spans cannot be made: %s. The calls to the API go on", problem)


#: Gets the name of what happened, a value, and words about it, see ``hooks/metrics.py``.
Report = Callable[..., None]


@dataclass(slots=True)
class Stats:
    """
    Counters of one client: requests, tokens, retries and responses of 429. They only grow.

    :param report: passes on what happens, such as to metrics. It is called between two steps of a call, on event loops
        too, so it must return at once and raise nothing.
    :param tracer: of OpenTelemetry, for a span of each call; None where the process does not trace.
    """

    requests: int = 0
    tokens: int = 0
    retries: int = 0
    throttled: int = 0
    report: Report | None = field(default=None, repr=False, compare=False)
    tracer: Any = field(default=None, repr=False, compare=False)

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
