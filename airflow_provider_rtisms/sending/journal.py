"""
The write-ahead journal of a send: whom the next requests are for, then what came of them.

The journal outlives the process if its store does, so that the next attempt of a task knows which messages have been
sent and which may have been sent. It holds neither numbers nor texts nor references. Each message stands there as a
keyed digest (HMAC-SHA-256, RFC 2104). A plain or a salted digest would not protect a number, because there are few
enough phone numbers to try them all. The key is derived from the client secret, which is not in the database beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.values.secret import Secret

log = logging.getLogger(__name__)

#: No request for the message has gone out.
NOT_SENT = Submission(SendOutcome.NOT_SENT)
#: A request has gone out, and it is not known what came of it.
UNCERTAIN = Submission(SendOutcome.UNCERTAIN)

#: Changes when entries of an older release can no longer be read.
VERSION = 1
_HEAD = "rtisms_send"
_DERIVATION_ROUNDS = 100_000
_DIGEST_CHARACTERS = 32


class Store(Protocol):
    """Keeps JSON values by key, like Airflow's task state store."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default where there is none."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value; it is safe when this returns."""


class MemoryStore(dict[str, Any]):
    """A store that ends with the process."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self[key] = value


class SendJournal:
    """
    What is known of the messages of one task instance, in all its attempts.

    The store holds one entry per window of messages, under consecutive keys: ``{"version", "key_id", "to": [digest,
    ...], "results": null | [record | null, ...]}``. ``results`` is null from :meth:`begin` to :meth:`commit`; a null
    inside means that the response was lost.

    :param store: where the entries are.
    :param client_secret: the client secret. The messages of entries that were written with another one cannot be
        recognized, so every message that is not known to be submitted is uncertain then.
    :raises RtiSmsConfigError: the store holds entries of a form that this release cannot read.
    """

    def __init__(self, store: Store, client_secret: Secret[str]) -> None:
        self._store = store
        self._results: dict[str, Submission] = {}
        self._lock = threading.Lock()
        self._open: dict[int, frozenset[str]] = {}
        #: Requests for a message from the first one whose response was lost, that one included.
        self._requests_in_doubt: Counter[str] = Counter()
        self._unreadable = 0
        self._size = 0
        head = store.get(_HEAD)
        _check_form(head is None or (isinstance(head, dict) and head.get("version") == VERSION))
        salt = head.get("salt") if head else secrets.token_hex(16)
        _check_form(isinstance(salt, str) and re.fullmatch("[0-9a-f]{32}", salt) is not None)
        self._key = Secret(
            hashlib.pbkdf2_hmac(
                "sha256", client_secret.get_secret_value().encode(), bytes.fromhex(salt), _DERIVATION_ROUNDS
            )
        )
        self._key_id = self.digest("check")
        if not head:
            store.set(_HEAD, {"version": VERSION, "salt": salt})
            return
        while (entry := store.get(_entry_key(self._size))) is not None:
            self._apply(self._size, entry)
            self._size += 1
        if self._unreadable:
            log.warning(
                "%d requests of an earlier attempt were recorded with another client secret. It is not known which "
                "messages they sent, so every message of this task is uncertain",
                self._unreadable,
            )

    def digest(self, key: str) -> str:
        """
        Return the digest under which the journal knows a message; costly enough to keep.

        :param key: identifies the message: its reference or its recipient.
        """
        return hmac.new(self._key.get_secret_value(), key.encode(), hashlib.sha256).hexdigest()[:_DIGEST_CHARACTERS]

    def status_of(self, digest: str) -> Submission:
        """
        Return what is known of a message.

        :return: ``submitted`` if it ever was; ``uncertain`` if it may have been sent; otherwise what came last.
        """
        known = self._results.get(digest, NOT_SENT)
        if known.is_submitted:
            return known
        return UNCERTAIN if self.requests_in_doubt(digest) else known

    def requests_in_doubt(self, digest: str) -> int:
        """Return how many requests there were for a message since one may have sent it, that one included."""
        return self._requests_in_doubt[digest] + self._unreadable + sum(digest in to for to in self._open_entries())

    def _open_entries(self) -> tuple[frozenset[str], ...]:
        return tuple(self._open.values())  # a copy, since another thread may begin or commit an entry meanwhile

    def others(self, digests: Iterable[str]) -> list[Submission]:
        """
        Return what is known of messages that earlier attempts have sent, or may have sent, and this one does not have.

        :param digests: the messages of this attempt.
        """
        known = {*self._results, *self._requests_in_doubt, *(digest for to in self._open_entries() for digest in to)}
        others = (self.status_of(digest) for digest in known.difference(digests))
        return [one for one in others if one.is_submitted or one.is_uncertain]

    def begin(self, digests: Sequence[str]) -> int:
        """
        Record that requests for these messages are about to go out. They are uncertain until :meth:`commit`.

        :return: the number of the entry.
        """
        number = self._size
        self._write(number, digests, None)
        self._size += 1
        return number

    def commit(self, number: int, results: Mapping[str, Submission | None]) -> None:
        """
        Record what came of the messages of an entry.

        :param number: of the entry.
        :param results: by digest; None where the response was lost.
        """
        self._write(number, list(results), list(results.values()))

    def _write(self, number: int, digests: Sequence[str], results: Sequence[Submission | None] | None) -> None:
        records = None if results is None else [None if one is None else one.to_record() for one in results]
        entry = {"version": VERSION, "key_id": self._key_id, "to": list(digests), "results": records}
        with self._lock:
            self._store.set(_entry_key(number), entry)
            self._apply(number, entry)

    def _apply(self, number: int, entry: Any) -> None:
        _check_form(isinstance(entry, dict) and entry.get("version") == VERSION)
        try:
            to, results = list(entry["to"]), _parse_results(entry["results"])
            is_readable = hmac.compare_digest(entry["key_id"], self._key_id)
            _check_form(results is None or len(results) == len(to))
        except (KeyError, TypeError, ValueError):
            _check_form(False)
        self._open.pop(number, None)
        if not is_readable:
            self._unreadable += results is None or any(_may_be_sent(result) for result in results)
        elif results is None:
            self._open[number] = frozenset(to)
        else:
            for digest, result in zip(to, results, strict=True):
                if self._requests_in_doubt[digest] or result is None or result.is_uncertain:
                    self._requests_in_doubt[digest] += 1
                was_submitted = self._results.get(digest, NOT_SENT).is_submitted
                if result is not None and (result.is_submitted or not was_submitted):
                    self._results[digest] = result


def _parse_results(records: Any) -> list[Submission | None] | None:
    if records is None:
        return None
    return [None if record is None else Submission.from_record(record) for record in records]


def _may_be_sent(result: Submission | None) -> bool:
    return result is None or result.is_submitted or result.is_uncertain


def _check_form(is_known: bool) -> None:
    if not is_known:
        raise RtiSmsConfigError(
            "The task state store holds a journal of sent messages that this release of airflow-provider-rtisms cannot "
            "read. This attempt has sent nothing. Run the task with the release that began to send. Or delete the "
            "state store of the task, if all messages may be sent again."
        )


def _entry_key(number: int) -> str:
    return f"{_HEAD}_{number}"
