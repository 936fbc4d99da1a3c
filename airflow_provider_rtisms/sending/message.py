"""A message to one recipient, and the limits for all messages of a send."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.values.arguments import check_whole_number
from airflow_provider_rtisms.api.values.recipients import Recipient
from airflow_provider_rtisms.api.values.text import SmsText

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Message:
    """
    One text for one recipient. Its repr shows neither.

    :param recipient: the phone number.
    :param text: the text.
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
    def key(self) -> str:
        """What identifies the message in all attempts of its task."""
        return message_key(self.recipient, self.reference)

    @property
    def name(self) -> str:
        """What logs and errors call the message: its reference, or its position and the end of the number."""
        return self.reference or f"{self.position} {self.recipient.masked}".strip()


def message_key(recipient: Recipient | None, reference: str | None) -> str:
    """
    Return what identifies a message: its reference, or where it has none, its recipient.

    :param recipient: the phone number; None only where there is a reference.
    :param reference: the caller's key.
    """
    if reference is not None:
        return f"reference {reference}"
    return f"recipient {recipient.get_secret_value() if recipient else ''}"


def to_everybody(recipients: Sequence[Recipient], text: SmsText) -> list[Message]:
    """
    Return the messages that send one text to many recipients.

    :param recipients: each once.
    :param text: the text.
    """
    return [
        Message(recipient, text, position=f"recipients[{position}]") for position, recipient in enumerate(recipients)
    ]


def batched_by_text(items: Iterable[T], text_of: Callable[[T], SmsText], size: int) -> Iterator[list[T]]:
    """
    Give the items of one request at a time: those of equal text together, in the order of the texts.

    :param items: a message each.
    :param text_of: returns the text of an item.
    :param size: most items of one request.
    """
    by_text: dict[SmsText, list[T]] = {}
    for item in items:
        by_text.setdefault(text_of(item), []).append(item)
    for some in by_text.values():
        for start in range(0, len(some), size):
            yield some[start : start + size]


def check_max_messages(count: int, max_messages: int | None) -> None:
    """
    Make sure that there are not more messages than the caller allows.

    :param count: how many there are.
    :param max_messages: most messages; None for any number.
    :raises RtiSmsInputError: there are more, or ``max_messages`` is not a whole number.
    """
    if max_messages is not None and count > check_whole_number("max_messages", max_messages):
        raise RtiSmsInputError(
            f"There are {count} messages, more than max_messages={max_messages}. Nothing was sent. Check the table, or "
            "raise max_messages."
        )


def check_max_parts_total(messages: Sequence[Message], max_parts_total: int | None) -> int:
    """
    Make sure that all messages together do not take more parts than the caller allows.

    :param messages: all messages.
    :param max_parts_total: most parts of all messages together; None for any number.
    :return: how many parts they take.
    :raises RtiSmsInputError: they take more, or ``max_parts_total`` is not a whole number.
    """
    total = sum(message.text.parts for message in messages)
    if max_parts_total is not None and total > check_whole_number("max_parts_total", max_parts_total):
        raise RtiSmsInputError(
            f"{len(messages)} messages take {total} parts, more than max_parts_total={max_parts_total}. Nothing was "
            "sent. Shorten the texts, or raise max_parts_total."
        )
    return total
