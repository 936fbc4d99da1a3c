"""
Private. The ledger: a row for each message that was sent, which details complete later.

A send writes what came of a message: its reference, its submission, the task. A refresh asks for the details of the
rows that can still change. Numbers and texts are not in the table.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.values.arguments import plural
from airflow_provider_rtisms.bulk.store import STORAGE_ERRORS, repeat
from airflow_provider_rtisms.sending.journal import UNCERTAIN
from airflow_provider_rtisms.sql.databases import get_hook
from airflow_provider_rtisms.sql.table import SqlTable, layout_of_sends, open_table

if TYPE_CHECKING:
    from airflow_provider_rtisms.sending.outbox import Outbox, SentMessage

log = logging.getLogger(__name__)

#: Rows collect for so many seconds, or until there are so many, before they are written.
FLUSH_EVERY = 2.0
FLUSH_ROWS = 2000
#: Seconds until rows that could not be written are tried again, while the send goes on.
PAUSE_AFTER_FAILURE = 30.0
#: Seconds that a write may wait for a lock while the send, or the end of a task that failed, waits for it.
LOCK_WAIT = 5.0


class Ledger:
    """
    Writes a row for each message of a task, while it is sent and at the end.

    While a send goes on, a row that cannot be written waits, and the send goes on. What a killed process has not
    written, the journal knows, and the next attempt of the task writes it.

    :param table: checked, with the layout of sends.
    :param task: ``dag_id``, ``task_id``, ``run_id`` and ``map_index`` of the task.
    """

    def __init__(self, table: SqlTable, task: Mapping[str, Any]) -> None:
        self._table = table
        self._task = task
        self._lock = Lock()
        #: Held while rows are written, so that one window of the send waits for the database, and the other goes on.
        self._writing = Lock()
        self._pending: dict[str, dict[str, Any]] = {}
        self._flushed_at = time.monotonic()
        self._retry_at = 0.0
        self._began_at = datetime.now(UTC).isoformat(timespec="seconds")
        #: What the keys of the rows begin with. Each send outside of a DAG run has rows of its own, and remembers none.
        is_in_run = task["run_id"] is not None
        self._scope = list(task.values()) if is_in_run else [secrets.token_hex(16)]
        sent = repeat(f"Reading the {table}", lambda: table.read_sent(task)) if is_in_run else {}
        #: The messages that the table had as sent when this attempt began, by key.
        self._known = {
            key: UNCERTAIN if one is None else Submission(SendOutcome.SUBMITTED, "submitted", one)
            for key, one in sent.items()
        }
        #: What the table has, by key: the columns that change.
        self._written = {key: _changing(submission.to_record()) for key, submission in self._known.items()}

    def __str__(self) -> str:
        return f"the {self._table}"

    def remind(self, outbox: Outbox) -> None:
        """
        Keep a send from repeating what the table has as sent and the journal does not know, such as after a clear on an
        Airflow that keeps no journal.
        """
        outbox.recall(lambda one: self._known.get(self._key(one)))

    @contextmanager
    def following(self, outbox: Outbox) -> Iterator[None]:
        """
        Write what the journal knows of earlier attempts, follow a send, and write the rest at its end.

        Rows of messages to come are written and undone first, so that a table that refuses them stops the send.

        :raises RtiSmsStorageError: the table lacks rows, and a person has to change something first.
        :raises RtiSmsStorageUnavailableError: the table lacks rows; the next attempt of the task writes them.
        """
        sent = outbox.sent_messages()
        if due := [one for one in sent if one.submission.outcome is SendOutcome.NOT_SENT]:
            lines = self._rehearsal(due)
            repeat(f"Checking {self}", lambda: self._table.load(lines, commit=False))
        self._add(one for one in sent if one.submission.outcome is not SendOutcome.NOT_SENT)
        repeat(f"Writing {self}", self._flush)
        outbox.on_sent = self.note
        try:
            yield
        except BaseException:
            if not outbox.is_journal_lost:
                with suppress(Exception):  # the error of the send matters more; the next attempt writes
                    self._add(outbox.sent_messages())
                    self._flush(LOCK_WAIT)
            raise
        self._add(outbox.sent_messages())
        try:
            repeat(f"Writing {self}", self._flush)
        except STORAGE_ERRORS as error:
            raise error.with_context(f"Without a row yet: {plural(len(self._pending), 'message')}.") from None
        log.info("%s in %s", plural(len(self._written), "row of this task is", "rows of this task are"), self)

    def note(self, sent: Sequence[SentMessage]) -> None:
        """Take messages whose response has come, and write rows now and then."""
        self._add(sent)
        now = time.monotonic()
        is_due = len(self._pending) >= FLUSH_ROWS or now - self._flushed_at >= FLUSH_EVERY
        if not is_due or now < self._retry_at or self._writing.locked():
            return
        try:
            self._flush(LOCK_WAIT)
        except STORAGE_ERRORS as error:
            reason = str(error).partition(". ")[0]
            log.warning("%s. The send goes on. To be written later: %s", reason, plural(len(self._pending), "row"))
            self._retry_at = time.monotonic() + PAUSE_AFTER_FAILURE
        self._flushed_at = time.monotonic()

    def _add(self, sent: Iterable[SentMessage]) -> None:
        rows = dict(map(self._row, sent))
        with self._lock:
            self._pending |= {key: row for key, row in rows.items() if self._written.get(key) != _changing(row)}

    def _flush(self, lock_wait: float = math.inf) -> None:
        with self._writing:
            with self._lock:
                rows = dict(self._pending)
            if rows:
                self._table.load([json.dumps(row).encode() for row in rows.values()], lock_wait=lock_wait)
            with self._lock:
                self._written |= {key: _changing(row) for key, row in rows.items()}
                self._pending = {key: row for key, row in self._pending.items() if rows.get(key) is not row}

    def _rehearsal(self, due: Sequence[SentMessage]) -> list[bytes]:
        """Return the rows that a column refuses first: of the longest reference, and of the rarest characters."""
        longest = max(due, key=lambda one: len(one.message.reference or ""))
        rarest = max(due, key=lambda one: max(one.message.reference or "", default=""))
        submission = {"outcome": "submitted", "status": "submitted"}
        rows = dict(self._row(one) for one in (longest, rarest))
        return [
            json.dumps({**row, **submission, "submission_id": f"{number:020}"}).encode()
            for number, row in enumerate(rows.values())
        ]

    def _key(self, sent: SentMessage) -> str:
        # The digest has the client secret in its key, since a plain one of a number can be guessed.
        reference = sent.message.reference
        identity = ["digest", sent.digest] if reference is None else ["reference", reference]
        return hashlib.sha256(json.dumps([*self._scope, *identity]).encode()).hexdigest()[:32]

    def _row(self, sent: SentMessage) -> tuple[str, dict[str, Any]]:
        message, key = sent.message, self._key(sent)
        return key, {
            "message_key": key,
            "reference": message.reference,
            **sent.submission.to_record(),
            **self._task,
            "parts": message.text.parts,
            "charset": int(message.text.charset),
            "sent_at": sent.sent_at or self._began_at,
        }


def _changing(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["outcome"], row["status"], row["submission_id"]


def open_ledger(conn_id: Any, table: Any, context: Mapping[str, Any], *, create: bool) -> Ledger:
    """
    Return the ledger of a task, whose table is there and can be written.

    :param conn_id: Connection of the database.
    :param table: ``table`` or ``schema.table``.
    :param context: of the task.
    :param create: whether to make the table if it does not exist.
    :raises RtiSmsError: the table cannot take the rows. Nothing was sent.
    """
    ti = context.get("ti")
    task = {name: getattr(ti, name, None) for name in ("dag_id", "task_id", "run_id", "map_index")}
    hook = get_hook("results_conn_id", conn_id)
    return Ledger(open_table(hook, table, layout_of_sends(), create=create, field_name="results_table"), task)
