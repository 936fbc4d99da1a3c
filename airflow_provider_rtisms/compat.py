"""
Airflow's names, wherever this Airflow has them.

``airflow.providers.common.compat.sdk`` knows that for every Airflow. The common-compat that Airflow's constraints pin
can be older than a name, or than that module: 1.6 for Airflow 3.0.0, 1.14 for 3.1.8, 1.19 for 3.3.2. Then the name
comes from where Airflow itself has it. ``mask_secret`` is the youngest name, from common-compat 1.22.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "Asset",
    "AssetAlias",
    "BaseHook",
    "BaseNotifier",
    "BaseOperator",
    "BaseSensorOperator",
    "Connection",
    "Context",
    "ObjectStoragePath",
    "PokeReturnValue",
    "RetryDecision",
    "RetryPolicy",
    "Stats",
    "Variable",
    "XComArg",
    "conf",
    "get_current_context",
    "mask_secret",
]

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        Asset,
        AssetAlias,
        BaseHook,
        BaseNotifier,
        BaseOperator,
        BaseSensorOperator,
        Connection,
        Context,
        ObjectStoragePath,
        PokeReturnValue,
        RetryDecision,
        RetryPolicy,
        Stats,
        Variable,
        XComArg,
        conf,
        get_current_context,
        mask_secret,
    )

#: Where to look for a name, besides ``airflow.sdk``: in Airflow 2 and 3.0 it is at its own place.
PLACES = {
    "Asset": ("airflow.providers.common.compat.assets",),
    "AssetAlias": ("airflow.providers.common.compat.assets",),
    "BaseHook": ("airflow.hooks.base",),
    "BaseNotifier": ("airflow.providers.common.compat.notifier",),
    "BaseOperator": ("airflow.models.baseoperator",),
    "BaseSensorOperator": ("airflow.sensors.base",),
    "Connection": ("airflow.models.connection",),
    "Context": ("airflow.utils.context",),
    "ObjectStoragePath": ("airflow.io.path",),
    "PokeReturnValue": ("airflow.sensors.base",),
    "Stats": ("airflow.sdk.observability.stats", "airflow.observability.stats", "airflow.stats"),
    "Variable": ("airflow.models.variable",),
    "XComArg": ("airflow.models.xcom_arg",),
    "conf": ("airflow.configuration",),
    "get_current_context": ("airflow.operators.python",),
    "mask_secret": (
        "airflow.sdk.log",
        "airflow.sdk.execution_time.secrets_masker",
        "airflow.utils.log.secrets_masker",
    ),
}
_EXCEPTIONS = ("airflow.sdk.exceptions", "airflow.exceptions")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for place in ("airflow.providers.common.compat.sdk", "airflow.sdk", *PLACES.get(name, _EXCEPTIONS)):
            try:
                found = globals()[name] = getattr(import_module(place), name)
            except (ImportError, AttributeError):
                continue
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
