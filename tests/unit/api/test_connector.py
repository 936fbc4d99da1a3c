"""Which idle connections the asyncio client uses again."""

from __future__ import annotations

import asyncio
import threading

import pytest

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.settings import ApiSettings
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
