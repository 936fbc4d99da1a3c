"""Template fields whose rendered value Airflow is not to store or show."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any


class Redacted:
    """
    A value that Airflow stores and shows as a description only.

    Airflow keeps rendered template fields in its database and shows them to everyone who may see the task. What is
    neither JSON nor a collection it keeps as ``str(value)``, on every version.

    :param value: what is hidden; a template inside is rendered where it stands.
    """

    template_fields: Sequence[str] = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return f"hidden: {len(self.value)} characters"
        return f"hidden: {len(self.value)} values" if isinstance(self.value, Sized) else "hidden"

    __repr__ = __str__

    @classmethod
    def hide(cls, value: Any) -> Redacted:
        """Return the value hidden, unless it is so already."""
        return value if isinstance(value, cls) else cls(value)

    @classmethod
    def reveal(cls, value: Any) -> Any:
        """Return the value, whether it is hidden or not; tracebacks with local variables do not show it."""
        return _secret(value.value if isinstance(value, cls) else value)


def _secret(value: Any) -> Any:
    from airflow_provider_rtisms.api.values.secret import Secret

    if isinstance(value, list | tuple):
        return [_secret(one) for one in value]
    return Secret(value) if isinstance(value, str) else value
