"""One test body for both transports."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.calls import Call
from airflow_provider_rtisms.api.client import RtiSmsClient
from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.api.settings import ApiSettings
from tests.hostile import HostileServer
from tests.patience import with_more_time


class Transport(ABC):
    """A transport that talks to a server with credentials that no other text of a test holds."""

    @abstractmethod
    def perform_in_turn(self, settings: ApiSettings, calls: Sequence[Call[Any]]) -> list[Any]:
        """Do calls one after the other with one client; return results and errors."""

    def give_up(self, server: HostileServer, call: Call[Any], **settings: Any) -> Any:
        """Do a call that the server does not respond to; return its error."""
        values = {"client_id": "client-one", "client_secret": "s3cret/+&=", "base_url": server.url, **settings}
        return with_more_time(
            lambda timeout: self.perform_in_turn(ApiSettings(**values, timeout=timeout), [call])[0],
            was_enough=lambda _: server.calls,
        )

    @abstractmethod
    def perform_at_once(self, settings: ApiSettings, calls: Sequence[Call[Any]]) -> list[Any]:
        """Do calls at the same time with one client; return results and errors."""

    def perform(self, server: HostileServer, call: Call[Any], **settings: Any) -> Any:
        """Do one call; return its result or raise its error."""
        return self.perform_all(server, [call], **settings)[0]

    def perform_all(
        self, server: HostileServer, calls: Sequence[Call[Any]], *, at_once: bool = False, **settings: Any
    ) -> list[Any]:
        """Do some calls; return their results or raise the first error."""
        values = {"client_id": "client-one", "client_secret": "s3cret/+&=", "base_url": server.url, **settings}
        perform = self.perform_at_once if at_once else self.perform_in_turn
        outcomes = perform(ApiSettings(**values), calls)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes


class Blocking(Transport):
    def perform_in_turn(self, settings: ApiSettings, calls: Sequence[Call[Any]]) -> list[Any]:
        with RtiSmsClient(settings) as client:
            return [self._outcome(client, call) for call in calls]

    def perform_at_once(self, settings: ApiSettings, calls: Sequence[Call[Any]]) -> list[Any]:
        with RtiSmsClient(settings) as client, ThreadPoolExecutor(len(calls)) as threads:
            return list(threads.map(lambda call: self._outcome(client, call), calls))

    @staticmethod
    def _outcome(client: RtiSmsClient, call: Call[Any]) -> Any:
        try:
            return client.perform(call)
        except RtiSmsError as error:
            return error


class Asyncio(Transport):
    def perform_in_turn(self, settings: ApiSettings, calls: Sequence[Call[Any]]) -> list[Any]:
        async def main() -> list[Any]:
            async with AsyncRtiSmsClient(settings) as client:
                return [(await asyncio.gather(client.perform(call), return_exceptions=True))[0] for call in calls]

        return asyncio.run(main())

    def perform_at_once(self, settings: ApiSettings, calls: Sequence[Call[Any]]) -> list[Any]:
        async def main() -> list[Any]:
            async with AsyncRtiSmsClient(settings) as client:
                return await asyncio.gather(*(client.perform(call) for call in calls), return_exceptions=True)

        return asyncio.run(main())


@pytest.fixture(params=[Blocking(), Asyncio()], ids=["requests", "aiohttp"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each transport in turn."""
    return request.param
