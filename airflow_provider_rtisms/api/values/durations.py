"""Spans of time as DAG authors write them: seconds or a timedelta."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape


def check_seconds(field_name: str, value: Any) -> float:
    """
    Return a span of time in seconds.

    :param field_name: how the error names it.
    :param value: seconds, 0 or more, or a timedelta.
    :raises RtiSmsInputError: it is anything else.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds <= timedelta.max.total_seconds():
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use seconds, 0 or more, or a timedelta.")
    return float(seconds)
