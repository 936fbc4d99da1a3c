"""Histories of waits: as a trigger waits for deliveries, over a shared client, while credentials are rotated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from airflow_provider_rtisms.api.aio import shared_client
from airflow_provider_rtisms.api.errors import RtiSmsDeliveryError, RtiSmsNotFoundError, RtiSmsPermanentError
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.waiting import DeliveryWait, poll_deliveries, with_current_credentials
from tests.simulation.client import check_clients
from tests.simulation.fetching import make_masker, make_settings, settle
from tests.simulation.model_api import EPOCH
from tests.simulation.network import Network
from tests.simulation.world import World
from tests.virtual_time import now

#: Seconds by which a wait may end after its deadline: until its client is closed.
CLOSING_TIME = 5.0
#: Seconds that one poll of all submissions takes, where nothing goes wrong.
FETCHING_TIME = 40.0


async def wait_history(world: World, network: Network) -> None:
    """Let triggers wait, rotate the client secret meanwhile, and check how each wait ends."""
    rng, api = world.rng, network.api
    connection = make_settings(world, api.secrets[0])

    @asynccontextmanager
    async def connect() -> Any:
        settings = await asyncio.to_thread(lambda: connection)
        async with shared_client(settings, on_secret=make_masker(world)) as client:
            yield client

    waits = [world.start(_wait(world, network, connect), f"wait {number}") for number in range(rng.randint(1, 5))]
    for _ in range(rng.choice((0, 0, 1, 2))):
        await asyncio.sleep(rng.choice((0.0, 1.0, 20.0)))
        world.trace("the client secret is rotated")
        api.secrets = [api.new_client_secret()]
        api.revoke_tokens()
        await asyncio.sleep(rng.choice((0.0, 0.0, 10.0)))
        connection = replace(connection, client_secret=Secret(api.secrets[0]))
    await settle(world, waits)
    await check_clients(world)


async def _wait(world: World, network: Network, connect: Any) -> None:
    rng, api = world.rng, network.api
    began = now()
    ids = [
        api.new_submission(rng.choice((0, 0, 0, 30)), rng.choice((0, 1, 5, 60, 400))) for _ in range(rng.randint(1, 8))
    ]
    deadline = began + rng.choice((0, 3, 60, 300))
    missing_until = EPOCH + began + rng.choice((0, 10, 60))
    fail_on = rng.choice(((), (), ("REJECTED", "UNDELIVERED")))
    interval = rng.choice((0.1, 5.0, 30.0))
    wait = DeliveryWait(ids, fail_on)
    try:
        async with asyncio.timeout_at(deadline) as limit:
            await with_current_credentials(connect, lambda client: _poll(client, wait, missing_until, interval))
    except TimeoutError:
        if not limit.expired():
            world.fail("a wait raised a TimeoutError that is not its own")
        world.check_text(wait.timeout_message(), "the message of a timeout")
        if now() < deadline:
            world.fail("a wait timed out before its deadline")
        _check_timeout(world, network, ids, deadline - 2 * interval)
    except RtiSmsPermanentError as error:
        world.check_error(error, RtiSmsPermanentError)
        _check_failure(world, network, error, ids, fail_on, missing_until)
    else:
        _check_finished(world, network, wait)
    if now() > max(deadline, began) + CLOSING_TIME:
        world.fail(f"a wait ended {now() - deadline:.1f} s after its deadline")


async def _poll(client: Any, wait: DeliveryWait, missing_until: float, interval: float) -> None:
    while not await poll_deliveries(client, wait, missing_until):  # noqa: ASYNC110
        await asyncio.sleep(interval)


def _check_failure(
    world: World, network: Network, error: Exception, ids: Sequence[str], fail_on: Sequence[str], missing_until: float
) -> None:
    submissions = [network.api.submissions[one] for one in ids]
    if isinstance(error, RtiSmsDeliveryError):
        if not any(one.final_status in fail_on and one.final_at <= now() for one in submissions):
            world.fail("a wait failed, although no submission reached a state of fail_on")
    elif isinstance(error, RtiSmsNotFoundError) and EPOCH + now() < missing_until:
        world.fail("a wait failed for an unknown id before missing_until")


def _check_timeout(world: World, network: Network, ids: Sequence[str], deadline: float) -> None:
    final_at = max(network.api.submissions[one].final_at for one in ids)
    is_quiet = network.api.threshold is None and not world.faults.total() and len(network.api.tokens) > 0
    if is_quiet and final_at + FETCHING_TIME < deadline:
        world.fail("a wait timed out, although every submission was final long before")


def _check_finished(world: World, network: Network, wait: DeliveryWait) -> None:
    records = wait.records
    if [record["submission_id"] for record in records] != wait.submission_ids:
        world.fail("a wait ended with records of other submissions")
    for record in records:
        stored = network.api.submissions[record["submission_id"]]
        if record["status"] != stored.final_status or now() < stored.final_at:
            world.fail("a wait ended with a record that is not what the API holds")
