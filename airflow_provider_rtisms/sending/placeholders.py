"""A text with placeholders, and what it becomes for a row of a table."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.secret import Secret, reveal


class PlaceholderText:
    """
    A text in which ``{column}`` stands for the value of a column. ``{{`` and ``}}`` stand for single braces.

    A placeholder is the name of a column and nothing more: no attribute, no index, no format. Values are inserted as
    they are, so braces inside a value do no harm.

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
        #: The columns that the text needs, each once.
        self.columns = list(dict.fromkeys(column for _, column in parts if column is not None))

    def check_columns(self, columns: Collection[str]) -> None:
        """
        Make sure that every placeholder is a column.

        :param columns: of the table.
        :raises RtiSmsInputError: one is not; names it and the columns.
        """
        unknown = [column for column in self.columns if column not in columns]
        if unknown:
            raise RtiSmsInputError(
                f"text has placeholders that are no columns: {', '.join(unknown)}. The columns are: "
                f"{', '.join(columns)}. Nothing was sent."
            )

    def fill(self, values: Mapping[str, Any]) -> tuple[Secret[str] | None, str | None]:
        """
        Return the text for a row.

        :param values: by column; every placeholder must be among them.
        :return: the text, or what is wrong with the row.
        """
        empty = [column for column in self.columns if values[column] is None]
        if empty:
            return None, f"has null in {', '.join(empty)}, which the text needs"
        binary = [column for column in self.columns if isinstance(values[column], bytes | bytearray | memoryview)]
        if binary:
            return None, f"has bytes in {', '.join(binary)}, which the text needs as text"
        return Secret("".join(plain + ("" if one is None else str(values[one])) for plain, one in self._parts)), None


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
