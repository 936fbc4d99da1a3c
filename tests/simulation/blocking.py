"""
Histories of threads that use blocking clients over one token cache.

Threads are not deterministic, so this drives the generator of each call as the blocking client does, and decides itself
which thread makes the next step. A thread can be interrupted wherever it waits, as by a signal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.api.policy.effects import Effect, MaskSecret, Send, Sleep, WaitFor
from airflow_provider_rtisms.api.policy.perform import perform
from airflow_provider_rtisms.api.policy.token_cache import TokenCache
from airflow_provider_rtisms.api.protocol import endpoints
from tests.simulation.client import SimulatedClient
from tests.simulation.fetching import check_nothing_left, make_settings
from tests.simulation.network import Network
from tests.simulation.world import World
from tests.virtual_time import START, now

#: Virtual seconds after which every call has ended.
PATIENCE = 3000.0


class Interrupt(BaseException):
    """What a signal handler raises, such as a task timeout."""


async def thread_history(world: World, network: Network) -> None:
    """Interleave the calls of several threads."""
    rng, api = world.rng, network.api
    settings = make_settings(world, api.secrets[0])
    tokens = TokenCache(now)
    ids = [api.new_submission(0, rng.choice((0, 60))) for _ in range(3)]
    interrupts = rng.choice((0.0, 0.02, 0.2))
    threads = []
    for number in range(rng.randint(2, 6)):
        call: Any = endpoints.get_balance() if rng.random() < 0.5 else endpoints.get_sms(rng.choice(ids))
        client = SimulatedClient(settings, tokens, world.masked.add)
        await client.open()
        work = _Thread(world, client, perform(call, settings, tokens, now), interrupts)
        threads.append(asyncio.create_task(work.run(world.latency()), name=f"thread {number}"))
    await asyncio.wait(threads)
    for thread in threads:
        error = thread.exception()
        if error is not None:
            world.check_error(error, RtiSmsError)
    await check_nothing_left(world)
    for client in world.clients:
        await client.close()


class _Thread:
    """
    A thread that does one call.

    :param flow: the generator of the call.
    :param interrupts: how likely an interrupt is at each step.
    """

    def __init__(
        self, world: World, client: SimulatedClient, flow: Generator[Effect, Any, Any], interrupts: float
    ) -> None:
        self.world = world
        self.client = client
        self.flow = flow
        self.interrupts = interrupts
        self.is_interrupted = False

    async def run(self, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            effect = next(self.flow)
            while True:
                try:
                    result = await self._do(effect)
                    self._maybe_interrupt()
                except BaseException as error:
                    effect = self.flow.throw(error)
                else:
                    effect = self.flow.send(result)
        except StopIteration:
            if self.is_interrupted:
                self.world.fail("a call went on after an interrupt")
        except Interrupt:
            self.world.trace("interrupted")

    def _maybe_interrupt(self) -> None:
        if self.world.rng.random() < self.interrupts:
            self.world.cancellations += 1
            self.is_interrupted = True
            raise Interrupt

    async def _do(self, effect: Effect) -> Any:
        self._maybe_interrupt()
        match effect:
            case Send(request):
                return await self.client._exchange(request)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case WaitFor(flight):
                while not flight.is_complete and not flight.is_abandoned():
                    await asyncio.sleep(0.05)
                    self._maybe_interrupt()
                    if now() > START + PATIENCE:
                        self.world.fail("a thread waits for a token that never comes")
                        raise Interrupt
                return flight.result
            case MaskSecret(secret):
                self.world.masked.add(secret.get_secret_value())
        return None
