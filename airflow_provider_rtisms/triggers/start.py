"""The trigger of a wait that no worker has begun."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.transport.shared import SharedByKey
from airflow_provider_rtisms.api.values.durations import check_seconds
from airflow_provider_rtisms.api.values.ids import parse_submissions
from airflow_provider_rtisms.triggers.polling import crash_event, refuse_arguments, serialize_args
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from airflow_provider_rtisms.waiting.delivery_wait import check_fail_on
from airflow_provider_rtisms.waiting.events import WaitEvent
from airflow_provider_rtisms.waiting.limits import MAX_RECORDS_IN_DATABASE, trigger_deadline
from airflow_provider_rtisms.waiting.quota import make_quota

#: What the triggers that are about to render have pulled.
_rendering: SharedByKey[dict[tuple[Any, ...], Any]] = SharedByKey()


class RtiSmsDeliveryStartTrigger(BaseTrigger):
    """
    Begin a wait for delivery in the triggerer, for ``RtiSmsDeliverySensor(start_from_trigger=True)``.

    Its arguments are those of the sensor, as they stand in the DAG. The trigger renders those that are templated,
    checks them as a worker does, and then waits as
    :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger` does. No worker has deferred, so the first
    poll comes at once, and an event needs no pause before it.

    :param submission_ids: (templated) see :class:`~airflow_provider_rtisms.sensors.rtisms.RtiSmsDeliverySensor`.
    :param rtisms_conn_id: (templated) the Connection.
    :param fail_on: final states that fail the wait.
    :param min_delivered: how many messages have to be delivered, or None.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id is accepted.
    :param poke_interval: seconds or timedelta between two polls.
    :param max_poke_interval: seconds or timedelta up to which the pauses between polls grow; None if they do not.
    :param timeout: seconds or timedelta that the wait may last.
    :param is_execution_timeout: whether ``timeout`` is the ``execution_timeout`` of the task.
    :param unknown: arguments of another version of this package; the trigger fails and names them.
    """

    #: When Airflow ends the deferral; the triggerer sets it.
    timeout_after: datetime | None = None

    def __init__(
        self,
        *,
        submission_ids: Any,
        rtisms_conn_id: str,
        fail_on: Iterable[str],
        min_delivered: float | None,
        missing_ok_for: timedelta | float,
        poke_interval: timedelta | float,
        max_poke_interval: timedelta | float | None,
        timeout: timedelta | float,
        is_execution_timeout: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.submission_ids = submission_ids
        self.rtisms_conn_id = rtisms_conn_id
        self.fail_on = fail_on
        self.min_delivered = min_delivered
        self.missing_ok_for = _without_timedelta(missing_ok_for)
        self.poke_interval = _without_timedelta(poke_interval)
        self.max_poke_interval = _without_timedelta(max_poke_interval)
        self.timeout = _without_timedelta(timeout)
        self.is_execution_timeout = is_execution_timeout
        self._unknown = unknown
        self._context: Any = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that recreate the trigger."""
        return serialize_args(
            self,
            "submission_ids",
            "rtisms_conn_id",
            "fail_on",
            "min_delivered",
            "missing_ok_for",
            "poke_interval",
            "max_poke_interval",
            "timeout",
            *(["is_execution_timeout"] if self.is_execution_timeout else []),  # a triggerer of 0.1 does not know it
        )

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Keep the context. Airflow calls this for all triggers at once, and :meth:`run` renders them one by one."""
        self._context = context

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Check the arguments, poll until the wait is over, and yield how it ended."""
        try:
            if self._context is not None:
                await self._render_in_turn(self._context)
            trigger = self._wait()
        except RtiSmsInputError as error:
            yield TriggerEvent(WaitEvent("failed", str(error)).to_payload())  # type: ignore[no-untyped-call]
            return
        except Exception as error:
            yield TriggerEvent(crash_event(error, {}).to_payload())  # type: ignore[no-untyped-call]
            return
        if self._unknown:
            yield await refuse_arguments(trigger, self._unknown)
            return
        async for event in trigger.run():
            yield event

    async def _render_in_turn(self, context: Any) -> None:
        """
        Render the templates, after those of the triggers before.

        A thousand mapped waits need the output of the same task. If all of them pulled it at once, the responses would
        fill the socket from Airflow's supervisor. While the supervisor waits for room there, it reads no logs. While
        this process waits to write its logs, it reads no responses. Neither would ever go on. So one trigger renders at
        a time, and all that are about to render share what was pulled.
        """
        with _rendering.use("templates", dict) as entry:
            await asyncio.sleep(0)  # the others join before the first one has rendered
            async with entry.lock:

                def output_of(task_id: str, key: str) -> Any:
                    ti = context["ti"]
                    pulled = (ti.dag_id, ti.run_id, ti.try_number, task_id, key)
                    if pulled not in entry.value:
                        # Without map_indexes, Airflow sends a message that a triggerer may not send.
                        entry.value[pulled] = ti.xcom_pull(task_ids=task_id, key=key, map_indexes=None)
                    return entry.value[pulled]

                extended: Any = {**context, "output_of": output_of}
                super().render_template_fields(extended)

    def _wait(self) -> RtiSmsDeliveryTrigger:
        """
        Return the trigger that waits. It has no ``trigger_id``, so it keeps no event back.

        :raises RtiSmsInputError: an argument is malformed.
        """
        ids, without_id = parse_submissions(self.submission_ids)
        quota = make_quota(self.min_delivered, len(ids) + without_id)
        fail_on = check_fail_on(self.fail_on)
        timeout = check_seconds("timeout", self.timeout)
        started = self._started(timeout)
        return RtiSmsDeliveryTrigger(
            rtisms_conn_id=self.rtisms_conn_id,
            submission_ids=ids,
            poke_interval=self.poke_interval,
            deadline=trigger_deadline(started, timeout),
            missing_until=started + check_seconds("missing_ok_for", self.missing_ok_for),
            fail_on=fail_on,
            max_poke_interval=self.max_poke_interval,
            deferred_at=started,
            with_records=len(ids) <= MAX_RECORDS_IN_DATABASE,
            with_ids=False,
            quota=None if quota is None else quota.to_json(),
            is_execution_timeout=self.is_execution_timeout,
        )

    def _started(self, timeout: float) -> float:
        """Return when the wait began. After a restart of the triggerer, that was in another process."""
        if self.timeout_after is None:
            return time.time()
        return self.timeout_after.timestamp() - timeout


def _without_timedelta(value: Any) -> Any:
    """Return a duration in a form that is JSON; the trigger checks it where it can tell the task."""
    return value.total_seconds() if isinstance(value, timedelta) else value
