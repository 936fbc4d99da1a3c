"""A server that revokes its tokens all the time."""

from __future__ import annotations

import asyncio

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import Exchange, details, message
from tests.unit.conftest import Serve

#: Each token serves so many requests.
USES = 20


def test_ends_no_call(serve: Serve) -> None:
    issued, used = 0, 0

    async def issue(exchange: Exchange) -> None:
        nonlocal issued, used
        issued, used = issued + 1, 0
        await exchange.write(message({"access_token": f"token-{issued}", "validity_period": "3600"}))

    async def respond(exchange: Exchange) -> None:
        nonlocal used
        is_newest = exchange.request.header("Authorization") == f"Bearer token-{issued}"
        used += is_newest
        is_good = is_newest and used <= USES
        await (details() if is_good else _refuse)(exchange)

    async def main() -> None:
        settings = ApiSettings(client_id="me", client_secret=Secret("s3cret"), base_url=server.url)
        async with AsyncRtiSmsClient(settings) as client:
            results = await asyncio.gather(*(client.get_sms(str(one)) for one in range(300)))
        assert {one.status for one in results} == {"DELIVERED"}

    server = serve(respond, auth=[issue])
    asyncio.run(main())
    assert issued > 10


async def _refuse(exchange: Exchange) -> None:
    await exchange.write(message(b"", 401))
