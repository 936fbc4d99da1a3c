"""
A local stand-in for the RTI SMS API: run and test DAGs without an account.

From the command line, run ``python -m airflow_provider_rtisms.sandbox --help``. In pytest, use the fixture
``rtisms_sandbox``. In Python, :class:`Sandbox` runs one in a thread, :class:`SandboxProcess` runs one in a process of
its own, and :class:`SandboxClient` controls one that is already running. It needs aiohttp, but not Airflow.

Names are imported when they are first used, so that pytest can load the plugin beside this file at no cost.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_rtisms.sandbox.client import Sandbox, SandboxClient, SandboxProcess
    from airflow_provider_rtisms.sandbox.settings import Fault, Settings
    from airflow_provider_rtisms.sandbox.state import Message, Snapshot

__all__ = ["Fault", "Message", "Sandbox", "SandboxClient", "SandboxProcess", "Settings", "Snapshot"]

_HOMES = {"Fault": "settings", "Settings": "settings", "Message": "state", "Snapshot": "state"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'client')}"), name)
