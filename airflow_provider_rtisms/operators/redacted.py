"""Template fields whose rendered value Airflow must not store or show."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

from airflow.providers.common.compat.sdk import XComArg

from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.hooks.templates import TemplateFields


class Redacted(Secret[Any]):
    """
    A value that Airflow stores and shows as a description only.

    Airflow keeps rendered template fields in its database and shows them to everyone who may see the task. A value that
    is neither JSON nor a collection is kept as ``str(value)``, on every version.

    :param value: what to protect; a template inside it is rendered.
    """

    __slots__ = ()

    def __str__(self) -> str:
        """Return how many characters or values it has."""
        if isinstance(self._value, str):
            return f"redacted: {len(self._value)} characters"
        return f"redacted: {len(self._value)} values" if isinstance(self._value, Sized) else "redacted"

    __repr__ = __str__


class RedactsFields(TemplateFields):
    """
    Mixin of operators with confidential template fields.

    The operator sets ``_is_made`` once its own ``__init__`` has assigned its fields.
    """

    redacted_fields: Sequence[str]

    def __setattr__(self, name: str, value: Any) -> None:
        """
        Redact what Airflow assigns to confidential fields when it renders them, in mapped tasks too.

        The output of another task is left as it is, so that Airflow finds it and lets this task wait for the other.
        """
        is_confidential = name in self.redacted_fields and value is not None and self.__dict__.get("_is_made")
        if is_confidential and not any(XComArg.iter_xcom_references(value)):
            value = Redacted(value)
        super().__setattr__(name, value)
