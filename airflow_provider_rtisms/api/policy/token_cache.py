"""
The access token and its cache: when it is stale, who gets the next one, and who waits for it.

The cache is shared by threads and by tasks of an event loop. Its lock is never held across I/O: the first caller that
finds no fresh token leads and authenticates, everyone else waits for the leader's future.

Source: API page, chapter "Authenticate"; design.md, rule 1.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.api.policy.effects import Effect, MaskSecret, WaitFor
from airflow_provider_rtisms.api.protocol.endpoints import TokenGrant
from airflow_provider_rtisms.api.values.secret import Secret

log = logging.getLogger(__name__)

#: Seconds before its end at which a token is renewed, but never more than half its validity.
RENEWAL_LEAD = 120.0
#: Seconds a token is taken to be good where ``validity_period`` cannot be read.
FALLBACK_VALIDITY = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """
    A bearer token.

    :param value: what goes into the Authorization header.
    :param renew_at: time on the monotonic clock from which it is no longer used for a new request.
    """

    value: Secret
    renew_at: float

    @classmethod
    def from_grant(cls, grant: TokenGrant, asked_at: float) -> Token:
        """
        Return the token of a grant.

        :param grant: the response of POST /auth.
        :param asked_at: time on the monotonic clock when it was asked for; counting from there errs on the safe side.
        """
        validity = grant.validity
        if validity is None:
            log.warning("The validity_period of the token cannot be read; taking it for %d s", FALLBACK_VALIDITY)
            validity = FALLBACK_VALIDITY
        return cls(grant.access_token, asked_at + validity - min(RENEWAL_LEAD, validity / 2))


class _LeaderLeftError(Exception):
    """The leader was cancelled: someone else has to lead."""


class TokenCache:
    """
    One token for many callers.

    :param clock: seconds on a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._flight: Future[Token] | None = None

    def discard(self, token: Token) -> None:
        """Forget a token that was refused, unless a newer one has taken its place."""
        with self._lock:
            if self._token is token:
                self._token = None

    def obtain(self, authenticate: Callable[[], Generator[Effect, Any, TokenGrant]]) -> Generator[Effect, Any, Token]:
        """
        Give a fresh token, getting a new one if need be; one caller at a time gets it, the others wait.

        A token that was waited for is used at least once, however short its validity: there is no newer one.

        :param authenticate: gets a grant; driven by the caller that leads.
        :return: the token.
        :raises RtiSmsError: authentication failed; everyone who waited for it is told the same.
        """
        while True:
            with self._lock:
                token, flight = self._token, self._flight
                if token is not None and self._clock() < token.renew_at:
                    return token
                leads = flight is None
                if flight is None:
                    flight = self._flight = Future()
            if leads:
                return (yield from self._lead(flight, authenticate))
            try:
                waited_for: Token = yield WaitFor(flight)
                return waited_for
            except _LeaderLeftError:
                continue
            except RtiSmsError as error:
                # Each caller raises an exception of its own, since a traceback belongs to one thread.
                raise copy.copy(error) from None

    def _lead(
        self, flight: Future[Token], authenticate: Callable[[], Generator[Effect, Any, TokenGrant]]
    ) -> Generator[Effect, Any, Token]:
        asked_at = self._clock()
        try:
            grant = yield from authenticate()
            yield MaskSecret(str(grant.access_token))
            token = Token.from_grant(grant, asked_at)
        except BaseException as error:
            with self._lock:
                self._token = self._flight = None
            flight.set_exception(error if isinstance(error, RtiSmsError) else _LeaderLeftError())
            raise
        with self._lock:
            self._token, self._flight = token, None
        flight.set_result(token)
        return token
