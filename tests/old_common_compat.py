"""The names of common-compat that tests use, for a common-compat that is too old to have them."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from airflow_provider_rtisms import compat

SDK = "airflow.providers.common.compat.sdk"
#: Where the names are that tests use and the package does not.
PLACES = {
    "DAG": ("airflow.sdk", "airflow.models.dag"),
    "TaskDeferred": ("airflow.sdk.exceptions", "airflow.exceptions"),
    "TaskGroup": ("airflow.sdk", "airflow.utils.task_group"),
    "dag": ("airflow.sdk", "airflow.decorators"),
    "redact": ("airflow.sdk.log", "airflow.sdk.execution_time.secrets_masker", "airflow.utils.log.secrets_masker"),
    "task": ("airflow.sdk", "airflow.decorators"),
    "timeout": ("airflow.sdk.execution_time.timeout", "airflow.utils.timeout"),
}


def complete_common_compat() -> None:
    """Add to common-compat what it lacks. A complete one stays as it is."""
    versions: Any = import_module("airflow.providers.common.compat.version_compat")
    version = versions.get_base_airflow_version_tuple()
    for minor in range(4):
        if not hasattr(versions, f"AIRFLOW_V_3_{minor}_PLUS"):
            setattr(versions, f"AIRFLOW_V_3_{minor}_PLUS", version >= (3, minor, 0))
    try:
        sdk = import_module(SDK)
    except ImportError:
        sdk = ModuleType(SDK)
    if hasattr(sdk, "mask_secret"):
        return
    names = {name: getattr(compat, name) for name in compat.__all__ if hasattr(compat, name)}
    for name, places in PLACES.items():
        names[name] = next(value for place in places if (value := _find(place, name)) is not None)
    vars(sdk).update(names)
    sys.modules[SDK] = sdk


def _find(place: str, name: str) -> Any:
    try:
        return getattr(import_module(place), name, None)
    except ImportError:
        return None
