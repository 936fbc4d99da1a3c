"""
The write-ahead record of a send: whom a request is about to reach, then what was told of it.

It outlives the process that writes it where its store does, so that the next try of a task knows which recipients have
been sent to, and of which it cannot be known. It holds neither numbers nor texts: a recipient stands there as a keyed
digest (HMAC-SHA-256, RFC 2104). A plain or salted one would not hide it, because there are few enough phone numbers to
try them all; the key is derived from the client secret, which is not in the database beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

from airflow_provider_rtisms.api.models import Submission

log = logging.getLogger(__name__)

#: No request to the recipient has gone out.
NOT_SENT = Submission("not_sent")
#: A request went out, or was about to, and what came of it is not known.
UNCERTAIN = Submission("uncertain")

_HEAD_KEY = "rtisms_send"
_DERIVATION_ROUNDS = 100_000
_DIGEST_CHARACTERS = 32


class Store(Protocol):
    """Keeps JSON values by key, like Airflow's task state store."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default where there is none."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value; it must be safe when this returns."""


class MemoryStore(dict[str, Any]):
    """A store that ends with the process."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self[key] = value


class SendJournal:
    """
    What is known of the recipients of one task instance, in all its attempts.

    One entry per request, under consecutive keys: ``{"to": [digest, ...], "told": null | [submission, ...]}``. An entry
    without ``told`` is a request whose response was never recorded.

    :param store: where the entries are.
    :param secret: the client secret. Under another one the recipients of earlier entries cannot be recognized, so that
        every recipient is uncertain.
    """

    def __init__(self, store: Store, secret: str) -> None:
        self._store = store
        self._told: dict[str, Submission] = {}
        self._open: dict[int, frozenset[str]] = {}
        self._size = 0
        self._is_readable = True
        head = store.get(_HEAD_KEY)
        salt = head["salt"] if head else secrets.token_hex(16)
        self._key = hashlib.pbkdf2_hmac("sha256", secret.encode(), bytes.fromhex(salt), _DERIVATION_ROUNDS)
        check = self._digest("check")
        if not head:
            store.set(_HEAD_KEY, {"salt": salt, "check": check})
            return
        while (entry := store.get(_entry_key(self._size))) is not None:
            self._learn(self._size, entry)
            self._size += 1
        if self._size and not hmac.compare_digest(head["check"], check):
            self._is_readable = False
            log.warning(
                "The record of what was sent was written under another client secret: whom its %d requests reached "
                "cannot be told, so every recipient is uncertain",
                self._size,
            )

    def known(self, recipient: str) -> Submission:
        """
        Return what is known of a recipient.

        :return: what was told last, in this try or an earlier one; ``submitted`` if it ever was; ``uncertain`` where a
            message may have gone out; ``not_sent`` where none has.
        """
        digest = self._digest(recipient)
        told = self._told.get(digest, NOT_SENT)
        if told.is_submitted:
            return told
        if not self._is_readable or any(digest in digests for digests in self._open.values()):
            return UNCERTAIN
        return told

    def open(self, recipients: Sequence[str]) -> int:
        """
        Write down that a request to these recipients is about to go out.

        :return: the number of the entry. While it is open, they are uncertain.
        """
        number = self._size
        self._write(number, recipients, None)
        self._size += 1
        return number

    def close(self, number: int, recipients: Sequence[str], told: Sequence[Submission]) -> None:
        """
        Write down what was told of each recipient of an entry.

        :param told: by position; empty where the request surely was not acted on.
        """
        self._write(number, recipients if told else (), told)

    def _write(self, number: int, recipients: Sequence[str], told: Sequence[Submission] | None) -> None:
        entry = {
            "to": [self._digest(recipient) for recipient in recipients],
            "told": None if told is None else [submission.to_record() for submission in told],
        }
        self._store.set(_entry_key(number), entry)
        self._learn(number, entry)

    def _learn(self, number: int, entry: dict[str, Any]) -> None:
        self._open.pop(number, None)
        if entry["told"] is None:
            self._open[number] = frozenset(entry["to"])
            return
        for digest, told in zip(entry["to"], entry["told"], strict=True):
            known = self._told.get(digest, NOT_SENT)
            submission = Submission(**told)
            # Once submitted is submitted, and a doubt is not cleared by a later refusal.
            if _weight(submission) >= _weight(known):
                self._told[digest] = submission

    def _digest(self, value: str) -> str:
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()[:_DIGEST_CHARACTERS]


def _entry_key(number: int) -> str:
    return f"{_HEAD_KEY}_{number}"


def _weight(submission: Submission) -> int:
    return 2 if submission.is_submitted else 1 if submission.is_uncertain else 0
