"""
The access token: cached for all callers with the same settings, renewed early, and got by one caller at a time.

Threads have one lock, and the tasks of each event loop another one. A thread and a loop that need a token at the same
moment get one each, which does no harm. Source: docs/vendor-api.md, "Authenticate".
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_rtisms.api.calls import TokenGrant
from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.api.values.secret import Secret

log = logging.getLogger(__name__)

#: Seconds before its end at which a token is renewed, but never more than half its validity.
RENEWAL_LEAD = 120.0
#: Seconds for which a token is used where ``validity_period`` cannot be read.
FALLBACK_VALIDITY = 60.0
#: Seconds after an accepted request in which a refused token counts as revoked: the server accepts new tokens.
ACCEPTED_FOR = 5.0


@dataclass(slots=True, eq=False)
class Token:
    """A bearer token, the time on the monotonic clock from which no new request uses it, and what the server said."""

    value: Secret[str]
    renew_at: float
    is_refused: bool = False


class TokenCache:
    """Hold one token for many callers. Threads and tasks of event loops may share it."""

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
