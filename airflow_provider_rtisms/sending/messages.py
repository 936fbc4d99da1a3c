"""
Messages: what a caller gives, checked as a whole before anything is sent, and previewed where nothing is to be sent.

All bad rows are named in one error, by position and never by value.
"""

from __future__ import annotations

import logging
import numbers
import re
import string
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import (
    as_iterable,
    check_amount,
    check_whole_number,
    name_some,
    plural,
    whole_number,
)
from airflow_provider_rtisms.api.values.recipients import (
    Recipient,
    check_region,
    parse_recipient,
    parse_recipients,
)
from airflow_provider_rtisms.api.values.secret import Secret, reveal
from airflow_provider_rtisms.api.values.text import Charset, SmsText, gsm_misfits
from airflow_provider_rtisms.tables import (
    PLAIN_CSV,
    CsvFormat,
    Row,
    count_columns,
    find_columns,
    plain_name,
    read_table_file,
    write_value,
)

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.store import StoragePath

log = logging.getLogger(__name__)

#: The keys of a row; ``reference`` may be missing.
FIELDS = ("recipient", "text", "reference")
#: References go to logs, XCom and files of results.
MAX_REFERENCE = 200
#: How many bad rows the error names.
NAMED_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """
    One text for one recipient. Its repr shows neither.

    :param reference: the caller's key of the message; None where the recipient identifies it.
    :param position: where the caller gave it, such as ``messages[3]`` or ``row 4``.
    :param is_row: whether the caller gave it with a text of its own, so that its result shows the reference.
    """

    recipient: Recipient
    text: SmsText
    reference: str | None = None
    position: str = ""
    is_row: bool = False

    @property
    def keys(self) -> tuple[str, str]:
        """What identifies the message in all attempts of its task, its reference if it has one; and its recipient."""
        of_recipient = message_key(self.recipient, None)
        return (of_recipient if self.reference is None else message_key(None, self.reference)), of_recipient

    @property
    def name(self) -> str:
        """What logs and errors call the message: its reference, or its position and the end of the number."""
        return self.reference or f"{self.position} {self.recipient.masked}".strip()


def message_key(recipient: Recipient | None, reference: str | None) -> str:
    """Return what identifies a message: its reference, or where it has none, its recipient."""
    if reference is not None:
        return f"reference {reference}"
    return f"recipient {recipient.get_secret_value() if recipient else ''}"


def check_messages(
    *,
    recipients: Any = None,
    text: Any = None,
    messages: Any = None,
    rows: Iterable[Row] | None = None,
    charset: int | None = None,
    max_parts: int | None = None,
    max_messages: int | None = None,
    max_parts_total: int | None = None,
    default_region: str | None = None,
    smart_encoding: bool = False,
) -> list[Message]:
    """Return the messages of a send, all checked."""
    has_text = recipients is not None or text is not None
    if has_text + (messages is not None) + (rows is not None) != 1:
        raise RtiSmsInputError("Give either recipients and text, or messages, or a table of messages.")
    if has_text:
        people = parse_recipients(recipients, default_region)
        one_text = SmsText.of(text, charset, max_parts, smart_encoding)
        checked = [Message(one, one_text, position=f"recipients[{position}]") for position, one in enumerate(people)]
        _check_count(len(checked), max_messages)
    else:
        table = rows_of_argument(messages) if rows is None else rows
        checked = check_rows(
            table,
            charset=charset,
            max_parts=max_parts,
            max_messages=max_messages,
            default_region=default_region,
            smart_encoding=smart_encoding,
        )
    _check_parts([message.text for message in checked], max_parts_total)
    _log_changes(checked, default_region)
    return checked


def _log_changes(messages: Sequence[Message], default_region: str | None) -> None:
    if completed := count_completed(messages):
        log.info("Phone numbers without + that were completed as numbers of %s: %d", default_region, completed)
    if saved := [message.text.saved_parts for message in messages if message.text.saved_parts]:
        log.info(
            "Texts in which smart_encoding replaced characters: %d, parts that this saves: %d", len(saved), sum(saved)
        )


def count_completed(messages: Iterable[Message]) -> int:
    """Return how many phone numbers were national ones, which ``default_region`` has completed."""
    return sum(message.recipient.is_completed for message in messages)


def rows_of_argument(value: Any) -> Iterator[Row]:
    """Give the rows of an operator's argument ``messages``."""
    example = {"recipient": "+56900000000", "text": "Hello", "reference": "order 1"}
    for position, item in enumerate(as_iterable(reveal(value), "messages", example)):
        yield row_of(f"messages[{position}]", reveal(item))


def row_of(position: str, values: Any) -> Row:
    """Return a row of what a list or a file holds."""
    if not isinstance(values, Mapping):
        return Row(position, Secret({}), f"is {shape(values)} where an object was expected")
    if not values.keys() <= set(FIELDS):
        return Row(position, Secret({}), f"has other keys than {', '.join(FIELDS)}")
    return Row(position, Secret(values))


def read_message_file(path: str | StoragePath, csv_format: CsvFormat = PLAIN_CSV) -> Iterator[Row]:
    """Give the rows of a file of messages one by one."""

    def choose(columns: Sequence[str]) -> Mapping[str, str]:
        names = [plain_name(column) for column in columns]
        if not {"recipient", "text"} <= set(names) <= set(FIELDS):
            raise RtiSmsInputError(
                "The first line of messages_path must name the columns recipient, text and maybe reference, and no "
                f"others. It has {count_columns(columns)}. Check the names, or set csv_delimiter. Nothing was sent."
            )
        used = dict.fromkeys(names, "messages_path")
        find_columns(names, used, "messages_path", is_file=True, note="Nothing was sent.")
        return used

    for row in read_table_file(path, "messages_path", choose, csv_format):
        if row.problem is None:
            yield row_of(row.position, row.values.get_secret_value())
        else:
            yield Row(row.position, Secret({}), row.problem)


def check_rows(
    rows: Iterable[Row],
    *,
    charset: int | None = None,
    max_parts: int | None = None,
    max_messages: int | None = None,
    default_region: str | None = None,
    smart_encoding: bool = False,
) -> list[Message]:
    """Return the messages of rows, all checked. The rows beyond ``max_messages`` are only counted."""
    text_of = partial(SmsText.of, charset=charset, max_parts=max_parts, smart_encoding=smart_encoding)
    text_of("a")  # what is wrong with these arguments is no problem of a row
    region = check_region(default_region)
    _check_count(0, max_messages)
    messages: list[Message] = []
    problems: list[str] = []
    positions: dict[str, str] = {}
    count = 0
    for row in rows:
        count += 1
        if max_messages is not None and count > max_messages:
            continue
        message, key, found = _check_row(row, text_of, region)
        if key is not None and (first := positions.setdefault(key, row.position)) != row.position:
            is_reference = key.startswith("reference ")
            found.append(
                f"has the same reference as {first}"
                if is_reference
                else f"has the same recipient as {first}; give each of them a reference of its own"
            )
        if found:
            problems.append(f"{row.position} {' and '.join(found)}")
        elif message is not None:
            messages.append(message)
    _check_count(count, max_messages)
    if problems:
        raise RtiSmsInputError(
            f"{len(problems)} of {plural(count, 'message')} cannot be sent: {name_some(problems, limit=NAMED_ROWS)}. "
            "Nothing was sent. Correct these rows."
        )
    if not messages:
        log.warning("The list, the file or the query has no messages, so there is nothing to send")
    return messages


def _check_count(count: int, max_messages: int | None) -> None:
    if max_messages is not None and count > check_whole_number("max_messages", max_messages):
        raise RtiSmsInputError(
            f"There are {count} messages, more than max_messages={max_messages}. Nothing was sent. Check the table, or "
            "raise max_messages."
        )


def _check_parts(texts: Sequence[SmsText], max_parts_total: int | None) -> None:
    total = sum(text.parts for text in texts)
    if max_parts_total is not None and total > check_whole_number("max_parts_total", max_parts_total):
        raise RtiSmsInputError(
            f"{plural(len(texts), 'message takes', 'messages take')} {plural(total, 'part')}, more than "
            f"max_parts_total={max_parts_total}. Nothing was sent. Shorten the texts, or raise max_parts_total."
        )


def _check_row(
    row: Row, text_of: Callable[[Any], SmsText], region: str | None
) -> tuple[Message | None, str | None, list[str]]:
    """
    Return the message of a row, its key, and what is wrong with the row. No frame that holds a plain value raises.
    """
    problems = [] if row.problem is None else [row.problem]
    if not row.values.get_secret_value():
        return None, None, problems or ["has no recipient and has no text"]
    recipient, problem = _check_recipient(row.values, region)
    problems += [problem] if problem else []
    text: SmsText | None = None
    if row.problem is None:
        text, problem = _check_text(row.values, text_of)
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


def _check_recipient(values: Secret[Mapping[str, Any]], region: str | None) -> tuple[Recipient | None, str | None]:
    number = reveal(values.get_secret_value().get("recipient"))
    recipient = parse_recipient(number, region)
    if recipient is not None:
        return recipient, None
    if number is None or (isinstance(number, str) and not number.strip()):
        return None, "has no recipient"
    form = "a phone number in international form"
    if isinstance(number, numbers.Number):  # 331234567 may have been 0331234567, which is another number in Italy
        kind = f"{shape(number)}; store it as text, since a number loses its + and zeros"
        return None, f"has a recipient that is not {form} but {kind}"
    return (
        None,
        f"has a recipient that is {f'neither {form} nor a mobile number of {region}' if region else f'not {form}'}",
    )


def _check_text(
    values: Secret[Mapping[str, Any]], text_of: Callable[[Any], SmsText]
) -> tuple[SmsText | None, str | None]:
    if reveal(values.get_secret_value().get("text")) is None:
        return None, "has no text"
    try:
        return text_of(values.get_secret_value().get("text")), None
    except RtiSmsInputError as error:
        return None, f"has a text that cannot be sent ({str(error).partition(': ')[0]})"


def _check_reference(values: Secret[Mapping[str, Any]]) -> tuple[str | None, str | None]:
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


def find_excluded(
    rows: Iterable[Row], field_name: str, messages: Iterable[Message], default_region: str | None = None
) -> frozenset[str]:
    """
    Return which of the recipients are on a list of numbers that are never texted. The list is not kept in memory.

    :param rows: each with one value, or with a value of ``recipient``.
    :param default_region: of numbers without +, as for the recipients.
    :raises RtiSmsInputError: the list is empty, or a value is no phone number, so that nobody knows whom it means.
    """
    recipients = {message.recipient.get_secret_value() for message in messages}
    region = check_region(default_region)
    found = set()
    count = 0
    bad: list[str] = []
    for row in rows:
        count += 1
        number = None if row.problem else parse_recipient(_number_of(row.values), region)
        if number is None:
            bad.append(row.position)
        elif number.get_secret_value() in recipients:
            found.add(number.get_secret_value())
    if bad:
        form = f"phone numbers in international form{f' or mobile numbers of {region}' if region else ''}, as text"
        raise RtiSmsInputError(
            f"{len(bad)} of {plural(count, 'number')} of {field_name} cannot be read as {form}: {name_some(bad)}. "
            "Nothing was sent. Correct them, or these people would get a text."
        )
    if not count:
        raise RtiSmsInputError(
            f"{field_name} has no numbers. Nothing was sent. Check the list, or leave {field_name} out."
        )
    return frozenset(found)


def _number_of(values: Secret[Mapping[str, Any]]) -> Any:
    plain = values.get_secret_value()
    return Secret(next(iter(plain.values())) if len(plain) == 1 else plain.get("recipient"))


def choose_number(columns: Sequence[str], field_name: str) -> str:
    """Return the column of the phone numbers: the only one, or else ``recipient``."""
    if len(columns) == 1 or "recipient" in columns:
        return columns[0] if len(columns) == 1 else "recipient"
    raise RtiSmsInputError(
        f"{field_name} has {len(columns)} columns: give one, or name that of the phone numbers recipient. Nothing was "
        "sent."
    )


def read_excluded_file(path: str | StoragePath) -> Iterator[Row]:
    """Give the rows of a file of numbers that are never texted, one by one."""

    def choose(columns: Sequence[str]) -> Mapping[str, str]:
        line = "".join(columns)
        is_number = sum(map(str.isdecimal, line)) >= 7  # tel:+56900000000 too, or the first number would be lost
        if columns and (is_number or not any(map(str.isalpha, line))):
            raise RtiSmsInputError("exclude_path seems to have no header line: add one. Nothing was sent.")
        names = [plain_name(one) for one in (re.split("[,;\t]", columns[0]) if len(columns) == 1 else columns)]
        used = {choose_number(names, "exclude_path"): "exclude_path"}
        find_columns(names, used, "exclude_path", is_file=True, note="Nothing was sent.")
        return used

    return read_table_file(path, "exclude_path", choose)


class PlaceholderText:
    """
    A text in which ``{column}`` stands for the value of a column. ``{{`` and ``}}`` stand for single braces.

    A placeholder is the name of a column and nothing more: no attribute, no index, no format. Values are inserted as
    :func:`~airflow_provider_rtisms.tables.write_value` writes them, so braces inside a value do no harm.
    """

    def __init__(self, text: Any) -> None:
        if not isinstance(reveal(text), str) or not reveal(text):
            raise RtiSmsInputError(f"text is {shape(reveal(text))}: use a str that is not empty.")
        parts = _parse_placeholders(Secret(text))
        if parts is None:
            raise RtiSmsInputError(
                "text has a placeholder or a brace that cannot be read: write {column} with the name of a column and "
                "nothing more, and write {{ and }} for single braces. Nothing was sent."
            )
        self._parts = parts
        #: The columns that the text needs, each with the argument that names it.
        self.columns = {column: "text" for _, column in parts if column is not None}

    def fill(self, values: Mapping[str, Any]) -> tuple[Secret[str] | None, str | None]:
        """Return the text for a row."""
        written = {column: write_value(values[column]) for column in self.columns}
        problems = [_why_unwritten(column, values[column]) for column, text in written.items() if text is None]
        if problems:
            return None, " and ".join(problems)
        return Secret("".join(plain + ("" if one is None else written[one] or "") for plain, one in self._parts)), None


def _parse_placeholders(text: Secret[str]) -> list[tuple[str, str | None]] | None:
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


def _why_unwritten(column: str, value: Any) -> str:
    if value is None:
        return f"has null in {column}, which the text needs"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"has bytes in {column}, which the text needs as text"
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        return f"has a number in {column} that is not finite, or too long to write out"
    return f"has {shape(value)} in {column}; make it text, a number, a date or a time in the query or the file"


def preview(
    *,
    text: Any = None,
    rows: Iterable[Mapping[str, Any]] | None = None,
    recipients: Any = None,
    messages: Any = None,
    message_rows: Iterable[Row] | None = None,
    charset: int | None = None,
    max_parts: int | None = None,
    max_messages: int | None = None,
    max_parts_total: int | None = None,
    samples: int = 3,
    default_region: str | None = None,
    smart_encoding: bool = False,
) -> dict[str, Any]:
    """Say what a send would do, see ``RtiSmsHook.preview_sms``. ``message_rows`` are those of a file of messages."""
    if (text is not None) + (messages is not None) + (message_rows is not None) != 1:
        raise RtiSmsInputError("Give either text or messages.")
    if recipients is not None and (text is None or rows is not None):
        raise RtiSmsInputError("recipients need text, and neither rows nor messages: leave them out.")
    text_of = partial(SmsText.of, charset=charset, max_parts=max_parts, smart_encoding=smart_encoding)
    completed = None
    if text is None:
        checked = check_rows(
            rows_of_argument(messages) if message_rows is None else message_rows,
            charset=charset,
            max_parts=max_parts,
            default_region=default_region,
            smart_encoding=smart_encoding,
        )
        texts = [message.text for message in checked]
        completed = None if default_region is None else count_completed(checked)
    elif recipients is not None:
        people = parse_recipients(recipients, check_region(default_region))
        texts = [text_of(text)] * len(people)
        completed = None if default_region is None else sum(one.is_completed for one in people)
    elif default_region is not None:
        raise RtiSmsInputError("default_region is for recipients and messages: leave it out.")
    else:
        texts = [text_of(text)] if rows is None else _fill_rows(PlaceholderText(text), rows, text_of)
    _check_count(len(texts), max_messages)
    _check_parts(texts, max_parts_total)
    return describe(texts, samples, completed=completed, smart_encoding=smart_encoding)


def describe_size(messages: int, parts: int, longest: int, charsets: Iterable[Charset] = ()) -> str:
    """Return in words how many messages and parts there are, such as ``1 message, 1 part (GSM 7-bit)``."""
    each = f", at most {longest} each" if messages > 1 else ""
    names = ", ".join(charset.label for charset in charsets)
    return f"{plural(messages, 'message')}, {plural(parts, 'part')}{each}{f' ({names})' if names else ''}"


def estimate(parts: int, price: Any) -> str:
    """Return what some parts cost, a decimal string."""
    amount = check_amount("price", price)
    if amount < 0:
        raise RtiSmsInputError("price is negative: use the price of one part, such as '0.035'.")
    return format(amount * parts, "f")


def describe(
    texts: Sequence[SmsText], samples: int = 0, *, completed: int | None = None, smart_encoding: bool = False
) -> dict[str, Any]:
    """Count texts, parts, charsets and characters, and show the first texts, see :func:`preview`."""
    changes: dict[str, Any] = {} if completed is None else {"completed": completed}
    if smart_encoding:
        changes["parts_saved"] = sum(one.saved_parts for one in texts)
        changes["replaced"] = _count_characters(one.replaced for one in texts)
    misfits = [gsm_misfits(one.characters) for one in texts]
    parts = [one.parts for one in texts]
    return {
        "messages": len(texts),
        "parts_total": sum(parts),
        "max_parts": max(parts, default=0),
        "charsets": dict(Counter(int(one.charset) for one in texts)),
        "forces_ucs2": _count_characters(misfits),
        **changes,
        "samples": [
            {
                "text": one.characters,
                "charset": int(one.charset),
                "characters": len(one.characters),
                "parts": one.parts,
                "forces_ucs2": [_code_point(character) for character in forcing],
            }
            for one, forcing in list(zip(texts, misfits, strict=True))[: max(0, samples)]
        ],
    }


def _count_characters(of_texts: Iterable[Iterable[str]]) -> dict[str, int]:
    """Return in how many texts each character stands."""
    counts = Counter(character for characters in of_texts for character in characters)
    return {_code_point(character): count for character, count in counts.most_common()}


def _fill_rows(
    template: PlaceholderText, rows: Iterable[Mapping[str, Any]], text_of: Callable[[Any], SmsText]
) -> list[SmsText]:
    texts: list[SmsText] = []
    problems: list[str] = []
    for position, row in enumerate(rows, 1):
        find_columns(list(row), template.columns, f"Row {position}")
        filled, problem = template.fill(row)
        if problem is None:
            try:
                texts.append(text_of(filled))
            except RtiSmsInputError as error:
                problem = f"gives a text that cannot be sent ({str(error).partition(': ')[0]})"
        if problem is not None:
            problems.append(f"row {position} {problem}")
    if problems:
        raise RtiSmsInputError(f"{plural(len(problems), 'row gives', 'rows give')} no text: {', '.join(problems)}.")
    return texts


def _code_point(character: str) -> str:
    return f"{character} (U+{ord(character):04X})"
