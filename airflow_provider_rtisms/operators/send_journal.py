"""What a send keeps in Airflow, and how a task without a journal is kept from retries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, AirflowTaskTimeout
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.sending.outbox import Outbox

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated  # type: ignore[attr-defined,unused-ignore]
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[attr-defined,no-redef,unused-ignore]

log = logging.getLogger(__name__)

#: What can end a task while it sends: AirflowTaskTerminated is what Airflow 2 raises where the task gets SIGTERM.
_STOPS = (Exception, AirflowTaskTimeout, AirflowTaskTerminated)


class PermanentStore:
    """
    The task state store, with values that do not expire while the DAG run exists.

    :param store: of the context, Airflow 3.3 and later.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default where there is none."""
        return self._store.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        from airflow.sdk import NEVER_EXPIRE  # type: ignore[attr-defined]

        self._store.set(key, value, retention=NEVER_EXPIRE)


def warn_without_journal(context: Context) -> None:
    """
    Log that a send will not be remembered, if that is so.

    :param context: of the task; from Airflow 3.3 on, that of a task run has a task state store.
    """
    if context.get("task_state_store") is not None:
        return
    if AIRFLOW_V_3_3_PLUS:
        log.warning(
            "There is no task state store outside of a task run, so nothing remembers what is sent. If this is called "
            "again, it sends all messages again"
        )
    else:
        log.warning(
            "This Airflow has no task state store (it is new in 3.3). If this worker dies, or the task is cleared, the "
            "next attempt sends all messages again. Set retries=0 to prevent that after a death"
        )


@contextmanager
def no_retry_after(outbox: Outbox | None, context: Context) -> Iterator[None]:
    """
    Stop Airflow's retries once a message may have been sent, if nothing remembers what was sent.

    :param outbox: knows whether a message may have been sent; None if one has been.
    :param context: of the task; it has a task state store where something remembers.
    """
    try:
        yield
    except (AirflowFailException, AirflowSensorTimeout):
        raise
    except _STOPS as error:
        has_journal = context.get("task_state_store") is not None
        if has_journal or (outbox is not None and not outbox.may_have_sent):
            raise
        reason = str(error) or type(error).__name__
        raise AirflowFailException(
            f"{reason.removesuffix('.')}. The task is not retried, since a retry sends to all recipients again."
        ) from error
