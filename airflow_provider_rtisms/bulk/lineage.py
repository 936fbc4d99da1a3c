"""
Report the files that a bulk fetch reads and writes to Airflow's hook lineage.

Each file is reported once, under the URI that its assets have: without the conn_id. Reading and writing through
ObjectStoragePath would report every part object instead, and OpenLineage would then ignore the outlets of the task.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.store import StoragePath

log = logging.getLogger(__name__)


def report_input(path: StoragePath) -> None:
    """Report a file that was read."""
    _report("add_input_asset", path, lambda: asset_uri(path))


def report_output(path: StoragePath) -> None:
    """Report a file that was written."""
    _report("add_output_asset", path, lambda: asset_uri(path))


def report_table(context: object, uri: str) -> None:
    """Report a table that was written."""
    _report("add_output_asset", context, lambda: uri)


def asset_uri(path: str | StoragePath) -> str:
    """Return the URI that names a file in assets and in lineage."""
    text = str(path)
    if "://" not in text:
        return f"file://{Path(text).expanduser().absolute()}"
    text = re.sub(r"^(\w+://)[^/@]*@", r"\1", text)
    return re.sub(r"^(https?://[^?#]*).*", r"\1", text)


def _report(method: str, context: object, uri: Callable[[], str]) -> None:
    try:
        from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector
    except ImportError:  # without Airflow
        return
    try:
        collector = get_hook_lineage_collector()  # type: ignore[no-untyped-call]
        getattr(collector, method)(context=context, uri=uri())
    except Exception:
        log.warning("The lineage of %s could not be reported", context, exc_info=True)
