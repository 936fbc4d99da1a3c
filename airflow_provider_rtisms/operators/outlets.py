"""Write the counts of a task into the asset events of its outlets, for the DAGs that these events start."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)


def add_to_outlet_events(
    context: Context, outlets: Collection[Any], extra: Mapping[str, Any], written: str | None = None
) -> None:
    """
    Add counts to the event of each declared outlet. A failure is only logged.

    :param context: of the task; without ``outlet_events``, as in a plain call of ``execute``, nothing happens.
    :param outlets: of the task: assets (Airflow 2: datasets), aliases, and others, which have no events.
    :param extra: JSON-safe. What a DAG author has added stays.
    :param written: the URI of what the task has written. An alias gets an event for it.
    """
    events: Any = context.get("outlet_events")
    if events is None or not outlets:
        return
    from airflow.providers.common.compat.sdk import Asset, AssetAlias

    for outlet in outlets:
        try:
            if isinstance(outlet, AssetAlias):
                if written is not None:
                    events[outlet].add(Asset(written), extra=dict(extra))
            elif isinstance(outlet, Asset) or _is_reference(outlet):
                event = events[outlet]
                event.extra = {**extra, **event.extra}
        except Exception:
            log.warning("The counts could not be added to the event of the outlet %s", outlet, exc_info=True)


def _is_reference(outlet: Any) -> bool:
    """Return whether an outlet is ``Asset.ref(...)``, which is new in Airflow 3."""
    try:
        from airflow.sdk.definitions.asset import AssetRef
    except ImportError:
        return False
    return isinstance(outlet, AssetRef)
