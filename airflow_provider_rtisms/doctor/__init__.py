"""
The doctor checks an account, a network and the API, and says what to do about each finding. It does no harm.

From the command line, run ``python -m airflow_provider_rtisms.doctor --help``, or ``airflow rtisms doctor`` on Airflow
3.2 and later. In Python, call :func:`diagnose`. It needs requests, but not Airflow.

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_rtisms.doctor.report import CheckResult, Outcome, Report
    from airflow_provider_rtisms.doctor.runner import diagnose

__all__ = ["CheckResult", "Outcome", "Report", "diagnose"]

_HOMES = {"CheckResult": "report", "Outcome": "report", "Report": "report", "diagnose": "runner"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
