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
import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.values.secret import Secret

#: No request for the message has gone out.
NOT_SENT = Submission(SendOutcome.NOT_SENT)
#: No request for the message goes out, since its recipient is on the list of numbers that are never texted.
EXCLUDED = Submission(SendOutcome.EXCLUDED)
#: A request has gone out, and it is not known what came of it.
UNCERTAIN = Submission(SendOutcome.UNCERTAIN)

#: Changes when an older release would misread the head, or the entries.
HEAD_VERSION = 2
VERSION = 1
_HEAD = "rtisms_send"
_DERIVATION_ROUNDS = 100_000
#: A digest: first that of the message, then that of its recipient.
_MESSAGE_CHARACTERS = 20
_DIGEST_CHARACTERS = 32
#: Where the head is missing, one of the first entries shows that there has been one.
_PROBED_ENTRIES = 3
#: A journal that has lost so many entries is not searched further.
_MOST_MISSING = 1000


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

    The store holds a head, ``{"version", "salt", "size", "begun": {number: entry}, "has_hole"}``, and under consecutive
    keys one entry per window of messages: ``{"version", "key_id", "to": [digest, ...], "results": null | [record |
    null, ...], "at", "check"}``. A null in the results means that the response was lost. "at" is when the entry was
    written; older releases wrote none. The check is a digest of the number, the messages and the results. An entry that
    stands under another's key, or is not whole, is a hole.

    :meth:`begin` counts a new entry in the head and puts it there, in one write. :meth:`commit` writes it under its own
    key. So wherever a process dies, each number below ``size`` has an entry, under its key or in the head. If it has
    none, or if there is an entry that the head does not count, then something was lost: the journal has a hole. Heads
    of version 1 have no count. Their journal ends at the first number without an entry.

    :param task: names the task instance, so that its messages have the same digests in each journal of it, for its
        ledger; None for a salt at random.
    """

    def __init__(
        self,
        store: Store,
        client_secret: Secret[str],
        clock: Callable[[], float] = time.time,
        *,
        task: str | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        #: By message, as everything here: what came of it last, or that it was submitted.
        self._results: dict[str, Submission] = {}
        #: Requests for a message from the first one whose response was lost, that one included.
        self._requests_in_doubt: Counter[str] = Counter()
        #: When the response about a message came, ISO 8601 in UTC.
        self._moments: dict[str, str] = {}
        self._open: dict[int, frozenset[str]] = {}
        self._recipients: dict[str, str] = {}
        self._renamed: frozenset[str] = frozenset()
        #: By the id of another key: the requests that have sent a message, or may have.
        self._foreign: dict[str, Counter[str]] = {}
        self._foreign_submitted: set[str] = set()
        head = store.get(_HEAD)
        is_new = head is None
        if is_new:
            salt = secrets.token_hex(16) if task is None else hashlib.sha256(task.encode()).hexdigest()[:32]
            head = {"version": HEAD_VERSION, "salt": salt, "size": 0, "begun": {}, "has_hole": False}
        self._salt, expected, self._begun, self._has_hole = _parse_head(head)
        key = hashlib.pbkdf2_hmac(
            "sha256", client_secret.get_secret_value().encode(), bytes.fromhex(self._salt), _DERIVATION_ROUNDS
        )
        self._mac = hmac.new(key, digestmod=hashlib.sha256)  # which shows the key to nobody
        self._key_id = self.digest("check")
        self._size = self._load(expected, is_new)
        #: Whether no attempt has begun to send, as far as the store knows.
        self.is_new = is_new and not self._has_hole
        #: The most requests that any message got with other client secrets.
        self._foreign_requests = sum(max(requests.values()) for requests in self._foreign.values())
        #: Entries of an earlier process that stand in the head, and under no key of their own yet.
        self._left = dict(self._begun)
        if is_new:
            self._write_head(self._size, {})

    def digest(self, key: str, recipient: str | None = None) -> str:
        """
        Return the digest under which the journal knows a message; costly enough to keep.

        :param key: identifies the message: its reference or its recipient.
        :param recipient: identifies its recipient; None if the key does.
        """
        of_message = self._hmac(key)
        of_recipient = of_message if recipient is None else self._hmac(recipient)
        return of_message[:_MESSAGE_CHARACTERS] + of_recipient[_MESSAGE_CHARACTERS:_DIGEST_CHARACTERS]

    def status_of(self, digest: str) -> Submission:
        """Return ``submitted`` if a message ever was, ``uncertain`` if it may have been sent, else what came last."""
        known = self._results.get(digest[:_MESSAGE_CHARACTERS], NOT_SENT)
        if known.outcome is SendOutcome.SUBMITTED:
            return known
        return UNCERTAIN if self.requests_in_doubt(digest) else known

    def moment_of(self, digest: str) -> str | None:
        """Return when the response about a message came, ISO 8601 in UTC; None if none did, or if it is not known."""
        return self._moments.get(digest[:_MESSAGE_CHARACTERS])

    def requests_in_doubt(self, digest: str) -> int:
        """
        Return how many requests there were for a message since one may have sent it, that one included.

        Those that the journal cannot match with a message count for each message: as one in a hole or under another
        reference; with another client secret as many as any message got.
        """
        message = digest[:_MESSAGE_CHARACTERS]
        unmatched = max(self._foreign_requests, self._has_hole, message in self._renamed)
        return unmatched + self._requests_in_doubt[message] + sum(message in to for to in self._open_entries())

    def _open_entries(self) -> tuple[frozenset[str], ...]:
        return tuple(self._open.values())  # a copy, since another thread may begin or commit an entry meanwhile

    def match(self, digests: Iterable[str]) -> list[Submission]:
        """
        Compare the messages of this attempt with those of earlier ones.

        A message that the journal does not know, or that is in doubt, counts as renamed if the vendor got, or may have
        got, another message to its recipient that this attempt no longer has. It is uncertain then.
        """
        present = {digest[:_MESSAGE_CHARACTERS]: digest[_MESSAGE_CHARACTERS:] for digest in digests}
        others = {message: self.status_of(message) for message in self._recipients.keys() - present.keys()}
        vanished = {message: one for message, one in others.items() if one.is_submitted or one.is_uncertain}
        to = {self._recipients[message] for message in vanished}
        self._renamed = frozenset(
            message
            for message, recipient in present.items()
            if recipient in to and (message not in self._results or self.requests_in_doubt(message))
        )
        return list(vanished.values())

    def reasons_for_doubt(self) -> str:
        """Return in sentences why it is not known whether messages were sent."""
        foreign = {message for requests in self._foreign.values() for message in requests}
        in_doubt = {*self._requests_in_doubt, *(message for to in self._open_entries() for message in to)}
        renamed = sum(not self.status_of(message).is_submitted for message in self._renamed)
        reasons = []
        if self._has_hole:
            reasons.append(
                "A part of the journal of this task is missing in the task state store, so it is not known which "
                "messages this task has sent."
            )
        elif foreign:
            reasons.append(
                f"This task has recorded messages with another client secret: {len(self._foreign_submitted)} "
                f"submitted, {len(foreign - self._foreign_submitted)} uncertain. It is not known which of the present "
                "messages they are."
            )
        if renamed:
            reasons.append(
                f"Messages with a new reference: {renamed}. Another message to the same recipient, which is no longer "
                "among the messages, was sent by this task, or may have been. If it is the same message, restore its "
                "reference, and the journal recognizes it."
            )
        if any(not self._results.get(message, NOT_SENT).is_submitted for message in in_doubt):
            reasons.append(
                "The response to a request was lost, or the worker stopped before it came, so some messages may or may "
                "not have been sent."
            )
        return " ".join(reasons)

    def begin(self, digests: Sequence[str]) -> int:
        """Record that requests for these messages are about to go out. They are uncertain until :meth:`commit`."""
        with self._lock:
            while self._left:
                number, entry = next(iter(self._left.items()))
                self._store.set(_entry_key(number), entry)
                del self._left[number], self._begun[number]
            number, entry = self._size, self._entry(self._size, digests, None)
            self._write_head(number + 1, {**self._begun, number: entry})
            self._size, self._begun[number] = number + 1, entry
            self._apply(number, entry)
        return number

    def commit(self, number: int, results: Mapping[str, Submission | None]) -> None:
        """Record what came of the messages of an entry, by digest; None where the response was lost."""
        entry = self._entry(number, list(results), list(results.values()))
        with self._lock:
            self._store.set(_entry_key(number), entry)
            self._begun.pop(number, None)
            self._apply(number, entry)

    def _hmac(self, key: str) -> str:
        mac = self._mac.copy()
        mac.update(key.encode())
        return mac.hexdigest()

    def _entry(
        self, number: int, digests: Sequence[str], results: Sequence[Submission | None] | None
    ) -> dict[str, Any]:
        records = None if results is None else [None if one is None else one.to_record() for one in results]
        check = _check_of(number, list(digests), records)
        entry = {"version": VERSION, "key_id": self._key_id, "to": list(digests), "results": records, "check": check}
        return {**entry, "at": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")}

    def _write_head(self, size: int, begun: Mapping[int, Any]) -> None:
        head = {"version": HEAD_VERSION, "salt": self._salt, "size": size, "has_hole": self._has_hole}
        self._store.set(_HEAD, {**head, "begun": {str(number): entry for number, entry in begun.items()}})

    def _load(self, expected: int | None, is_new: bool) -> int:
        """Read all entries, find the holes, and return the number of the next entry."""
        number = missing = 0
        least = _PROBED_ENTRIES if is_new else expected or 0
        while (entry := self._store.get(_entry_key(number))) is not None or number < least:
            if entry is not None:
                self._begun.pop(number, None)
            elif (entry := self._begun.get(number)) is None:
                missing += 1
                _check_form(missing < _MOST_MISSING)
            if entry is not None:
                self._apply(number, entry)
            number += 1
        if is_new and missing == number:
            number = missing = 0
        self._has_hole |= expected is not None and (missing > 0 or number > expected)
        return number

    def _apply(self, number: int, entry: Any) -> None:
        _check_form(isinstance(entry, dict) and entry.get("version") == VERSION)
        try:
            to, records = list(entry["to"]), entry["results"]
            fits = entry.get("check") in (None, _check_of(number, to, records))  # 0.1.0.dev1 wrote none
            given = [None] * len(to) if records is None else records
            results = [None if record is None else Submission.from_record(record) for record in given]
            is_readable = hmac.compare_digest(entry["key_id"], self._key_id)
            messages = {digest[:_MESSAGE_CHARACTERS]: digest[_MESSAGE_CHARACTERS:] for digest in to}
            pairs = list(zip(messages, results, strict=True))
        except (KeyError, TypeError, ValueError):
            _check_form(False)
        self._open.pop(number, None)
        if not fits:
            self._has_hole = True
            return
        if not is_readable:
            for message, result in pairs:
                if result is None or result.is_submitted or result.is_uncertain:
                    self._foreign.setdefault(entry["key_id"], Counter())[message] += 1
                    if result is not None and result.is_submitted:
                        self._foreign_submitted.add(message)
            return
        self._recipients.update(messages)
        if records is None:
            self._open[number] = frozenset(messages)
            return
        for message, result in pairs:
            outcome = SendOutcome.UNCERTAIN if result is None else result.outcome
            is_in_doubt = self._requests_in_doubt[message] > 0 and outcome is not SendOutcome.NOT_SENT
            if is_in_doubt or outcome is SendOutcome.UNCERTAIN:
                self._requests_in_doubt[message] += 1
            was_submitted = self._results.get(message, NOT_SENT).outcome is SendOutcome.SUBMITTED
            if result is not None and (outcome is SendOutcome.SUBMITTED or not was_submitted):
                self._results[message] = result
                if isinstance(moment := entry.get("at"), str) and result.outcome is not SendOutcome.NOT_SENT:
                    self._moments[message] = moment


def _parse_head(head: Any) -> tuple[str, int | None, dict[int, Any], bool]:
    """Return the salt, the number of entries (None: not counted), the entries in the head, and ``has_hole``."""
    _check_form(isinstance(head, dict))
    version, salt = head.get("version"), head.get("salt")
    _check_form(isinstance(salt, str) and re.fullmatch("[0-9a-f]{32}", salt) is not None)
    if version == 1:
        return salt, None, {}, False
    size, begun, has_hole = head.get("size"), head.get("begun"), head.get("has_hole")
    _check_form(version == HEAD_VERSION and (type(size), type(begun), type(has_hole)) == (int, dict, bool))
    _check_form(all(str(number).isdecimal() and int(number) < size for number in begun))
    return salt, size, {int(number): entry for number, entry in begun.items()}, has_hole


def _check_form(is_known: bool) -> None:
    if not is_known:
        raise RtiSmsConfigError(
            "The task state store holds a journal of sent messages that this release of airflow-provider-rtisms cannot "
            "read. This attempt has sent nothing. Run the task with the release that began to send. Or delete the "
            "state store of the task, if all messages may be sent again."
        )


def _check_of(number: int, to: list[str], records: list[Any] | None) -> str:
    """Return a digest of what an entry holds, and of its number."""
    return hashlib.sha256(json.dumps([number, to, records], sort_keys=True).encode()).hexdigest()[:16]


def _entry_key(number: int) -> str:
    return f"{_HEAD}_{number}"
