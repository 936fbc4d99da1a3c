"""A text with placeholders, and what it becomes for a row of a table."""

from __future__ import annotations

import numbers
import string
from collections.abc import Mapping
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.secret import Secret, reveal
from airflow_provider_rtisms.tables import write_value


class PlaceholderText:
    """
    A text in which ``{column}`` stands for the value of a column. ``{{`` and ``}}`` stand for single braces.

    A placeholder is the name of a column and nothing more: no attribute, no index, no format. Values are inserted as
    :func:`~airflow_provider_rtisms.tables.write_value` writes them, so braces inside a value do no harm.

    :param text: a str; may be wrapped in a Secret.
    :raises RtiSmsInputError: the text is not a str, or a brace or a placeholder in it is malformed.
    """

    def __init__(self, text: Any) -> None:
        if not isinstance(reveal(text), str) or not reveal(text):
            raise RtiSmsInputError(f"text is {shape(reveal(text))}: use a str that is not empty.")
        parts = _parse(Secret(text))
        if parts is None:
            raise RtiSmsInputError(
                "text has a placeholder or a brace that cannot be read: write {column} with the name of a column and "
                "nothing more, and write {{ and }} for single braces. Nothing was sent."
            )
        self._parts = parts
        #: The columns that the text needs, each with the argument that names it.
        self.columns = {column: "text" for _, column in parts if column is not None}

    def fill(self, values: Mapping[str, Any]) -> tuple[Secret[str] | None, str | None]:
        """
        Return the text for a row.

        :param values: by column; every placeholder must be among them.
        :return: the text, or what is wrong with the row.
        """
        written = {column: write_value(values[column]) for column in self.columns}
        problems = [_problem(column, values[column]) for column, text in written.items() if text is None]
        if problems:
            return None, " and ".join(problems)
        return Secret("".join(plain + ("" if one is None else written[one] or "") for plain, one in self._parts)), None


def _problem(column: str, value: Any) -> str:
    """Say why a text cannot hold a value."""
    if value is None:
        return f"has null in {column}, which the text needs"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"has bytes in {column}, which the text needs as text"
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        return f"has a number in {column} that is not finite, or too long to write out"
    return f"has {shape(value)} in {column}; make it text, a number, a date or a time in the query or the file"


def _parse(text: Secret[str]) -> list[tuple[str, str | None]] | None:
    """Return the parts of a text: plain characters and the column that follows; None where it is malformed."""
    parts = []
    try:
        for plain, column, form, conversion in string.Formatter().parse(text.get_secret_value()):
            if column is not None and (form or conversion or not column or set(column) & set(".[]{}")):
                return None
            parts.append((plain, column))
    except ValueError:
        return None
    return parts
