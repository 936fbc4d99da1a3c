"""Which idle connections the asyncio client uses again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.transport.connector import _IdleCheck
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import Exchange, message
from tests.patience import PATIENCE
from tests.unit.conftest import Serve

BALANCE = message({"balance": "1"})


@pytest.mark.parametrize(("extra", "connections"), [(b"", 1), (b"x", 2), (message({"balance": "666"}), 2)])
def test_one_for_which_the_kernel_holds_bytes_is_not_used_again(serve: Serve, extra: bytes, connections: int) -> None:
    may_write, has_written = threading.Event(), threading.Event()

    async def late(exchange: Exchange) -> None:
        await exchange.write(BALANCE)
        await asyncio.to_thread(may_write.wait, PATIENCE)
        await exchange.write(extra)
        has_written.set()

    async def main() -> None:
        settings = ApiSettings(client_id="me", client_secret=Secret("s3cret"), base_url=server.url, max_attempts=1)
        async with AsyncRtiSmsClient(settings) as client:
            assert await client.get_balance() == 1
            may_write.set()
            assert has_written.wait(PATIENCE)  # the loop reads nothing meanwhile, so the kernel holds the bytes
            assert await client.get_balance() == 1
            assert await client.get_balance() == 1

    server = serve(late, lambda exchange: exchange.write(BALANCE))
    asyncio.run(main())
    assert server.connections == connections


@pytest.mark.parametrize(
    ("is_open", "is_in_use", "should_close", "has_unread_bytes", "may_be_used"),
    [
        (False, False, False, False, False),
        (False, True, False, False, False),
        (True, False, False, False, True),
        (True, False, True, False, False),
        (True, False, False, True, False),
        (True, False, True, True, False),
        (True, True, True, True, True),  # bytes of its own response have come
    ],
)
def test_a_connection_may_be_used_if_it_is_open_and_nothing_has_come_unasked(
    monkeypatch: pytest.MonkeyPatch,
    is_open: bool,
    is_in_use: bool,
    should_close: bool,
    has_unread_bytes: bool,
    may_be_used: bool,
) -> None:
    def always(value: bool) -> Callable[[Any], bool]:
        return lambda _: value

    monkeypatch.setattr("aiohttp.client_proto.ResponseHandler.is_connected", always(is_open))
    monkeypatch.setattr("aiohttp.client_proto.ResponseHandler.should_close", property(always(should_close)))
    monkeypatch.setattr(_IdleCheck, "_has_unread_bytes", always(has_unread_bytes))
    connector: Any = SimpleNamespace(_acquired=set())

    async def main() -> bool:
        connection = _IdleCheck(connector, asyncio.get_running_loop())
        if is_in_use:
            connector._acquired.add(connection)
        return connection.is_connected()

    assert asyncio.run(main()) is may_be_used
