"""How to send: the options of an outbox, and their limits."""

from __future__ import annotations

from typing import Literal

from airflow_provider_rtisms.api.values.arguments import check_choice, check_whole_number

OnUncertain = Literal["fail", "resend", "skip"]

#: Recipients of one request. The API documents no limit.
DEFAULT_CHUNK_SIZE = 50
#: Messages that are recorded as about to be sent, and not yet as sent; a killed worker leaves so many uncertain. Two
#: halves are under way, and each half takes two writes to the store: 32 messages for each write.
DEFAULT_WINDOW = 128
#: An entry of the journal stays below the 64 KiB at which Airflow begins to warn about values in its state store.
MAX_CHUNK_SIZE = MAX_WINDOW = 500


def check_on_uncertain(value: object) -> OnUncertain:
    """
    Return what to do with uncertain messages.

    :raises RtiSmsInputError: it is none of ``fail``, ``resend`` and ``skip``.
    """
    choices: tuple[OnUncertain, ...] = ("fail", "resend", "skip")
    return check_choice("on_uncertain", value, choices)


def check_chunk_size(value: object) -> int:
    """
    Return the most recipients of one request.

    :raises RtiSmsInputError: it is not a whole number from 1 to 500.
    """
    return check_whole_number("chunk_size", value, most=MAX_CHUNK_SIZE)


def check_window(value: object, chunk_size: int) -> int:
    """
    Return the most messages that a killed process leaves uncertain.

    :param value: None for a default that fits the chunk size.
    :param chunk_size: most recipients of one request.
    :raises RtiSmsInputError: it is not a whole number from ``chunk_size`` to 500.
    """
    if value is None:
        return min(max(DEFAULT_WINDOW, 2 * chunk_size), MAX_WINDOW)
    return check_whole_number("window", value, least=chunk_size, most=MAX_WINDOW)
