"""
The access token and its cache: when a token is renewed, who gets the next one, and who waits for it.

Threads and tasks of an event loop share the cache. Its lock is never held across I/O: the first caller that finds no
fresh token leads and authenticates, and all other callers wait for its flight.

Source: docs/vendor-api.md, "Authenticate"; docs/architecture.md, "The way of a token".
"""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.api.policy.effects import Effect, MaskSecret, WaitFor
from airflow_provider_rtisms.api.policy.flight import Flight
from airflow_provider_rtisms.api.protocol.endpoints import TokenGrant
from airflow_provider_rtisms.api.values.forks import count_forks
from airflow_provider_rtisms.api.values.secret import Secret

log = logging.getLogger(__name__)

#: Seconds before its end at which a token is renewed, but never more than half its validity.
RENEWAL_LEAD = 120.0
#: Seconds for which a token is used where ``validity_period`` cannot be read.
FALLBACK_VALIDITY = 60.0
#: Seconds after an accepted request in which a refused token counts as revoked: the server accepts new tokens.
ACCEPTED_FOR = 5.0

Authenticate = Callable[[], Generator[Effect, Any, TokenGrant]]


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """
    A bearer token.

    :param value: what goes into the Authorization header.
    :param renew_at: time on the monotonic clock from which it is no longer used for a new request.
    """

    value: Secret[str]
    renew_at: float

    @classmethod
    def from_grant(cls, grant: TokenGrant, requested_at: float) -> Token:
        """
        Return the token of a grant.

        :param grant: the response of POST /auth.
        :param requested_at: time on the monotonic clock of the request. The validity counts from there, so that the
            token is never used for too long.
        """
        validity = grant.validity
        if validity is None:
            log.warning(
                "The response to POST /auth has no validity_period that can be read. The token is used for %d s",
                FALLBACK_VALIDITY,
            )
            validity = FALLBACK_VALIDITY
        return cls(grant.access_token, requested_at + validity - min(RENEWAL_LEAD, validity / 2))


class TokenCache:
    """
    Hold one token for many callers.

    :param clock: seconds on a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        #: The token that was issued last, even if it has been discarded.
        self._newest: Token | None = None
        self._accepted_at = -math.inf
        self._flight: Flight[Token | RtiSmsError] | None = None
        self._forks = count_forks()

    def discard(self, token: Token) -> bool:
        """
        Forget a token that the server has refused.

        :return: whether it was the newest token. If not, the caller can repeat its request with the newest one.
        """
        with self._lock:
            if self._token is token:
                self._token = None
            return token is self._newest

    def on_accepted(self) -> None:
        """Note that the server has accepted a token."""
        self._accepted_at = self._clock()

    def is_accepted(self) -> bool:
        """Return whether the server has accepted a token within the last :data:`ACCEPTED_FOR` seconds."""
        return self._clock() - self._accepted_at < ACCEPTED_FOR

    def fresh(self) -> Token | None:
        """Return the token if there is a fresh one. Most calls find one, and do not need :meth:`obtain`."""
        token = self._token
        is_fresh = token is not None and self._clock() < token.renew_at and self._forks == count_forks()
        return token if is_fresh else None

    def obtain(self, authenticate: Authenticate) -> Generator[Effect, Any, Token]:
        """
        Return a fresh token. If there is none, one caller gets it and the others wait.

        A caller that waited uses the new token at least once, even if its validity is zero: there is no newer one.

        :param authenticate: gets a grant; driven by the caller that leads.
        :return: the token.
        :raises RtiSmsError: authentication failed; every caller that waited raises the same error.
        """
        if self._forks != count_forks():
            self._start_over()  # after a fork no thread of this process completes the flight or releases the lock
        while True:
            with self._lock:
                token, flight = self._token, self._flight
                if token is not None and self._clock() < token.renew_at:
                    return token
                work = None
                if flight is None:
                    flight = self._flight = Flight()
                    work = self._lead(flight, authenticate)
                    flight.begin(work)
            if work is not None:
                return (yield from work)
            outcome: Token | RtiSmsError | None = yield WaitFor(flight)
            if isinstance(outcome, Token):
                return outcome
            if outcome is not None:
                # Each caller raises an exception of its own, since a traceback belongs to one thread.
                raise copy.copy(outcome) from None
            with self._lock:  # the leader was cancelled or interrupted, so another caller leads
                self._flight = None if self._flight is flight else self._flight

    def _lead(self, flight: Flight[Token | RtiSmsError], authenticate: Authenticate) -> Generator[Effect, Any, Token]:
        requested_at = self._clock()
        outcome: Token | RtiSmsError | None = None
        try:
            grant = yield from authenticate()
            yield MaskSecret(grant.access_token)
            outcome = Token.from_grant(grant, requested_at)
        except RtiSmsError as error:
            outcome = error
            raise
        finally:
            with self._lock:
                self._flight = None if self._flight is flight else self._flight
                if isinstance(outcome, Token):
                    self._token = self._newest = outcome
            flight.complete(outcome)
        return outcome

    def _start_over(self) -> None:
        self._forks = count_forks()
        self._lock = threading.Lock()
        self._flight = None
