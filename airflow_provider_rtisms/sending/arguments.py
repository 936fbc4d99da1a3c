"""Check the arguments of a send, and make the outbox that sends. Nothing has left the machine when an error comes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.recipients import parse_recipients
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.sending.journal import MemoryStore, SendJournal, Store
from airflow_provider_rtisms.sending.message import (
    Message,
    check_max_messages,
    check_max_parts_total,
    to_everybody,
)
from airflow_provider_rtisms.sending.outbox import Outbox
from airflow_provider_rtisms.sending.rows import check_rows, rows_of_argument
from airflow_provider_rtisms.tables import Row


def make_outbox(
    settings: ApiSettings,
    conn_id: str,
    *,
    sender: str | None = None,
    store: Store | None = None,
    max_parts_total: int | None = None,
    recipients: Any = None,
    text: Any = None,
    messages: Any = None,
    rows: Iterable[Row] | None = None,
    charset: int | None = None,
    max_parts: int | None = None,
    max_messages: int | None = None,
    **options: Any,
) -> Outbox:
    """
    Check the arguments of a send.

    :param settings: of the Connection.
    :param conn_id: name of the Connection, for errors.
    :param sender: as allowed for the account; default that of the settings.
    :param store: where to record what is sent; default in memory.
    :param max_parts_total: most parts of all messages together.
    :param recipients: phone numbers; with ``text``.
    :param text: the text for all recipients.
    :param messages: instead of these two, dicts; see
        :func:`~airflow_provider_rtisms.sending.rows.rows_of_argument`.
    :param rows: instead of these three, rows of a file or a query.
    :param charset: 0, 1, 6 or 8; None picks by each text.
    :param max_parts: most parts that one SMS may take.
    :param max_messages: most messages.
    :param options: other options of :class:`~airflow_provider_rtisms.sending.outbox.Outbox`.
    :raises RtiSmsInputError: a value cannot be sent.
    """
    chosen, source = _choose_sender(sender, settings, conn_id)
    has_text = recipients is not None or text is not None
    if has_text + (messages is not None) + (rows is not None) != 1:
        raise RtiSmsInputError("Give either recipients and text, or messages, or a table of messages.")
    if has_text:
        checked = _check_recipients(recipients, text, charset, max_parts, max_messages)
    else:
        table = rows_of_argument(messages) if rows is None else rows
        checked = check_rows(table, charset=charset, max_parts=max_parts, max_messages=max_messages)
    check_max_parts_total(checked, max_parts_total)
    journal = SendJournal(MemoryStore() if store is None else store, settings.client_secret)
    return Outbox(checked, chosen, journal, sender_source=source, **options)


def _check_recipients(
    recipients: Any, text: Any, charset: int | None, max_parts: int | None, max_messages: int | None
) -> list[Message]:
    checked = to_everybody(parse_recipients(recipients), SmsText.of(text, charset, max_parts))
    check_max_messages(len(checked), max_messages)
    return checked


def _choose_sender(sender: str | None, settings: ApiSettings, conn_id: str) -> tuple[str, str]:
    """Return the sender, and where it comes from."""
    if sender is not None:
        return sender, "the argument 'sender'"
    if settings.sender is None:
        raise RtiSmsInputError(
            f"There is no sender: give the argument 'sender', or set extra 'sender' of the Connection {conn_id}. "
            "Nothing was sent."
        )
    return settings.sender, f"extra 'sender' of the Connection {conn_id}"
