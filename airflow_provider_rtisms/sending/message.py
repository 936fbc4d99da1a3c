"""A message to one recipient, and the messages of an operator's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_rtisms.api.values.recipients import Recipient
from airflow_provider_rtisms.api.values.text import SmsText


@dataclass(frozen=True, slots=True)
class Message:
    """
    One text for one recipient. Its repr shows neither.

    :param recipient: the phone number.
    :param text: the text.
    :param reference: the caller's key of the message; None where the recipient identifies it.
    """

    recipient: Recipient
    text: SmsText
    reference: str | None = None

    @property
    def key(self) -> str:
        """What identifies the message in all attempts of its task."""
        if self.reference is None:
            return f"recipient {self.recipient.get_secret_value()}"
        return f"reference {self.reference}"


def to_everybody(recipients: Sequence[Recipient], text: SmsText) -> list[Message]:
    """
    Return the messages that send one text to many recipients.

    :param recipients: each once.
    :param text: the text.
    """
    return [Message(recipient, text) for recipient in recipients]
