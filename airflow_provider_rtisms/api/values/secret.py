"""A value that logs, tracebacks and error trackers do not show."""

from __future__ import annotations

import html
import json
from typing import Any, Generic, TypeVar
from urllib.parse import quote, quote_plus

T = TypeVar("T")


class Secret(Generic[T]):
    """
    Hold a value, and show it only to code that asks for it by name.

    ``str()``, ``repr()`` and f-strings show asterisks. There is no ``+``, ``len()``, slice or method of the value, so a
    mistake raises an error instead of showing a part of it. Tools that print local variables show reprs:
    ``airflow dags test`` of Airflow 3.0, Sentry, pytest.

    :param value: what to protect; a Secret is unwrapped, so wrapping twice does no harm.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T | Secret[T]) -> None:
        self._value: T = value._value if isinstance(value, Secret) else value

    def get_secret_value(self) -> T:
        """Return the value; do not keep it in a variable that outlives the statement."""
        return self._value

    def __str__(self) -> str:
        """Return three asterisks, as Airflow's masker writes."""
        return "***"

    def __repr__(self) -> str:
        """Return the type and three asterisks."""
        return f"{type(self).__name__}('***')"

    def __format__(self, format_spec: str) -> str:
        """Return three asterisks, whatever the format."""
        return "***"

    def __eq__(self, other: object) -> bool:
        """Return whether both hold an equal value; a Secret never equals a plain value."""
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        """Hash the value, so that settings can be the key of a dict."""
        return hash(self._value)


def reveal(value: Any) -> Any:
    """Return the value of a Secret, or the value itself if it is not wrapped."""
    return value.get_secret_value() if isinstance(value, Secret) else value


def encodings(secret: str) -> set[str]:
    """
    Return a secret in every encoding in which it may travel: plain, form, URL, JSON, HTML and Python's repr.

    Airflow's masker looks for exact strings, so it needs each of them.

    :param secret: the plain value.
    """
    return {
        secret,
        quote_plus(secret),
        quote(secret),
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(secret)[1:-1].replace("/", r"\/"),
        html.escape(secret),
        repr(secret)[1:-1],
    }
