"""Rows of a table as checked messages: a number, a text and a reference each. All bad rows are named in one error."""

from __future__ import annotations

import logging
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import whole_number
from airflow_provider_rtisms.api.values.lists import as_iterable, name_some
from airflow_provider_rtisms.api.values.recipients import Recipient, parse_recipient
from airflow_provider_rtisms.api.values.secret import Secret, reveal
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.sending.message import Message, check_max_messages, message_key
from airflow_provider_rtisms.tables import Row, read_table_file, write_value

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.store import StoragePath

log = logging.getLogger(__name__)

#: The keys of a row; ``reference`` may be missing.
FIELDS = ("recipient", "text", "reference")
#: References go to logs, XCom and files of results.
MAX_REFERENCE = 200
#: How many bad rows the error names.
NAMED_ROWS = 1000


def rows_of_argument(value: Any) -> Iterator[Row]:
    """
    Give the rows of an operator's argument ``messages``.

    :param value: a dict, an iterable of dicts, or such a list as JSON or as Python writes it, which is what a template
        gives; may be wrapped in a Secret.
    :raises RtiSmsInputError: it is anything else.
    """
    example = {"recipient": "+56900000000", "text": "Hello", "reference": "order 1"}
    for position, item in enumerate(as_iterable(reveal(value), "messages", example)):
        yield row_of(f"messages[{position}]", reveal(item))


def read_message_file(path: str | StoragePath) -> Iterator[Row]:
    """
    Give the rows of a file of messages one by one.

    :param path: UTF-8 text, local or in an object store. Its name ends in ``.csv`` (with a header line) or ``.jsonl``;
        ``.gz`` may follow.
    :raises RtiSmsInputError: the name ends otherwise, the header line has other columns or one of them twice, or the
        file cannot be decoded.
    :raises RtiSmsStorageError: the file cannot be read.
    :raises RtiSmsStorageUnavailableError: the file cannot be read at the moment.
    """

    def choose(columns: Sequence[str]) -> Mapping[str, str]:
        if not {"recipient", "text"} <= set(columns) <= set(FIELDS):
            raise RtiSmsInputError(
                "The first line of messages_path must name the columns recipient, text and maybe reference, and no "
                "others. Nothing was sent."
            )
        return dict.fromkeys(columns, "messages_path")

    for row in read_table_file(path, "messages_path", choose):
        if row.problem is None:
            yield row_of(row.position, row.values.get_secret_value())
        else:
            yield Row(row.position, Secret({}), row.problem)


def row_of(position: str, values: Any) -> Row:
    """
    Return a row of what a list or a file holds.

    :param position: where it stands.
    :param values: a mapping with the keys of :data:`FIELDS`, or anything else, which is a problem of the row.
    """
    if not isinstance(values, Mapping):
        return Row(position, Secret({}), f"is {shape(values)} where an object was expected")
    if not values.keys() <= set(FIELDS):
        return Row(position, Secret({}), f"has other keys than {', '.join(FIELDS)}")
    return Row(position, Secret(values))


def check_rows(
    rows: Iterable[Row], *, charset: int | None = None, max_parts: int | None = None, max_messages: int | None = None
) -> list[Message]:
    """
    Return the messages of rows, all checked.

    :param rows: read to the end; beyond ``max_messages`` they are only counted.
    :param charset: 0, 1, 6 or 8; None picks by each text.
    :param max_parts: most parts that one SMS may take.
    :param max_messages: most messages.
    :raises RtiSmsInputError: there are too many rows, or some cannot be sent. The error names the position
        of every bad row and what is wrong with it, never a value.
    """
    SmsText.of("a", charset, max_parts)  # what is wrong with these two is no problem of a row
    check_max_messages(0, max_messages)
    messages: list[Message] = []
    problems: list[str] = []
    positions: dict[str, str] = {}
    count = 0
    for row in rows:
        count += 1
        if max_messages is not None and count > max_messages:
            continue
        message, key, found = _check_row(row, charset, max_parts)
        if key is not None and (first := positions.setdefault(key, row.position)) != row.position:
            found.append(_duplicate(key, first))
        if found:
            problems.append(f"{row.position} {' and '.join(found)}")
        elif message is not None:
            messages.append(message)
    check_max_messages(count, max_messages)
    if problems:
        raise RtiSmsInputError(
            f"{len(problems)} of {count} messages cannot be sent: {name_some(problems, limit=NAMED_ROWS)}. Nothing was "
            "sent. Correct these rows."
        )
    if not messages:
        log.warning("The list, the file or the query has no messages, so there is nothing to send")
    return messages


def _check_row(row: Row, charset: int | None, max_parts: int | None) -> tuple[Message | None, str | None, list[str]]:
    """
    Return the message of a row, its key, and what is wrong with the row. No frame that holds a plain value raises.
    """
    problems = [] if row.problem is None else [row.problem]
    if not row.values.get_secret_value():
        return None, None, problems or ["has no recipient and has no text"]
    recipient, problem = _check_recipient(row.values)
    problems += [problem] if problem else []
    text: SmsText | None = None
    if row.problem is None:
        text, problem = _check_text(row.values, charset, max_parts)
        problems += [problem] if problem else []
    reference, problem = _check_reference(row.values)
    if reference is not None and recipient is not None and _repeats(reference, recipient):
        reference, problem = None, "has a reference that repeats its recipient; leave such a reference out"
    problems += [problem] if problem else []
    if problem is not None or (recipient is None and reference is None):
        return None, None, problems
    key = message_key(recipient, reference)
    if recipient is None or text is None:
        return None, key, problems
    return Message(recipient, text, reference, row.position, is_row=True), key, problems


def _check_recipient(values: Secret[Mapping[str, Any]]) -> tuple[Recipient | None, str | None]:
    """Return the recipient of a row, and what is wrong with it."""
    number = reveal(values.get_secret_value().get("recipient"))
    recipient = parse_recipient(number)
    if recipient is not None:
        return recipient, None
    if number is None or (isinstance(number, str) and not number.strip()):
        return None, "has no recipient"
    return None, "has a recipient that is not a phone number in international form"


def _check_text(
    values: Secret[Mapping[str, Any]], charset: int | None, max_parts: int | None
) -> tuple[SmsText | None, str | None]:
    """Return the text of a row, and what is wrong with it."""
    if reveal(values.get_secret_value().get("text")) is None:
        return None, "has no text"
    try:
        return SmsText.of(values.get_secret_value().get("text"), charset, max_parts), None
    except RtiSmsInputError as error:
        reason = str(error).partition(": ")[0]
        return None, f"has a text that cannot be sent ({reason})"


def _check_reference(values: Secret[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """Return the reference of a row as a str, and what is wrong with it."""
    value = values.get_secret_value().get("reference")
    if value is None or value == "":
        return None, None
    if isinstance(value, uuid.UUID) or (whole := whole_number(value)) is not None:
        return write_value(value if isinstance(value, uuid.UUID) else whole), None
    if not isinstance(value, str):
        return None, f"has a reference that is {shape(value)}; use a str, a whole number or a UUID"
    if not value.isprintable() or not value.strip() or len(value) > MAX_REFERENCE:
        return None, f"has a reference that is not printable text of at most {MAX_REFERENCE} characters"
    return value, None


def _repeats(reference: str, recipient: Secret[str]) -> bool:
    """
    Return whether a reference repeats a phone number, with or without the prefix of its country.

    Only the digits are compared. The last 8 are enough; of a short number, what follows a country code of 3 digits.
    Letters between digits stay, or each UUID would be one long number, and in a million some would be a recipient's.
    """
    digits = "".join(str(unicodedata.digit(one, "a" if one.isalpha() else "")) for one in reference)
    length = max(6, min(8, len(recipient.get_secret_value()) - len("+123")))
    return recipient.get_secret_value()[-length:] in digits


def _duplicate(key: str, first: str) -> str:
    if key.startswith("reference "):
        return f"has the same reference as {first}"
    return f"has the same recipient as {first}; give each of them a reference of its own"
