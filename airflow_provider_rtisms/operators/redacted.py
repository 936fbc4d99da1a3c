"""Template fields whose rendered value Airflow must not store or show."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

from airflow_provider_rtisms.api.values.secret import Secret


class Redacted(Secret[Any]):
    """
    A value that Airflow stores and shows as a description only.

    Airflow keeps rendered template fields in its database and shows them to everyone who may see the task. A value that
    is neither JSON nor a collection is kept as ``str(value)``, on every version.

    :param value: what to protect. Airflow renders a template inside it through the attribute ``value``.
    """

    __slots__ = ()

    template_fields: Sequence[str] = ("value",)

    @property
    def value(self) -> Any:
        """The plain value, for Airflow's template engine."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value

    def __str__(self) -> str:
        """Return how many characters or values it has."""
        if isinstance(self._value, str):
            return f"redacted: {len(self._value)} characters"
        return f"redacted: {len(self._value)} values" if isinstance(self._value, Sized) else "redacted"

    __repr__ = __str__
