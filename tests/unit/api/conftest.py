"""One test body for both transports."""

from __future__ import annotations

import asyncio
import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.calls import Call
from airflow_provider_rtisms.api.client import RtiSmsClient
from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.api.settings import ApiSettings
from tests import virtual_time
from tests.hostile import HostileServer
from tests.patience import with_more_time

#: Something to do with a client: ``lambda client: client.get_balance()`` fits both.
Work = Callable[[Any], Any]


class Transport(ABC):
    """A transport that talks to a server with credentials that no other text of a test holds."""

    @abstractmethod
    def use(self, settings: ApiSettings, works: Sequence[Work], *, at_once: bool = False, **options: Any) -> list[Any]:
        """Do some things with one client, in turn or at once; return their results and errors."""

    def perform_in_turn(self, settings: ApiSettings, calls: Sequence[Call[Any]]) -> list[Any]:
        """Do calls one after the other with one client; return results and errors."""
        return self.use(settings, [_performing(call) for call in calls])

    def give_up(self, server: HostileServer, call: Call[Any], **settings: Any) -> Any:
        """Do a call that the server does not respond to; return its error."""
        return with_more_time(
            lambda timeout: self.perform_in_turn(settings_for(server, timeout=timeout, **settings), [call])[0],
            was_enough=lambda _: server.calls,
        )

    def perform(self, server: HostileServer, call: Call[Any], **settings: Any) -> Any:
        """Do one call; return its result or raise its error."""
        return self.perform_all(server, [call], **settings)[0]

    def perform_all(
        self, server: HostileServer, calls: Sequence[Call[Any]], *, at_once: bool = False, **settings: Any
    ) -> list[Any]:
        """Do some calls; return their results or raise the first error."""
        outcomes = self.use(settings_for(server, **settings), [_performing(call) for call in calls], at_once=at_once)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes


def settings_for(server: HostileServer, **others: Any) -> ApiSettings:
    """Return settings for a server."""
    return ApiSettings(**{"client_id": "client-one", "client_secret": "s3cret/+&=", "base_url": server.url} | others)


def _performing(call: Call[Any]) -> Work:
    return lambda client: client.perform(call)


class Blocking(Transport):
    def use(self, settings: ApiSettings, works: Sequence[Work], *, at_once: bool = False, **options: Any) -> list[Any]:
        with RtiSmsClient(settings, **options) as client, ThreadPoolExecutor(len(works) if at_once else 1) as threads:
            return list(threads.map(lambda work: self._outcome(work, client), works))

    @staticmethod
    def _outcome(work: Work, client: RtiSmsClient) -> Any:
        try:
            return work(client)
        except RtiSmsError as error:
            return error


class Asyncio(Transport):
    def use(self, settings: ApiSettings, works: Sequence[Work], *, at_once: bool = False, **options: Any) -> list[Any]:
        async def outcomes(*some: Awaitable[Any]) -> list[Any]:
            return await asyncio.gather(*some, return_exceptions=True)

        async def main() -> list[Any]:
            async with AsyncRtiSmsClient(settings, **options) as client:
                if at_once:
                    return await outcomes(*(work(client) for work in works))
                return [(await outcomes(work(client)))[0] for work in works]

        return asyncio.run(main())


@pytest.fixture
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Log what the libraries log, too."""
    for name in ("", "urllib3", "aiohttp", "asyncio", "requests", "airflow_provider_rtisms"):
        caplog.set_level(logging.DEBUG, logger=name)


@pytest.fixture(params=[Blocking(), Asyncio()], ids=["requests", "aiohttp"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each transport in turn."""
    return request.param


def _running(run: Callable[[Coroutine[Any, Any, None]], object], test: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(test)  # pytest reads the parameters from it
    def in_loop(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return in_loop


def in_event_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Run an asynchronous test."""
    return _running(asyncio.run, test)


def in_virtual_time(test: Callable[..., Any]) -> Callable[..., None]:
    """Run an asynchronous test on a loop on which time passes at once."""
    return _running(virtual_time.run, test)
