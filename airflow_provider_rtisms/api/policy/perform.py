"""
Do one call, from the token to the result: one generator that both clients drive.

Source: docs/architecture.md, "One call".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from airflow_provider_rtisms.api.errors import (
    RtiSmsAuthenticationError,
    RtiSmsError,
    RtiSmsRateLimitError,
    RtiSmsTokenExpiredError,
    RtiSmsTokenRefusedError,
    RtiSmsUncertainError,
)
from airflow_provider_rtisms.api.policy.effects import ACQUIRE, Effect, Send, Sleep, Throttled
from airflow_provider_rtisms.api.policy.observer import Observer
from airflow_provider_rtisms.api.policy.retry import RetryPolicy
from airflow_provider_rtisms.api.policy.token_cache import TokenCache
from airflow_provider_rtisms.api.protocol.endpoints import TokenGrant, authenticate
from airflow_provider_rtisms.api.protocol.request import AUTHENTICATE, Call, HttpResponse
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.redaction import redact
from airflow_provider_rtisms.api.values.secret import Secret

log = logging.getLogger(__name__)

T = TypeVar("T")
Flow = Generator[Effect, Any, T]
Clock = Callable[[], float]

_IGNORE = Observer()

#: How often a call may be refused for tokens that are revoked while it is under way, before that counts as final. It
#: also bounds the tokens that are issued for a call that the server refuses while it accepts all others.
MAX_REVOKED_TOKENS = 30
#: How often one request may be refused with 429 while the limiter slows all requests down, before that is a failure.
MAX_THROTTLES = 50


class TransportError(Exception):
    """
    A request got no response. A transport throws this into a flow.

    :param kind: the class of the failure.
    :param what: what happened, in our words.
    :param detail: the library's words; may repeat what the server wrote, and so secrets.
    """

    def __init__(self, kind: type[RtiSmsError], what: str, detail: str = "") -> None:
        super().__init__(kind, what, detail)
        self.kind = kind
        self.what = what
        self.detail = detail


def describe_break(error: Exception) -> str:
    """
    Return what broke a connection: the kind of the error, and the words of the operating system.

    Other words of an HTTP library may repeat what the server wrote.

    :param error: the library's error.
    """
    name = type(error).__name__
    return f"{name}: {error.strerror}" if isinstance(error, OSError) and error.strerror else name


@dataclass(slots=True)
class _Context:
    """
    What all steps of a call share. It measures the time of the call without the time for which the limiter held it.

    :param settings: credentials and limits.
    :param clock: seconds on a monotonic clock.
    :param observer: hears what happens.
    """

    settings: ApiSettings
    clock: Clock
    observer: Observer
    held: float = 0.0

    def now(self) -> float:
        """Return the seconds that count."""
        return self.clock() - self.held


def perform(
    call: Call[T],
    settings: ApiSettings,
    tokens: TokenCache,
    clock: Clock = time.monotonic,
    observer: Observer = _IGNORE,
) -> Flow[T]:
    """
    Do one call: get a token if necessary, send, renew the token once on 401, retry what may succeed later.

    :param call: what to do.
    :param settings: credentials and limits.
    :param tokens: the cache that all callers with these settings share.
    :param clock: seconds on a monotonic clock.
    :param observer: hears what happens.
    :return: the result of the call.
    :raises RtiSmsError: a permanent failure, or a transient one in every attempt.
    """
    context = _Context(settings, clock, observer)
    return (yield from _retry(call, context, partial(_authorize, call, context, tokens)))


def _retry(call: Call[Any], context: _Context, attempt: Callable[[], Flow[T]]) -> Flow[T]:
    """Repeat an attempt until it succeeds or the retry policy gives up."""
    started = context.now()
    policy: RetryPolicy | None = None
    while True:
        try:
            result = yield from attempt()
        except RtiSmsError as error:
            if policy is None:  # most calls succeed at once; only the others pay for tenacity
                policy = RetryPolicy(call, context.settings.max_attempts)
            elapsed = context.now() - started
            try:
                pause = policy.pause_after(error, elapsed)
            except RtiSmsError as last_error:
                final = _final_error(call, last_error)
                context.observer.on_call(call, elapsed, final)
                if final is last_error:
                    raise
                raise final from None
        else:
            context.observer.on_call(call, context.now() - started, result)
            return result
        context.observer.on_retry(call)
        yield Sleep(pause)


def _final_error(call: Call[Any], error: RtiSmsError) -> RtiSmsError:
    """Return the error that a call raises once it is not repeated."""
    if call.idempotent or not error.may_have_acted or error.call == AUTHENTICATE:
        return error
    return RtiSmsUncertainError(
        f"{error} It is uncertain whether the server acted on the request, so the request is not repeated.",
        call=error.call,
        subject=error.subject,
        status=error.status,
        submissions=error.submissions,
    )


def _authorize(call: Call[T], context: _Context, tokens: TokenCache) -> Flow[T]:
    """
    Send a call with a bearer token, and renew the token once on 401.

    A second 401 is final if it is for the newest token again, and the server has accepted no token lately. Otherwise
    the server accepts new tokens, and something revokes them.
    """
    is_renewed = False
    refusals = 0
    while True:
        token = tokens.fresh() or (yield from tokens.obtain(partial(_get_grant, context)))
        try:
            result = yield from _exchange(call, context, token.value)
        except RtiSmsTokenExpiredError as error:
            refusals += 1
            is_newest = tokens.discard(token)
            if (is_newest and is_renewed and not tokens.is_accepted()) or refusals > MAX_REVOKED_TOKENS:
                what = "the server returned HTTP 401 twice, the second time for a new token"
                raise call.error(RtiSmsTokenRefusedError, what, status=error.status) from None
            is_renewed = is_renewed or is_newest
            log.info("%s: the server refused the token (HTTP 401); repeating the request with a new token", call)
            context.observer.on_retry(call)
        else:
            tokens.on_accepted()
            return result


def _get_grant(context: _Context) -> Flow[TokenGrant]:
    call = authenticate(context.settings)
    try:
        grant = yield from _retry(call, context, partial(_exchange, call, context))
    except RtiSmsAuthenticationError as error:
        if hint := context.settings.odd_credentials():
            raise error.with_context(hint) from None
        raise
    context.observer.on_token()
    return grant


def _exchange(call: Call[T], context: _Context, access_token: Secret[str] | None = None) -> Flow[T]:
    """Send one request, and read its response; repeat it after a 429 for which the limiter slows all requests down."""
    settings_secrets = context.settings.secrets()
    secrets = settings_secrets if access_token is None else (access_token, *settings_secrets)
    refusals = 0
    while True:
        began = context.clock()
        yield ACQUIRE
        context.held += context.clock() - began
        request = call.request(access_token)
        status: int | None = None
        try:
            response: HttpResponse = yield Send(request)
            status = response.status
        except TransportError as failure:
            show_detail = failure.detail and not (call.is_confidential and failure.kind.may_have_acted)
            what = f"{failure.what} ({failure.detail})" if show_detail else failure.what
            raise call.error(failure.kind, redact(what, secrets)) from None
        finally:
            context.observer.on_request(call, status)
        try:
            return call.read(response, secrets)
        except RtiSmsRateLimitError as error:
            context.observer.on_throttled(call)
            refusals += 1
            is_shared = bool((yield Throttled(error.retry_after)))
            if not is_shared or refusals == MAX_THROTTLES:
                raise
            context.observer.on_retry(call)
            log.debug("%s Repeating the request after the pause of all requests", error)
