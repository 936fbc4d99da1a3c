"""
How a call goes, from the token to the result: one generator that both transports drive.

Source: design.md, rules 1 and 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from airflow_provider_rtisms.api.errors import (
    RtiSmsError,
    RtiSmsRateLimitError,
    RtiSmsTokenExpiredError,
    RtiSmsTokenRefusedError,
    RtiSmsUncertainError,
)
from airflow_provider_rtisms.api.policy.effects import Effect, Send, Sleep, Throttled
from airflow_provider_rtisms.api.policy.retry import RetryPolicy
from airflow_provider_rtisms.api.policy.token_cache import Token, TokenCache
from airflow_provider_rtisms.api.protocol.endpoints import TokenGrant, authenticate
from airflow_provider_rtisms.api.protocol.request import AUTHENTICATE, Call, HttpResponse
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret

T = TypeVar("T")
Flow = Generator[Effect, Any, T]


class TransportError(Exception):
    """
    Thrown into a flow by a transport: an exchange brought no response.

    :param kind: the class of the failure.
    :param what: what happened, without secrets.
    """

    def __init__(self, kind: type[RtiSmsError], what: str) -> None:
        super().__init__(kind, what)
        self.kind = kind
        self.what = what


class Drive(Generic[T]):
    """
    A flow on its way. A transport does ``for step in drive: with step: step.response = do(step.effect)``.

    Whatever the doing raises goes into the flow, which decides what it means.

    :param flow: what to drive.
    """

    #: What the flow asks for now.
    effect: Effect
    #: What came of it.
    response: Any = None
    #: What the flow returned, once the iteration has ended.
    result: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Drive[T]]:
        try:
            self.effect = next(self._flow)
            while True:
                yield self
                if self._error is None:
                    self.effect = self._flow.send(self.response)
                else:
                    error, self._error = self._error, None
                    self.effect = self._flow.throw(error)
        except StopIteration as end:
            self.result = end.value

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> Literal[True]:
        self._error = error
        return True


def perform(call: Call[T], settings: ApiSettings, tokens: TokenCache) -> Flow[T]:
    """
    Do one call: get a token if need be, send, renew the token once on 401, repeat what is worth repeating.

    :param call: what to do.
    :param settings: credentials and limits.
    :param tokens: the cache that all callers of these settings share.
    :return: the result of the call.
    :raises RtiSmsError: permanent failure, or a transient one that outlived the attempts.
    """
    attempt = _AuthorizedAttempt(call, settings, tokens)
    try:
        return (yield from _persist(call, settings.max_attempts, attempt))
    except RtiSmsError as error:
        own = error.call != AUTHENTICATE
        if own and not call.idempotent and error.may_have_acted:
            raise RtiSmsUncertainError(
                f"{error} Whether it was acted on is unknown, so it is not repeated.",
                call=error.call,
                subject=error.subject,
                status=error.status,
                submissions=error.submissions,
            ) from None
        raise


@dataclass(slots=True)
class _AuthorizedAttempt:
    """One try of a call with a bearer token; remembers whether the try before it was responded with 401."""

    call: Call[Any]
    settings: ApiSettings
    tokens: TokenCache
    was_refused: bool = False

    def __call__(self) -> Flow[Any]:
        token: Token = yield from self.tokens.obtain(partial(_get_grant, self.settings))
        try:
            result = yield from _exchange(self.call, self.settings, token.value)
        except RtiSmsTokenExpiredError as error:
            self.tokens.discard(token)
            if self.was_refused:
                what = "the server responded HTTP 401 twice, the second time to a new token"
                raise self.call.error(RtiSmsTokenRefusedError, what, status=error.status) from None
            self.was_refused = True
            raise
        except RtiSmsError:
            self.was_refused = False
            raise
        return result


def _get_grant(settings: ApiSettings) -> Flow[TokenGrant]:
    call = authenticate(settings)
    return (yield from _persist(call, settings.max_attempts, partial(_exchange, call, settings)))


def _exchange(call: Call[T], settings: ApiSettings, access_token: Secret | None = None) -> Flow[T]:
    secrets = [settings.client_secret] if access_token is None else [settings.client_secret, access_token]
    try:
        response: HttpResponse = yield Send(call.request(access_token))
    except TransportError as failure:
        raise call.error(failure.kind, call.hide(failure.what, secrets)) from None
    try:
        return call.read(response, secrets)
    except RtiSmsRateLimitError as error:
        error.is_shared = bool((yield Throttled(response.sent_at, error.retry_after)))
        raise


def _persist(call: Call[T], max_attempts: int, attempt: Callable[[], Flow[T]]) -> Flow[T]:
    started = time.monotonic()
    policy: RetryPolicy | None = None
    while True:
        try:
            return (yield from attempt())
        except RtiSmsError as error:
            if policy is None:  # most calls succeed at once; only the others pay for tenacity
                policy = RetryPolicy(call, max_attempts, started)
            pause = policy.pause_after(error)
        yield Sleep(pause)
