"""
Text that logs, tracebacks and error trackers do not show.
"""

from __future__ import annotations

from typing import SupportsIndex


class Secret(str):
    """
    A str whose repr does not show it, nor do those of its slices.

    Whatever prints the local variables of a traceback shows reprs: ``airflow dags test`` of Airflow 3.0, error
    trackers such as Sentry, and pytest.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        """Return three asterisks, as Airflow's masker writes."""
        return "'***'"

    def __getitem__(self, key: SupportsIndex | slice) -> Secret:
        """Return a part, as secret as the whole: pretty printers cut a long str before they show it."""
        return Secret(super().__getitem__(key))
