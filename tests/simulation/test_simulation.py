"""Ten thousand histories; planted defects show that the simulation finds what it is there to find."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from airflow_provider_rtisms.api import auth
from airflow_provider_rtisms.api.aio import AdaptiveLimiter, AsyncRtiSmsClient, Permit
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.sending import outbox
from airflow_provider_rtisms.sending.journal import SendJournal
from tests.simulation.__main__ import describe_failure
from tests.simulation.client import SimulatedClient
from tests.simulation.history import run_history, run_in, simulated
from tests.simulation.network import Network
from tests.simulation.world import World

ROOT = Path(__file__).parents[2]
HISTORIES_IN_ALL = 10_000
#: Tests that share them, so that they run in parallel.
PARTS = 20
#: Seeds in which each planted defect has to be found.
SEARCHED = 2000


@pytest.mark.timeout(600)  # two seconds of computing, but the machines of a CI are busy
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_everything_holds_in_every_history(part: int) -> None:
    with simulated():
        results = [run_history(seed) for seed in range(part, HISTORIES_IN_ALL, PARTS)]
    failed = [describe_failure(result) for result in results if result.failures]
    assert not failed, "\n".join(failed[:10])


async def _acquire_in_two_steps(self: Permit) -> None:
    if not self._is_held:
        await self._limiter.acquire()
        await asyncio.sleep(0)
        self._is_held = True


class _NoLock:
    """Lets everybody in."""

    def locked(self) -> bool:
        return False

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


#: What is broken, how, and what the simulation says then.
DEFECTS: dict[str, tuple[Any, str, Any, str]] = {
    "a token that each task gets for itself": (auth.asyncio, "Lock", _NoLock, "two token refreshes at a time"),
    "a third request for a message": (outbox, "MAX_REQUESTS_IN_DOUBT", 3, "was texted 3 times, not 2"),
    "a window that is never committed": (SendJournal, "commit", lambda *_: None, "uncertain, although nothing failed"),
    "entries of another secret that count for nothing": (
        *(SendJournal, "_foreign_requests", property(lambda self: 0, lambda self, value: None)),
        "was texted 2 times, not 1",
    ),
    "a permit lost on cancellation": (Permit, "acquire", _acquire_in_two_steps, "permits are free"),
    "a 429 that removes no permits": (
        *(AdaptiveLimiter, "permits", property(lambda self: self.max_concurrency)),
        "a 429 left",
    ),
    "a client that is never closed": (
        *(AsyncRtiSmsClient, "close", lambda self: asyncio.sleep(0)),
        "Unclosed client session",
    ),
}


SLOW = {"a third request for a message"}


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in DEFECTS])
def test_it_finds(name: str) -> None:
    owner, attribute, broken, finding = DEFECTS[name]
    with simulated(), mock.patch.object(owner, attribute, broken, create=True):
        failures = (failure for seed in range(SEARCHED) for failure in run_history(seed).failures)
        assert any(finding in failure for failure in failures)


def test_a_client_that_is_interrupted_while_it_closes_leaves_no_session_open() -> None:
    async def interrupt(world: World, network: Network) -> None:
        client = SimulatedClient(ApiSettings(client_id="me", client_secret=Secret(network.api.secrets[0])))
        await client.open()
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.5)
        assert closing.cancel()
        await asyncio.wait([closing])

    world = World(seed=0)
    world.latencies, world.cancel_probability = (1.0,), 0.0
    with simulated():
        run_in(world, interrupt)
    assert world.open_sessions == 0
