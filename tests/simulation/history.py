"""Run the history of one seed, and check what must hold after it."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from airflow_provider_rtisms import waiting
from airflow_provider_rtisms.api import aio
from airflow_provider_rtisms.sending import journal, outbox
from tests.simulation.client import SimulatedClient
from tests.simulation.fetching import fetch_history, share_history
from tests.simulation.model_api import EPOCH, ModelApi
from tests.simulation.network import Network
from tests.simulation.sending import send_history
from tests.simulation.waiting import wait_history
from tests.simulation.world import World, current_process
from tests.virtual_time import now

History = Callable[[World, Network], Coroutine[Any, Any, None]]
HISTORIES: dict[str, History] = {
    "fetch": fetch_history,
    "send": send_history,
    "wait": wait_history,
    "share": share_history,
}


@dataclass
class Result:
    """
    What a history was.

    :param seed: decides everything.
    :param kind: which of :data:`HISTORIES`.
    :param failures: what did not hold.
    :param lines: everything that happened, if it was asked for.
    """

    seed: int
    kind: str
    failures: list[str] = field(default_factory=list)
    steps: int = 0
    cancellations: int = 0
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lines: list[str] | None = None


class _LogWatch(logging.Handler):
    """Check every log record, at DEBUG too."""

    world: World | None = None

    def emit(self, record: logging.LogRecord) -> None:
        process = current_process.get()
        if self.world is None or (process is not None and process.is_dead):
            return
        text = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            text += "".join(traceback.format_exception(record.exc_info[1]))
        self.world.trace(f"  log: {record.levelname} {text}")
        self.world.check_text(text, "a log record")


_watch = _LogWatch()


@contextmanager
def simulated() -> Iterator[None]:
    """
    Give the code under test virtual clocks and seeded random numbers, and watch its logs.

    The derivation of the journal's key is made fast. It has no other effect here.
    """
    logger = logging.getLogger("airflow_provider_rtisms")
    before = logger.level, logger.propagate, random.getstate()
    with ExitStack() as stack:
        clock = SimpleNamespace(monotonic=now, time=lambda: EPOCH + now())
        for module, name, value in (
            (aio, "AsyncRtiSmsClient", SimulatedClient),
            (waiting, "time", clock),
            (outbox, "time", clock),
            (journal, "_DERIVATION_ROUNDS", 1),
            (journal, "secrets", SimpleNamespace(token_hex=lambda size: random.randbytes(size).hex())),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        logger.addHandler(_watch)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        gc.collect()
        gc.freeze()  # so that the collection after each history looks at that history only
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
            gc.unfreeze()
            logger.removeHandler(_watch)
            logger.setLevel(before[0])
            logger.propagate = before[1]
            random.setstate(before[2])


def run_history(seed: int, is_traced: bool = False) -> Result:
    """
    Run the history of a seed; see :func:`simulated`.

    :param is_traced: whether to keep a line for everything that happens.
    """
    kind = list(HISTORIES)[seed % len(HISTORIES)]
    random.seed(seed)  # the jitter of pauses
    world = World(seed, is_traced)
    _watch.world = world
    try:
        run_in(world, HISTORIES[kind])
    except Exception as error:
        world.fail("".join(traceback.format_exception(error)))
    world.clients.clear()
    gc.collect()  # asyncio complains of lost tasks and exceptions when they are collected
    _watch.world = None
    return Result(seed, kind, world.failures, world.steps, world.cancellations, world.kills, world.faults, world.lines)


def run_in(world: World, history: History) -> None:
    """
    Run a history to its end.

    :param world: the world of the history, used once.
    :param history: what happens, as a coroutine function of a world and a network.
    """
    network = Network(world, ModelApi(world))
    world.loop.network = network  # type: ignore[attr-defined]
    with asyncio.Runner(loop_factory=lambda: world.loop) as runner:
        runner.run(history(world, network))
