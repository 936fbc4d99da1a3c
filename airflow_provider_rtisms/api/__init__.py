"""
The RTI SMS HTTP API: two clients, settings, endpoints, models and errors. Knows nothing of Airflow.

The names listed in ``__all__`` are public. Everything else is private and may change without notice. Names are imported
on first use, so importing this package loads no HTTP library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_rtisms.api import calls as endpoints
    from airflow_provider_rtisms.api import errors
    from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
    from airflow_provider_rtisms.api.client import RtiSmsClient
    from airflow_provider_rtisms.api.models import Operator, SendOutcome, SmsDetails, SmsStatus, Submission
    from airflow_provider_rtisms.api.settings import ApiSettings
    from airflow_provider_rtisms.api.values.secret import Secret

__all__ = [
    "ApiSettings",
    "AsyncRtiSmsClient",
    "Operator",
    "RtiSmsClient",
    "Secret",
    "SendOutcome",
    "SmsDetails",
    "SmsStatus",
    "Submission",
    "endpoints",
    "errors",
]

#: The modules of the names that are in no ``models``.
_MODULES = {
    "ApiSettings": "settings",
    "AsyncRtiSmsClient": "aio",
    "RtiSmsClient": "client",
    "Secret": "values.secret",
    "endpoints": "calls",
    "errors": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'models')}")
    return module if name in ("endpoints", "errors") else getattr(module, name)
