"""How triggers read their Connection: together where they ask together, and never an older one than they asked for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from tests.patience import PATIENCE


class StoredConnection:
    """A Connection that can change, and whose reads are counted and can be held up."""

    def __init__(self) -> None:
        self.client_secret = "before"
        self.reads = 0
        self.read_began = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def hook(self) -> RtiSmsHook:
        stored = self

        class StoredHook(RtiSmsHook):
            def get_settings(self) -> ApiSettings:
                stored.reads += 1
                settings = ApiSettings(client_id="me", client_secret=Secret(stored.client_secret))
                stored.read_began.set()
                assert stored.may_end.wait(PATIENCE)
                return settings

        return StoredHook()

    async def secret_read(self) -> str:
        """Open the client as a trigger does, and return its secret."""
        async with self.hook().get_async_conn() as client:
            return client.settings.client_secret.get_secret_value()


def test_triggers_that_ask_together_share_a_read_and_a_later_one_reads_again() -> None:
    stored = StoredConnection()

    async def main() -> list[str]:
        secrets = await asyncio.gather(*(stored.secret_read() for _ in range(50)))
        assert stored.reads == 2  # the first one asked alone
        stored.client_secret = "after"
        return [*secrets, await stored.secret_read()]

    assert asyncio.run(main()) == [*["before"] * 50, "after"]


def test_a_read_that_began_before_a_change_does_not_serve_those_who_ask_after_it() -> None:
    stored = StoredConnection()
    stored.may_end.clear()

    async def main() -> tuple[str, str]:
        early = asyncio.create_task(stored.secret_read())
        await asyncio.to_thread(stored.read_began.wait, PATIENCE)
        stored.client_secret = "after"
        late = asyncio.create_task(stored.secret_read())
        await asyncio.sleep(0)  # it has asked
        stored.may_end.set()
        return await early, await late

    assert asyncio.run(main()) == ("before", "after")
    assert stored.reads == 2


def test_a_read_that_fails_leaves_no_older_connection_to_those_who_wait() -> None:
    stored = StoredConnection()
    stored.may_end.clear()

    async def main() -> list[Any]:
        early = asyncio.create_task(stored.secret_read())
        await asyncio.to_thread(stored.read_began.wait, PATIENCE)
        stored.client_secret = ""  # the Connection was damaged
        late = [asyncio.create_task(stored.secret_read()) for _ in range(2)]
        await asyncio.sleep(0)  # they have asked
        stored.may_end.set()
        return await asyncio.gather(early, *late, return_exceptions=True)

    first, *later = asyncio.run(main())
    assert first == "before"
    assert [type(one) for one in later] == [RtiSmsConfigError] * 2
