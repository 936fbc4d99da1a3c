"""Histories of callers that fetch: single calls and bulk fetches, over clients that share a token or a client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from airflow_provider_rtisms.api import aio
from airflow_provider_rtisms.api.auth import TokenCache
from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from tests.simulation.client import SimulatedClient, check_clients
from tests.simulation.network import Network
from tests.simulation.world import CANCELLATION_TIME, World
from tests.virtual_time import now


def make_settings(world: World, secret: str, **changes: Any) -> ApiSettings:
    """Return settings with random limits."""
    rng = world.rng
    limits = {
        "timeout": rng.choice((1.0, 5.0, 30.0)),
        "max_concurrency": rng.choice((1, 2, 3, 8)),
        "max_attempts": rng.choice((1, 2, 3, 5)),
        "requests_per_second": rng.choice((None, None, 2, 20)),
    }
    fixed = {"client_id": "me", "client_secret": Secret(secret), "base_url": "http://127.0.0.1:1"}
    settings = ApiSettings(**{**limits, **fixed, **changes})
    world.check_text(repr(settings), "the repr of settings")
    return settings


def make_masker(world: World) -> Any:
    """Return what masks a token in logs: a function, a coroutine function, or nothing."""

    async def mask_in_a_while(token: str) -> None:
        await asyncio.sleep(world.latency())
        world.masked.add(token)

    return world.rng.choice((None, world.masked.add, mask_in_a_while))


async def settle(world: World, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for tasks, and check how they ended."""
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            world.check_error(error, RtiSmsError)
    await check_nothing_left(world)


async def check_nothing_left(world: World) -> None:
    """Make sure that no task is left but the one that checks, and that which closes a shared client in peace."""
    for _ in range(2):
        left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if not left:
            return
        await asyncio.sleep(CANCELLATION_TIME)
    world.fail(f"tasks are left: {sorted(left)}")


async def fetch_history(world: World, network: Network) -> None:
    """Let callers use a few clients that share a token."""
    rng, api = world.rng, network.api
    ids = [api.new_submission(rng.choice((0, 0, 5)), rng.choice((0, 1, 60))) for _ in range(rng.randint(1, 12))]
    ids += ["3"] * rng.randint(0, 1)
    settings = make_settings(world, api.secrets[0])
    tokens, masker = TokenCache(now), make_masker(world)
    clients = [SimulatedClient(settings, tokens, masker) for _ in range(rng.randint(1, 2))]
    for client in clients:
        await client.open()
    delays = [world.latency() for _ in range(rng.randint(1, 8))]
    callers = [
        world.start(_call(world, rng.choice(clients), ids, delay), f"caller {number}")
        for number, delay in enumerate(delays)
    ]
    await settle(world, callers)
    for client in clients:
        await client.close()
    await check_clients(world)


async def _call(world: World, client: Any, ids: Sequence[str], delay: float) -> None:
    await asyncio.sleep(delay)
    rng = world.rng
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(4)
        if kind == 0:
            await client.get_balance()
        elif kind == 1:
            await _check(world, await client.get_sms(rng.choice(ids)))
        else:
            await _fetch_many(world, client, ids)


async def _fetch_many(world: World, client: Any, ids: Sequence[str]) -> None:
    rng = world.rng
    wanted = list(dict.fromkeys(rng.choices(ids, k=rng.randint(1, 15))))
    stop_after = rng.choice((None, None, 1, 2))
    outcomes: list[Any] = []
    async with aclosing(aio.fetch_batches(client, wanted)) as batches:
        async for batch in batches:
            outcomes += batch
            await asyncio.sleep(world.latency())
            if stop_after is not None and len(outcomes) >= stop_after:
                return
    is_refused = False
    for submission_id, outcome in outcomes:
        if isinstance(outcome, SmsDetails):
            await _check(world, outcome)
            if outcome.submission_id != submission_id:
                world.fail("an outcome is about another submission")
        else:
            world.check_error(outcome, RtiSmsError)
            is_refused = True
    came = sorted(submission_id for submission_id, _ in outcomes)
    if len(set(came)) != len(came) or (not is_refused and came != sorted(wanted)):
        world.fail(f"{len(came)} outcomes for {len(wanted)} ids")


async def _check(world: World, details: SmsDetails) -> None:
    stored = asyncio.get_running_loop().network.api.submissions[details.submission_id]  # type: ignore[attr-defined]
    if details.is_final and (details.status != stored.final_status or now() < stored.final_at):
        world.fail("a record is not what the API holds")


async def share_history(world: World, network: Network) -> None:
    """Let users open, use and leave shared clients, and be cancelled anywhere in that."""
    rng = world.rng
    settings = [make_settings(world, network.api.secrets[0]) for _ in range(rng.randint(1, 2))]
    users = [
        world.start(_use(world, rng.choice(settings), rng.choice((0.0, 0.0, 0.01, 0.05, 1.0))), f"user {number}")
        for number in range(rng.randint(2, 8))
    ]
    if rng.random() < 0.3:  # all of them at once, as when a triggerer stops
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.01, 0.06)))
        for user in users:
            world.cancel(user)
    await settle(world, users)
    if any(loop is world.loop for loop, _ in aio._clients._entries):
        world.fail("a shared client was never removed")
    await check_clients(world)


@asynccontextmanager
async def _shared(world: World, settings: ApiSettings) -> Any:
    async with aio.shared_client(settings, on_secret=make_masker(world)) as client:
        yield client


async def _use(world: World, settings: ApiSettings, delay: float) -> None:
    await asyncio.sleep(delay)
    for _ in range(world.rng.randint(1, 2)):
        async with _shared(world, settings) as client:
            for _ in range(world.rng.randint(0, 2)):
                await client.get_balance()
