"""
The doctor checks an account, a network and the API, and says what to do about each finding. It does no harm.

From the command line, run ``python -m airflow_provider_rtisms.doctor --help``, or ``airflow rtisms doctor`` on Airflow
3.2 and later. In Python, call :func:`diagnose`. It needs requests, but not Airflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_rtisms.doctor.checks import diagnose
    from airflow_provider_rtisms.doctor.report import CheckResult, Outcome, Report

__all__ = ["CheckResult", "Outcome", "Report", "diagnose"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'checks' if name == 'diagnose' else 'report'}"), name)
