"""The trigger of waits that began in the triggerer, as ``start_from_trigger=True`` did in release 0.1."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_rtisms.waiting import BEGIN_AGAIN


class RtiSmsDeliveryStartTrigger(BaseTrigger):
    """
    Hand a stored wait to a worker, where it begins again. No new wait uses this trigger.

    Airflow's database may hold such triggers, and DAGs that name them, while people upgrade.

    :param arguments: as an earlier release has stored them; the worker uses those of the DAG.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._arguments = arguments

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that recreate the trigger."""
        return f"{__name__}.{type(self).__name__}", dict(self._arguments)

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Leave the templates to the worker."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield at once."""
        yield TriggerEvent(BEGIN_AGAIN)  # type: ignore[no-untyped-call]
