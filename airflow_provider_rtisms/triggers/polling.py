"""What the triggers have in common: they poll until the wait is over, and end with one event."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, RtiSmsPermanentError, shape
from airflow_provider_rtisms.api.values.arguments import check_seconds
from airflow_provider_rtisms.compat import AirflowException
from airflow_provider_rtisms.hooks.metrics import open_wait, report_open_waits, span
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.waiting import Cause, WaitEvent, with_current_credentials

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
    """Check the arguments of a trigger, where Airflow parses the DAG and where a task defers."""
    try:
        yield
    except RtiSmsInputError as error:
        raise TriggerArgumentError(str(error)) from None


def check_duration(field_name: str, value: Any) -> float:
    """Return seconds as a trigger stores them, an int where they are whole, since Airflow compares the stored forms."""
    seconds = check_seconds(field_name, value)
    return int(seconds) if seconds.is_integer() else seconds


def check_conn_id(value: Any) -> str:
    """Return the id of a Connection."""
    if not isinstance(value, str) or not value.strip():
        raise RtiSmsInputError(
            f"rtisms_conn_id is {shape(value)}: use the id of a Connection such as 'rtisms_default'."
        )
    return value


def check_flag(field_name: str, value: Any) -> bool:
    """Return an argument that is True or False."""
    if not isinstance(value, bool):
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use True or False.")
    return value


def describe(error: Exception) -> str:
    """Return an error as a sentence for logs and events. The text of an unknown error may hold what is confidential."""
    if isinstance(error, RtiSmsError | AirflowException):
        return str(error).strip().rstrip(".") + "."
    return f"{type(error).__name__}."


async def pause(seconds: float) -> None:
    """Sleep for some seconds, more or less by :data:`JITTER`."""
    jittered = seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
    await asyncio.sleep(max(MIN_POKE_INTERVAL, jittered))


def serialize_args(trigger: BaseTrigger, *names: str) -> tuple[str, dict[str, Any]]:
    """Return the class path of a trigger, and the arguments that recreate it: the result of ``serialize``."""
    kind = type(trigger)
    return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(trigger, name) for name in names}


class WaitTrigger(BaseTrigger):
    """A trigger that waits for a deferred task, and yields one event. RtiSmsDeliveryTrigger describes the arguments."""

    #: Names of the arguments that are stored.
    stored: tuple[str, ...] = ("rtisms_conn_id", "poke_interval", "deadline", "max_poke_interval", "deferred_at")

    def __init__(
        self,
        *,
        rtisms_conn_id: str,
        poke_interval: timedelta | float,
        deadline: float,
        max_poke_interval: timedelta | float | None = None,
        deferred_at: float = 0.0,
        is_execution_timeout: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        with checking_arguments():
            self.rtisms_conn_id = check_conn_id(rtisms_conn_id)
            self.poke_interval = check_duration("poke_interval", poke_interval)
            self.deadline = check_duration("deadline", deadline)
            self.max_poke_interval = (
                None if max_poke_interval is None else check_duration("max_poke_interval", max_poke_interval)
            )
            self.deferred_at = check_duration("deferred_at", deferred_at)
            self.is_execution_timeout = check_flag("is_execution_timeout", is_execution_timeout)
        self._unknown = unknown

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that recreate the trigger."""
        since_0_2 = ["is_execution_timeout"] if self.is_execution_timeout else []  # a triggerer of 0.1 does not know it
        return serialize_args(self, *self.stored, *since_0_2)

    @abstractmethod
    async def poll(self, client: AsyncRtiSmsClient) -> bool:
        """Poll once; return whether the wait is over."""

    @abstractmethod
    def found(self, *, is_done: bool) -> Mapping[str, Any]:
        """Return what the event brings."""

    @abstractmethod
    def timeout_message(self) -> str:
        """Return the message of a timeout."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the wait is over, and yield how it ended."""
        with span("rtisms.wait", self.rtisms_conn_id) as note:  # ends before the event, which may be never asked for
            event = self._refusal() if self._unknown else await self._poll_until_deadline()
            note(lambda: {"rtisms.outcome": event.outcome})
        await self._wait_since_deferral(DEFERRAL_GRACE)
        yield TriggerEvent(event.to_payload())  # type: ignore[no-untyped-call]

    def _refusal(self) -> WaitEvent:
        message = (
            f"The task deferred with arguments that the triggerer does not know ({', '.join(sorted(self._unknown))}). "
            "Install the same version of airflow-provider-rtisms on the workers and on the triggerer."
        )
        return WaitEvent("failed", message, cause="crash")

    async def _poll_until_deadline(self) -> WaitEvent:
        try:
            async with asyncio.timeout(self.deadline - time.time()) as limit, open_wait(self.rtisms_conn_id):
                await self._wait_since_deferral(min(self.poke_interval, DEFERRAL_GRACE))  # the task has just polled
                await with_current_credentials(RtiSmsHook(self.rtisms_conn_id).get_async_conn, self._poll_until_done)
                return WaitEvent("finished", found=self.found(is_done=True))
        except RtiSmsPermanentError as error:
            return WaitEvent("failed", str(error), self.found(is_done=False))
        except Exception as error:
            found = self.found(is_done=False)
            if isinstance(error, TimeoutError) and limit.expired():
                cause: Cause = "execution_timeout" if self.is_execution_timeout else ""
                return WaitEvent("timeout", self.timeout_message(), found, cause)
            log.error("The trigger ends, since it met an error that it does not know", exc_info=error)
            message = f"The trigger met an error: {describe(error)} Its log shows more."
            return WaitEvent("failed", message, found, cause="crash")

    async def _poll_until_done(self, client: AsyncRtiSmsClient) -> None:
        while not await self.poll(client):
            report_open_waits(self.rtisms_conn_id, is_refresh=True)
            await pause(self._next_interval())

    def _next_interval(self) -> float:
        """
        Return the seconds until the next poll.

        A growing interval is as long as the wait has lasted so far, within the limits. So it doubles each time, and a
        triggerer that is restarted does not need to remember it.
        """
        if self.max_poke_interval is None:
            return self.poke_interval
        return max(self.poke_interval, min(self.max_poke_interval, time.time() - self.deferred_at))

    async def _wait_since_deferral(self, seconds: float) -> None:
        """
        Wait until some seconds have passed since the deferral, but not beyond the deadline.

        The clocks of worker and triggerer may differ, so it never waits longer than these seconds. It does not wait
        without a ``trigger_id``, as in ``dag.test()``: there is no worker that has deferred.
        """
        if self.trigger_id is not None:
            now = time.time()
            await asyncio.sleep(min(self.deferred_at + seconds - now, seconds, self.deadline - now))
