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


class RedactsFields:
    """
    Mixin of operators with confidential template fields.

    The operator sets ``_is_made`` once its own ``__init__`` has assigned its fields.
    """

    redacted_fields: Sequence[str]

    def __setattr__(self, name: str, value: Any) -> None:
        """Redact what Airflow assigns to confidential fields when it renders them, in mapped tasks too."""
        if name in self.redacted_fields and value is not None and self.__dict__.get("_is_made"):
            value = Redacted(value)
        super().__setattr__(name, value)
