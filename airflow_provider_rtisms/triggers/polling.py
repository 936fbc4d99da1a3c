"""What the triggers have in common: ask again and again, read the Connection anew, end as an event."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from airflow.triggers.base import TriggerEvent

from airflow_provider_rtisms.api.errors import RtiSmsAuthenticationError, RtiSmsPermanentError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

log = logging.getLogger(__name__)

#: Seconds: no poll follows another sooner, whatever poke_interval says.
SHORTEST_INTERVAL = 0.1
#: Seconds from a deferral in which no event ends it. Airflow takes up to 5 s ([workers] min_heartbeat_interval) to see
#: that the worker's process has ended, and a loop of the scheduler more; a task that resumes before that, it fails with
#: "the executor reported that the task instance finished with state success, but its state attribute is queued".
DEFERRAL_GRACE = 10.0
#: Polls are spread by this part of the interval, so that waits that began together do not stay together.
JITTER = 0.1


class DeferredWait(Protocol):
    """
    A trigger that waits for a deferred task.

    :param rtisms_conn_id: the Connection; read anew when its credentials are refused.
    :param poke_interval: seconds between two polls.
    :param max_poke_interval: seconds up to which they grow; None if they do not.
    :param deferred_at: wall-clock time (seconds since the epoch) at which the task has asked and then deferred.
    :param deadline: wall-clock time at which to give up.
    :param trigger_id: None where no triggerer runs it, but ``dag.test()``.
    """

    rtisms_conn_id: str
    poke_interval: float
    max_poke_interval: float | None
    deferred_at: float
    deadline: float
    trigger_id: Any


async def poll(trigger: DeferredWait, ask: Callable[[AsyncRtiSmsClient], Awaitable[bool]]) -> None:
    """
    Ask until there is no more to ask.

    The first poll comes when its outcome may end the wait, for the task has just asked; sooner where ``poke_interval``
    is shorter.

    :param trigger: how often, and with which Connection.
    :param ask: one poll; returns whether it was the last.
    :raises RtiSmsAuthenticationError: the credentials are refused, and the Connection holds no others.
    """
    await pass_since_deferral(trigger, min(trigger.poke_interval, DEFERRAL_GRACE))
    hook = RtiSmsHook(trigger.rtisms_conn_id)
    refused: tuple[ApiSettings, RtiSmsAuthenticationError] | None = None
    while True:
        async with hook.get_async_conn() as client:
            if refused is not None and refused[0] == client.settings:
                raise refused[1]
            try:
                while not await ask(client):
                    await pause(next_interval(trigger))
                return
            except RtiSmsAuthenticationError as error:
                refused = client.settings, error
                log.warning("%s Reading Connection %s again", error, trigger.rtisms_conn_id)


def next_interval(trigger: DeferredWait) -> float:
    """
    Return the seconds until the next poll.

    Where they grow, it is as long as the wait has lasted, within the limits: so each is twice the one before, and a
    triggerer that is restarted need not remember.
    """
    if trigger.max_poke_interval is None:
        return trigger.poke_interval
    return max(trigger.poke_interval, min(trigger.max_poke_interval, time.time() - trigger.deferred_at))


async def pass_since_deferral(trigger: DeferredWait, seconds: float) -> None:
    """
    Let so many seconds pass since the deferral, whatever the clocks of worker and triggerer say.

    None pass in ``dag.test()``, which has no scheduler to wait for, and none beyond the deadline.
    """
    if trigger.trigger_id is not None:
        now = time.time()
        await asyncio.sleep(min(trigger.deferred_at + seconds - now, seconds, trigger.deadline - now))


async def pause(seconds: float) -> None:
    """Let about so many seconds pass."""
    spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
    await asyncio.sleep(max(SHORTEST_INTERVAL, seconds * spread))


async def run_until_deadline(
    trigger: DeferredWait, work: Awaitable[dict[str, Any]], timeout_message: Callable[[], str]
) -> TriggerEvent:
    """
    Return the event that ends a trigger: ``outcome`` is ``finished``, ``failed`` or ``timeout``.

    :param trigger: which.
    :param work: what the trigger waits for; its result is part of the event ``finished``.
    :param timeout_message: what to say when its time is up.
    """
    try:
        async with asyncio.timeout(trigger.deadline - time.time()) as limit:
            payload = {"outcome": "finished", **await work}
    except RtiSmsPermanentError as error:
        payload = {"outcome": "failed", "message": str(error)}
    except TimeoutError:
        if not limit.expired():
            raise
        payload = {"outcome": "timeout", "message": timeout_message()}
    await pass_since_deferral(trigger, DEFERRAL_GRACE)
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


def serialize_args(trigger: Any, *names: str) -> tuple[str, dict[str, Any]]:
    """Return what ``serialize`` has to: the class path, and the arguments to make the trigger again."""
    kind = type(trigger)
    return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(trigger, name) for name in names}
