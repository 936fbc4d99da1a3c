"""Limits that workers and triggerers share. Importing this module loads nothing else. Pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

#: Waits over more submissions keep their records out of Airflow's database, and fetch them once more at the end.
MAX_RECORDS_IN_DATABASE = 1000
#: Records of final submissions in the arguments of a trigger. MySQL has room for 64 KiB of encrypted arguments: 1,000
#: ids take 27 KiB of them, and 50 records 22 KiB.
MAX_RECORDS_IN_TRIGGER = 50


@dataclass(frozen=True, slots=True)
class WaitLimit:
    """
    How long a deferred wait may last.

    :param seconds: after which Airflow ends the deferral.
    :param deadline: when the trigger gives up, in seconds since the epoch.
    :param is_execution_timeout: whether the task's ``execution_timeout`` ends the wait, and not its ``timeout``.
    """

    seconds: float
    deadline: float
    is_execution_timeout: bool


def limit_wait(now: float, started: float, timeout: float, execution_end: float | None) -> WaitLimit:
    """
    Return how long a wait may last that is deferred now: until the first of its two ends.

    :param now: in seconds since the epoch, as the other times.
    :param started: when the wait began.
    :param timeout: seconds that it may last.
    :param execution_end: when the task's ``execution_timeout`` is over; None if it has none.
    """
    if execution_end is None or started + timeout < execution_end:
        return WaitLimit(timeout, trigger_deadline(started, timeout), is_execution_timeout=False)
    left = execution_end - now
    return WaitLimit(left, trigger_deadline(now, left), is_execution_timeout=True)


def trigger_deadline(started: float, timeout: float) -> float:
    """
    Return when a trigger gives up: shortly before Airflow ends the deferral, so that the event can say what the
    trigger saw.

    :param started: when the wait began, in seconds since the epoch.
    :param timeout: seconds that it may last.
    """
    return started + timeout - min(5.0, timeout / 10)
