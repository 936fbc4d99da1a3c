"""What a send would do: charsets, parts, the characters that force UCS-2, and the first texts. Nothing is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.text import SmsText, gsm_misfits
from airflow_provider_rtisms.sending.placeholders import PlaceholderText
from airflow_provider_rtisms.sending.rows import check_rows, rows_of_argument
from airflow_provider_rtisms.tables import Row, find_columns

#: How many texts a preview shows.
SAMPLES = 3


def preview_texts(texts: Iterable[SmsText], samples: int = SAMPLES) -> dict[str, Any]:
    """
    Describe texts.

    :param texts: one for each message.
    :param samples: how many of the first texts to show. They may hold personal data.
    :return: ``messages`` (count), ``parts_total``, ``max_parts`` (of the longest), ``charsets`` (messages by number of
        the charset), ``forces_ucs2`` (messages by character that GSM 7-bit does not have), and ``samples``: for each of
        the first texts ``text, charset, characters, parts, forces_ucs2``.
    """
    parts: list[int] = []
    charsets: Counter[int] = Counter()
    misfits: Counter[str] = Counter()
    shown: list[dict[str, Any]] = []
    for text in texts:
        parts.append(text.parts)
        charsets[int(text.charset)] += 1
        forcing = gsm_misfits(text.characters)
        misfits.update(forcing)
        if len(shown) < samples:
            shown.append(
                {
                    "text": text.characters,
                    "charset": int(text.charset),
                    "characters": len(text.characters),
                    "parts": parts[-1],
                    "forces_ucs2": [_describe(character) for character in forcing],
                }
            )
    return {
        "messages": len(parts),
        "parts_total": sum(parts),
        "max_parts": max(parts, default=0),
        "charsets": dict(charsets),
        "forces_ucs2": {_describe(character): count for character, count in misfits.most_common()},
        "samples": shown,
    }


def preview(
    *,
    text: Any = None,
    rows: Iterable[Mapping[str, Any]] | None = None,
    messages: Any = None,
    message_rows: Iterable[Row] | None = None,
    charset: int | None = None,
    max_parts: int | None = None,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """
    Describe what the arguments of a send give, see
    :meth:`~airflow_provider_rtisms.hooks.rtisms.RtiSmsHook.preview_sms`.

    :param message_rows: rows of a file in place of ``messages``.
    """
    if (text is not None) + (messages is not None) + (message_rows is not None) != 1:
        raise RtiSmsInputError("Give either text or messages.")
    if text is None:
        table = rows_of_argument(messages) if message_rows is None else message_rows
        checked = check_rows(table, charset=charset, max_parts=max_parts)
        return preview_texts((message.text for message in checked), samples)
    if rows is None:
        return preview_texts([SmsText.of(text, charset, max_parts)], samples)
    return preview_texts(fill_rows(text, rows, charset, max_parts), samples)


def fill_rows(
    text: Any, rows: Iterable[Mapping[str, Any]], charset: int | None, max_parts: int | None
) -> list[SmsText]:
    """
    Return what a text with placeholders becomes for each row.

    :param text: with ``{column}`` placeholders.
    :param rows: values by column.
    :param charset: 0, 1, 6 or 8; None picks by each text.
    :param max_parts: most parts that one SMS may take.
    :raises RtiSmsInputError: a placeholder is no column, or a text cannot be sent; names the row.
    """
    template = PlaceholderText(text)
    texts: list[SmsText] = []
    problems: list[str] = []
    for position, row in enumerate(rows, 1):
        find_columns(list(row), template.columns, f"Row {position}")
        filled, problem = template.fill(row)
        if problem is None:
            try:
                texts.append(SmsText.of(filled, charset, max_parts))
            except RtiSmsInputError as error:
                problem = f"gives a text that cannot be sent ({str(error).partition(': ')[0]})"
        if problem is not None:
            problems.append(f"row {position} {problem}")
    if problems:
        raise RtiSmsInputError(f"{len(problems)} rows give no text: {', '.join(problems)}.")
    return texts


def _describe(character: str) -> str:
    return f"{character} (U+{ord(character):04X})"
