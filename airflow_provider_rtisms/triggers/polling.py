"""What the triggers have in common: they poll until the wait is over, and end with one event."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from airflow.providers.common.compat.sdk import AirflowException
from airflow.triggers.base import TriggerEvent

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, RtiSmsPermanentError, shape
from airflow_provider_rtisms.api.values.arguments import check_seconds
from airflow_provider_rtisms.hooks.metrics import open_wait, report_open_waits
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.waiting import WaitEvent, with_current_credentials

log = logging.getLogger(__name__)

#: Seconds: the shortest pause between two polls, for a smaller poke_interval too.
MIN_POKE_INTERVAL = 0.1
#: Seconds after a deferral in which no event ends it. Airflow takes up to 5 s ([workers] min_heartbeat_interval), and
#: one loop of the scheduler more, to see that the worker's process has ended. It fails a task that resumes before that:
#: "the executor reported that the task instance finished with state success, but its state attribute is queued".
DEFERRAL_GRACE = 10.0
#: The fraction by which pauses vary at random, so that waits that began together do not poll together.
JITTER = 0.1


class TriggerArgumentError(RtiSmsInputError, TypeError):
    """
    An argument of a trigger cannot be used.

    It is a TypeError, since that is all that Airflow's triggerer expects of a constructor. Anything else ends the
    triggerer itself, with the triggers of everyone.
    """


@contextmanager
def checking_arguments() -> Iterator[None]:
    """
    Check the arguments of a trigger in its constructor. It runs when Airflow parses the DAG, and where a task defers.

    :raises TriggerArgumentError: in place of an RtiSmsInputError.
    """
    try:
        yield
    except RtiSmsInputError as error:
        raise TriggerArgumentError(str(error)) from None


def check_duration(field_name: str, value: Any) -> float:
    """
    Return seconds in the one form in which a trigger stores them, since Airflow compares the stored forms.

    :param field_name: how the error names it.
    :param value: seconds, 0 or more, or a timedelta.
    :return: an int where they are whole.
    :raises RtiSmsInputError: it is anything else.
    """
    seconds = check_seconds(field_name, value)
    return int(seconds) if seconds.is_integer() else seconds


def check_longest_pause(value: Any) -> float | None:
    """
    Return a ``max_poke_interval`` as :func:`check_duration` does.

    :param value: seconds, a timedelta, or None.
    :raises RtiSmsInputError: it is anything else.
    """
    return None if value is None else check_duration("max_poke_interval", value)


def check_conn_id(value: Any) -> str:
    """
    Return the id of a Connection.

    :raises RtiSmsInputError: it is no text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise RtiSmsInputError(
            f"rtisms_conn_id is {shape(value)}: use the id of a Connection such as 'rtisms_default'."
        )
    return value


def check_flag(field_name: str, value: Any) -> bool:
    """
    Return an argument that is True or False.

    :param field_name: how the error names it.
    :raises RtiSmsInputError: it is anything else.
    """
    if not isinstance(value, bool):
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use True or False.")
    return value


def describe(error: Exception) -> str:
    """Return an error as a sentence for logs and events. The text of an unknown error may hold what is confidential."""
    if isinstance(error, RtiSmsError | AirflowException):
        return str(error).strip().rstrip(".") + "."
    return f"{type(error).__name__}."


class DeferredWait(Protocol):
    """
    A trigger that waits for a deferred task.

    :param rtisms_conn_id: the Connection; read again when its credentials are refused.
    :param poke_interval: seconds between two polls.
    :param max_poke_interval: seconds up to which the pauses grow; None if they do not.
    :param deferred_at: wall-clock time (seconds since the epoch) at which the task polled and then deferred.
    :param deadline: wall-clock time at which to give up.
    :param is_execution_timeout: whether the ``execution_timeout`` of the task ends then.
    :param trigger_id: None where ``dag.test()`` runs it instead of a triggerer.
    """

    rtisms_conn_id: str
    poke_interval: float
    max_poke_interval: float | None
    deferred_at: float
    deadline: float
    is_execution_timeout: bool
    trigger_id: Any


async def poll_until_done(trigger: DeferredWait, poll: Callable[[AsyncRtiSmsClient], Awaitable[bool]]) -> None:
    """
    Poll until the wait is over.

    The task has just polled, so the first poll starts when its result may end the wait, or after ``poke_interval`` if
    that is shorter.

    :param trigger: how often to poll, and with which Connection.
    :param poll: polls once; returns whether the wait is over.
    :raises RtiSmsAuthenticationError: the credentials are refused, and the Connection holds no others.
    """

    async def poll_again_and_again(client: AsyncRtiSmsClient) -> None:
        while not await poll(client):
            report_open_waits(trigger.rtisms_conn_id, is_refresh=True)
            await pause(next_interval(trigger))

    async with open_wait(trigger.rtisms_conn_id):
        await wait_since_deferral(trigger, min(trigger.poke_interval, DEFERRAL_GRACE))
        hook = RtiSmsHook(trigger.rtisms_conn_id)
        await with_current_credentials(hook.get_async_conn, poll_again_and_again)


def next_interval(trigger: DeferredWait) -> float:
    """
    Return the seconds until the next poll.

    A growing interval is as long as the wait has lasted so far, within the limits. So it doubles each time, and a
    triggerer that is restarted does not need to remember it.
    """
    if trigger.max_poke_interval is None:
        return trigger.poke_interval
    return max(trigger.poke_interval, min(trigger.max_poke_interval, time.time() - trigger.deferred_at))


async def wait_since_deferral(trigger: DeferredWait, seconds: float) -> None:
    """
    Wait until some seconds have passed since the deferral, but not beyond the deadline.

    The clocks of worker and triggerer may differ, so it never waits longer than these seconds. It does not wait without
    a ``trigger_id``: there is no worker that has deferred.
    """
    if trigger.trigger_id is not None:
        now = time.time()
        await asyncio.sleep(min(trigger.deferred_at + seconds - now, seconds, trigger.deadline - now))


async def pause(seconds: float) -> None:
    """Sleep for some seconds, more or less by :data:`JITTER`."""
    jittered = seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
    await asyncio.sleep(max(MIN_POKE_INTERVAL, jittered))


async def run_until_deadline(
    trigger: DeferredWait,
    work: Awaitable[Mapping[str, Any]],
    timeout_message: Callable[[], str],
    found_so_far: Callable[[], Mapping[str, Any]] = dict,
) -> TriggerEvent:
    """
    Return the event that ends a trigger.

    :param trigger: the trigger that waits.
    :param work: the wait; its result goes into the event.
    :param timeout_message: returns the message of a timeout.
    :param found_so_far: returns what the event brings if the wait has failed or timed out.
    """
    try:
        async with asyncio.timeout(trigger.deadline - time.time()) as limit:
            event = WaitEvent("finished", found=await work)
    except RtiSmsPermanentError as error:
        event = WaitEvent("failed", str(error), found_so_far())
    except TimeoutError as error:
        if limit.expired():
            event = WaitEvent(
                "timeout",
                timeout_message(),
                found_so_far(),
                "execution_timeout" if trigger.is_execution_timeout else "",
            )
        else:
            event = crash_event(error, found_so_far())
    except Exception as error:
        event = crash_event(error, found_so_far())
    await wait_since_deferral(trigger, DEFERRAL_GRACE)
    return TriggerEvent(event.to_payload())  # type: ignore[no-untyped-call]


def crash_event(error: Exception, found: Mapping[str, Any]) -> WaitEvent:
    """
    Return the event of a trigger that has met an error which it does not know, and log the error.

    :param error: being handled.
    :param found: what the trigger had found until then.
    """
    log.error("The trigger ends, since it met an error that it does not know", exc_info=error)
    return WaitEvent("failed", f"The trigger met an error: {describe(error)} Its log shows more.", found, "crash")


async def refuse_arguments(trigger: DeferredWait, unknown: Collection[str]) -> TriggerEvent:
    """
    Return the event of a trigger that another version of this package has made.

    :param trigger: the trigger that waits.
    :param unknown: names of the arguments that this version does not know.
    """
    message = (
        f"The task deferred with arguments that the triggerer does not know ({', '.join(sorted(unknown))}). "
        "Install the same version of airflow-provider-rtisms on the workers and on the triggerer."
    )
    await wait_since_deferral(trigger, DEFERRAL_GRACE)
    return TriggerEvent(WaitEvent("failed", message, cause="crash").to_payload())  # type: ignore[no-untyped-call]


def serialize_args(trigger: Any, *names: str) -> tuple[str, dict[str, Any]]:
    """Return the class path of a trigger, and the arguments that recreate it: the result of ``serialize``."""
    kind = type(trigger)
    return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(trigger, name) for name in names}
