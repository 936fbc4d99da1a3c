"""
Send messages, each at most once.

The API has no idempotency key and no way to list what was sent. Nobody is texted twice all the same, because:

1. The journal records each message before its request leaves (``SendJournal.begin``), and what came of it afterwards
   (``SendJournal.commit``). Another attempt of the task reads it, and :meth:`Outbox._is_due` leaves out what was
   sent or may have been sent.
2. The client does not repeat a request on which the server may have acted. It raises RtiSmsUncertainError instead, and
   :meth:`Outbox._note_response` leaves these messages uncertain. They get another request only if ``on_uncertain`` is
   ``resend``, and then once.
3. Until a request has succeeded, requests leave one at a time. After two lost responses in a row, none leaves any more
   (:meth:`Outbox._check_not_stopped`).
4. A recipient, or a reference, stands there once: ``messages.py`` drops or refuses the second one.
5. Where the journal ends with the process, ``no_retry_after`` of the operator stops the retries of the task.

Source: docs/vendor-api.md, "Send SMS"; docs/sending-once-details.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.aio import perform_then
from airflow_provider_rtisms.api.calls import Call
from airflow_provider_rtisms.api.errors import (
    RtiSmsError,
    RtiSmsInputError,
    RtiSmsNoBalanceError,
    RtiSmsNotAcceptedError,
    RtiSmsPermanentError,
    RtiSmsSenderRefusedError,
    RtiSmsTransientError,
    RtiSmsUncertainError,
)
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.retrying import backoff
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.arguments import (
    check_choice,
    check_whole_number,
    describe_progress,
    name_some,
    plural,
)
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.sending.hours import AllowedHours
from airflow_provider_rtisms.sending.journal import EXCLUDED, NOT_SENT, MemoryStore, SendJournal, Store
from airflow_provider_rtisms.sending.messages import Message, check_messages, find_excluded
from airflow_provider_rtisms.tables import Row

log = logging.getLogger(__name__)

T = TypeVar("T")
OnUncertain = Literal["fail", "resend", "skip"]

#: How many requests a message gets in one attempt of the task, while the vendor returns ``unknown_error``.
MAX_ROUNDS = 4
#: How many requests a message gets with ``on_uncertain="resend"``, in all attempts of the task: one repetition.
MAX_REQUESTS_IN_DOUBT = 2
#: Lost responses in a row that end the sending, since each further one leaves more messages uncertain.
MAX_CONSECUTIVE_LOSSES = 2
#: Recipients of one request. The API documents no limit.
DEFAULT_CHUNK_SIZE = 50
#: Messages that are recorded as about to be sent, and not yet as sent; a killed worker leaves so many uncertain. Two
#: halves are under way, and each half takes two writes to the store: 32 messages for each write.
DEFAULT_WINDOW = 128
#: An entry of the journal stays below the 64 KiB at which Airflow begins to warn about values in its state store.
MAX_CHUNK_SIZE = MAX_WINDOW = 500
#: How many messages of each outcome an error names. People have to be asked about them, so it is high.
NAMED_IN_ERROR = 1000
#: Seconds between two lines in the log that say how far a send is.
PROGRESS_INTERVAL = 5.0

#: What a person can do about messages that are uncertain in the end.
_REMEDIES = {
    "fail": "Ask RealTime or the recipients. Then set on_uncertain to 'resend', to send the uncertain messages once "
    "more, or to 'skip', to go on without them. Then clear the task.",
    "resend": "A message that may have been sent twice is not sent again. Ask RealTime or the recipients. "
    "Set on_uncertain to 'skip', and clear the task, to go on without them. Or delete the journal of the "
    "task in the task state store, and clear the task, to send all messages again, also those that were submitted.",
}


class Client(Protocol):
    """What the outbox needs of a client."""

    async def perform(self, call: Call[T]) -> T:
        """Do one call of the API."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A message, its digest in the journal, and whether its recipient is never texted."""

    message: Message
    digest: str
    is_excluded: bool = False


class SentMessage(NamedTuple):
    """
    A message, and what is known of it.

    :param message: the message.
    :param digest: a keyed digest of its reference, or of its number if it has none, to identify it.
    :param submission: what came of it.
    :param sent_at: when the response came, ISO 8601 in UTC; None if none did.
    """

    message: Message
    digest: str
    submission: Submission
    sent_at: str | None


def make_outbox(
    settings: ApiSettings,
    conn_id: str,
    *,
    sender: str | None = None,
    store: Store | None = None,
    task: str | None = None,
    on_uncertain: OnUncertain = "fail",
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    exclude: tuple[str, Iterable[Row]] | None = None,
    hours: AllowedHours | None = None,
    **what: Any,
) -> Outbox:
    """
    Check the arguments of a send. Nothing has left the machine when an error comes.

    :param task: as for :class:`~airflow_provider_rtisms.sending.journal.SendJournal`.
    :param exclude: the rows of numbers that are never texted, and before them the name of the argument that gives them.
    :param hours: the hours in which requests may leave; None for all.
    """
    source = "the argument 'sender'"
    if sender is None:
        source = f"the field 'sender' in the extra of the Connection {conn_id}"
        if settings.sender is None:
            raise RtiSmsInputError(
                f"There is no sender: give the argument 'sender', or set {source}. Nothing was sent."
            )
        sender = settings.sender
    if what.get("default_region") is None:
        what["default_region"] = settings.default_region
    messages = check_messages(**what)
    journal = SendJournal(MemoryStore() if store is None else store, settings.client_secret, task=task)
    outbox = Outbox(
        messages,
        sender,
        journal,
        on_uncertain=on_uncertain,
        chunk_size=chunk_size,
        default_region=what["default_region"],
        hours=hours,
        sender_source=source,
    )
    if exclude is not None:
        outbox.exclude(*exclude)
    return outbox


class Outbox:
    """
    Send messages, and keep the journal of it.

    Messages with the same text share requests of up to ``chunk_size`` recipients. Requests run in parallel, as many as
    the client allows.

    :param window: how many messages at most are recorded as about to be sent, and not yet as sent.
    :param default_region: of numbers without + that are excluded.
    :param hours: the hours in which requests may leave; None for all.
    :param sender_source: where the sender comes from, for the error that it is refused.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        sender: str,
        journal: SendJournal,
        *,
        on_uncertain: OnUncertain = "fail",
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        window: int | None = None,
        default_region: str | None = None,
        hours: AllowedHours | None = None,
        sender_source: str = "the argument 'sender'",
        pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        choices: tuple[OnUncertain, ...] = ("fail", "resend", "skip")
        self._on_uncertain = check_choice("on_uncertain", on_uncertain, choices)
        self._chunk_size = check_whole_number("chunk_size", chunk_size, most=MAX_CHUNK_SIZE)
        self._window = min(max(DEFAULT_WINDOW, 2 * chunk_size), MAX_WINDOW) if window is None else window
        self._parallel_windows = 2 if self._window >= 2 * chunk_size else 1
        self._sender = endpoints.check_sender(sender)
        self._sender_source = sender_source
        self._default_region = default_region
        self._hours = hours
        self._pause = pause
        self._in_thread = in_thread
        #: The messages, in their order.
        self.messages = list(messages)
        self._journal = journal
        self._items = _items_of(messages, journal)
        #: What earlier attempts have sent, or may have sent, and the caller no longer has.
        self._vanished = journal.match([item.digest for item in self._items])
        #: Submissions of responses that could not be matched with recipients.
        self._unmatched: list[Submission] = []
        #: Requests that have gone out and that the server did not provably ignore.
        self._requests = 0
        self._consecutive_losses = 0
        #: Until a request has succeeded, requests go out one at a time, so that few messages become uncertain.
        self._is_probing = True
        #: The error that ends the sending once the requests under way are complete.
        self._fatal: RtiSmsError | None = None
        #: Whether the journal refused a write. Then another attempt may have taken over.
        self.is_journal_lost = False
        #: Called in a thread after each commit of a window, with its messages.
        self.on_sent: Callable[[Sequence[SentMessage]], None] | None = None
        self._progress = _Progress(len(self._items))

    def exclude(self, field_name: str, rows: Iterable[Row]) -> None:
        """
        Read the numbers that are never texted, in place of those that were read before.

        What has been submitted to them stays submitted.

        :param field_name: the argument that gives them.
        :param rows: as for :func:`~airflow_provider_rtisms.sending.messages.find_excluded`.
        :raises RtiSmsInputError: the list is empty, or has a value that is no phone number.
        """
        excluded = find_excluded(rows, field_name, self.messages, self._default_region)
        self._items = [
            replace(item, is_excluded=item.message.recipient.get_secret_value() in excluded) for item in self._items
        ]

    def recall(self, known: Callable[[SentMessage], Submission | None]) -> None:
        """
        Take from another memory, such as a ledger, what the journal has lost, and record it in the journal.

        :param known: says whether a message was submitted, or is uncertain; None if it knows nothing of it.
        """
        found: dict[str, Submission | None] = {}
        for item, sent in zip(self._items, self.sent_messages(), strict=True):
            one = known(sent)
            if one is not None and not sent.submission.is_submitted and one != sent.submission:
                found[item.digest] = one if one.is_submitted else None
        digests = list(found)
        for start in range(0, len(digests), MAX_WINDOW):
            part = digests[start : start + MAX_WINDOW]
            self._journal.commit(self._journal.begin(part), {digest: found[digest] for digest in part})

    @property
    def is_journal_new(self) -> bool:
        """Whether no attempt has begun to send, as far as the journal knows."""
        return self._journal.is_new

    @property
    def may_have_sent(self) -> bool:
        """Whether a request has gone out in this attempt that the server may have acted on."""
        return self._requests > 0

    @property
    def submissions(self) -> list[Submission]:
        """What is known of each message, by position."""
        return [self._status_of(item) for item in self._items]

    def outcomes(self) -> Iterator[tuple[Message, Submission]]:
        """Give the messages by position, each with what is known of it."""
        return zip(self.messages, self.submissions, strict=True)

    def sent_messages(self) -> list[SentMessage]:
        """Return the messages by position, each with what is known of it."""
        return [self._sent_message(item) for item in self._items]

    def results(self) -> list[dict[str, Any]]:
        """
        Return what is known of each message, by position, as JSON-safe dicts.

        Where the caller gave messages of their own texts, each dict begins with the ``reference``; it is None for a
        message without one.
        """
        records = [(message, known.to_record()) for message, known in self.outcomes()]
        return [{"reference": one.reference, **record} if one.is_row else record for one, record in records]

    def counts(self) -> dict[str, int]:
        """Return how many messages there are, how many with each outcome, and how many have vanished since before."""
        counts = Counter(submission.outcome for submission in self.submissions)
        outcomes = {str(outcome): counts[outcome] for outcome in SendOutcome}
        return {"messages": len(self._items), **outcomes, "vanished": len(self._vanished)}

    async def send(self, client: Client) -> list[Submission]:
        """Send every message that has not been sent yet."""
        known = self.submissions
        if sent := sum(one.outcome is SendOutcome.SUBMITTED for one in known):
            log.info("Sent in an earlier attempt, and not again: %d of %s", sent, plural(len(known), "message"))
        if excluded := sum(item.is_excluded for item in self._items):
            log.info("Excluded (their numbers are never texted): %d of %s", excluded, plural(len(known), "message"))
        if self._vanished:
            log.warning("No longer among the messages: %s", _describe_vanished(self._vanished))
        if self._on_uncertain != "fail" and any(one.is_uncertain for one in known):
            log.warning("%s on_uncertain is %r", self._journal.reasons_for_doubt(), self._on_uncertain)
        self._fatal, self._consecutive_losses = None, 0  # of an earlier call that failed
        try:
            due = [
                item for item, one in zip(self._items, known, strict=True) if self._is_due(item, one, round_number=1)
            ]
            for round_number in range(1, MAX_ROUNDS + 1):
                await self._send_round(client, due)
                results = ((item, self._journal.status_of(item.digest)) for item in due)
                due = [item for item, one in results if self._is_due(item, one, round_number=round_number + 1)]
                if not due or round_number == MAX_ROUNDS:
                    break
                seconds = backoff(round_number)
                log.warning("Sending %s again in %.1f s", plural(len(due), "message"), seconds)
                await self._pause(seconds)
            return self._check_certain()
        except RtiSmsError as error:
            raise self._with_summary(error) from None

    def check_submitted(self) -> None:
        """Make sure that the vendor has accepted every message."""
        statuses = {one.status for one in self.submissions if one.outcome is not SendOutcome.SUBMITTED}
        if "account_no_balance" in statuses:
            what = "The account has no balance left for some messages."
            raise self._with_summary(RtiSmsNoBalanceError(what, call=endpoints.SEND_SMS))
        if "unknown_error" in statuses:
            what = "The vendor refused some messages with 'unknown_error' in every attempt."
            raise self._with_summary(RtiSmsNotAcceptedError(what, call=endpoints.SEND_SMS))

    def summary(self) -> str:
        """Return in one line what is known of all messages. It names references, ids and masked numbers only."""
        names: dict[str, list[str]] = {}
        for message, submission in self.outcomes():
            outcome = str(submission.outcome).replace("_", " ")
            if submission.status not in (None, outcome):
                outcome += f" ({submission.status})"
            names.setdefault(outcome, []).append(submission.submission_id or message.name)
        if self._unmatched:
            names["listed in responses that match no recipient"] = [_describe(one) for one in self._unmatched]
        excluded = str(SendOutcome.EXCLUDED)  # counted, and never listed
        counts = (
            f"{len(some)} {outcome}" + ("" if outcome == excluded else f": {name_some(some, limit=NAMED_IN_ERROR)}")
            for outcome, some in names.items()
        )
        left = f" No longer among the messages: {_describe_vanished(self._vanished)}." if self._vanished else ""
        return f"Of {plural(len(self.messages), 'message')}: {'; '.join(counts)}.{left}"

    def _status_of(self, item: _Item) -> Submission:
        known = self._journal.status_of(item.digest)
        return EXCLUDED if item.is_excluded and not (known.is_submitted or known.is_uncertain) else known

    def _sent_message(self, item: _Item) -> SentMessage:
        status, moment = self._status_of(item), self._journal.moment_of(item.digest)
        return SentMessage(item.message, self._journal.digest(item.message.keys[0]), status, moment)

    def _with_summary(self, error: RtiSmsError) -> RtiSmsError:
        return error.with_context(self.summary(), submissions=self.submissions + self._unmatched)

    def _is_due(self, item: _Item, known: Submission, *, round_number: int) -> bool:
        """Return whether a message is sent in a round, by what is known of it."""
        if known.outcome is SendOutcome.SUBMITTED or item.is_excluded:
            return False
        if known.outcome is SendOutcome.UNCERTAIN:
            requests = self._journal.requests_in_doubt(item.digest)
            return self._on_uncertain == "resend" and requests < MAX_REQUESTS_IN_DOUBT
        return round_number == 1 or known.status == "unknown_error"

    async def _send_round(self, client: Client, due: Sequence[_Item]) -> None:
        """Send each message once. Two windows are under way, so that requests do not wait for the journal."""
        self._progress.begin(len(due))
        windows: set[asyncio.Task[None]] = set()
        try:
            for requests in self._windows(due):
                while len(windows) >= (1 if self._is_probing else self._parallel_windows):
                    done, windows = await asyncio.wait(windows, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*done)
                if self._is_stopped():
                    break
                number = await self._record(self._journal.begin, [item.digest for items in requests for item in items])
                windows.add(asyncio.create_task(self._send_window(client, number, requests)))
                if self._is_probing:
                    await asyncio.gather(*windows)
                    windows = set()
            await asyncio.gather(*windows)
        finally:
            for window in windows:
                window.cancel()
            await asyncio.gather(*windows, return_exceptions=True)
        if self._fatal is not None:
            raise self._fatal

    def _is_stopped(self) -> bool:
        """Return whether no further request may leave; the end of the allowed hours becomes the error of the send."""
        if self._fatal is None and self._hours is not None and not self._hours.is_open():
            self._fatal = OutsideHoursError(f"SMS are allowed from {self._hours} only, and others are left.")
        return self._fatal is not None

    def _check_not_stopped(self) -> None:
        """
        Keep a request from leaving once the sending has ended.

        Many calls wait in the client for their turn. Each one that leaves after the API has stopped to respond would be
        one more uncertain message.
        """
        if self._is_stopped():
            raise StoppedError("The sending has ended.", call=endpoints.SEND_SMS)

    def _windows(self, due: Sequence[_Item]) -> Iterator[list[list[_Item]]]:
        """Give the requests of one window at a time: messages of equal text together, in the order of the texts."""
        by_text: dict[SmsText, list[_Item]] = {}
        for item in due:
            by_text.setdefault(item.message.text, []).append(item)
        size = self._chunk_size
        requests = (some[start : start + size] for some in by_text.values() for start in range(0, len(some), size))
        window: list[list[_Item]] = []
        filled = 0
        for request in requests:
            most = 0 if self._is_probing else self._window // self._parallel_windows
            if window and filled + len(request) > most:
                yield window
                window, filled = [], 0
            window.append(request)
            filled += len(request)
        if window:
            yield window

    async def _send_window(self, client: Client, number: int, requests: Sequence[Sequence[_Item]]) -> None:
        results: dict[str, Submission | None] = dict.fromkeys(item.digest for items in requests for item in items)
        sending = (
            perform_then(client.perform, self._call(items), partial(self._note_response, items, results))
            for items in requests
        )
        try:
            await asyncio.gather(*sending)
        except BaseException:
            # A task timeout or the like: what is known saves messages from being uncertain.
            if any(results.values()):
                with suppress(Exception):
                    self._journal.commit(number, results)
            raise
        await self._record(self._journal.commit, number, results)
        if self.on_sent is not None:
            await self._in_thread(self.on_sent, [self._sent_message(item) for items in requests for item in items])
        self._progress.add(len(results))
        responses = ((item, results[item.digest]) for items in requests for item in items)
        named = [f"{item.message.name} ({_describe(one)})" for item, one in responses if one is not None and one.status]
        if named:
            log.info("Sent %s: %s", plural(len(named), "message"), name_some(named))

    def _call(self, items: Sequence[_Item]) -> Call[list[Submission]]:
        """Return the request for messages of equal text. It counts as sent until the response says otherwise."""
        self._requests += 1
        recipients = [item.message.recipient for item in items]
        call = endpoints.send_sms(recipients=recipients, text=items[0].message.text, sender=self._sender)
        return replace(call, before_request=self._check_not_stopped)

    def _note_response(
        self,
        items: Sequence[_Item],
        results: dict[str, Submission | None],
        response: list[Submission] | RtiSmsError,
    ) -> None:
        """Decide what a response, or its loss, means for the messages of a request and for the rest of the send."""
        if isinstance(response, RtiSmsUncertainError):
            self._unmatched += response.submissions
            self._consecutive_losses += 1
            if self._consecutive_losses >= MAX_CONSECUTIVE_LOSSES:
                self._fatal = self._fatal or response
            else:
                log.warning("%s", response)
        elif isinstance(response, RtiSmsError):  # the server did not act on it
            self._requests -= 1
            results.update(dict.fromkeys((item.digest for item in items), NOT_SENT))
            if isinstance(response, RtiSmsSenderRefusedError):
                response = response.with_context(f"The sender comes from {self._sender_source}.")
            self._fatal = self._fatal or response
        else:
            self._consecutive_losses, self._is_probing = 0, False
            results.update(zip((item.digest for item in items), response, strict=True))

    async def _record(self, write: Callable[..., Any], *args: Any) -> Any:
        """Write to the journal in a thread, since the store asks Airflow's API server."""
        try:
            return await self._in_thread(write, *args)
        except Exception:
            self.is_journal_lost = True
            raise

    def _check_certain(self) -> list[Submission]:
        """Return what is known of each message, unless some are uncertain and that is an error."""
        known = self.submissions
        looked_at = known + self._vanished
        if self._on_uncertain != "fail":  # what has vanished or is excluded is not sent again: a warning has named it
            looked_at = [one for item, one in zip(self._items, known, strict=True) if not item.is_excluded]
        if not any(one.outcome is SendOutcome.UNCERTAIN for one in looked_at):
            return known
        if self._on_uncertain == "skip":
            log.warning("Uncertain messages are not sent again, since on_uncertain is 'skip'. %s", self.summary())
            return known
        what = f"{self._journal.reasons_for_doubt()} {_REMEDIES[self._on_uncertain]}"
        raise RtiSmsUncertainError(what, call=endpoints.SEND_SMS)


def _items_of(messages: Sequence[Message], journal: SendJournal) -> list[_Item]:
    """
    Return the messages with their digests.

    What identifies a recipient is its number, and how many messages it gets if these are many. A query may leave out
    the row that was sent, of two rows for one recipient. The other row is no renamed one then.
    """
    keys = [message.keys for message in messages]
    count = Counter(recipient for _, recipient in keys)
    items = []
    for message, (key, recipient) in zip(messages, keys, strict=True):
        to = recipient if count[recipient] == 1 else f"{count[recipient]} messages to {recipient}"
        items.append(_Item(message, journal.digest(key, to)))
    return items


def _describe(submission: Submission) -> str:
    return " ".join(filter(None, (submission.status, submission.submission_id)))


def _describe_vanished(vanished: Sequence[Submission]) -> str:
    ids = [one.submission_id or "" for one in vanished if one.is_submitted]
    uncertain = len(vanished) - len(ids)
    parts = [f"{plural(len(ids), 'submitted message')} ({name_some(ids, limit=NAMED_IN_ERROR)})"] if ids else []
    return " and ".join(parts + ([plural(uncertain, "uncertain message")] if uncertain else []))


class _Progress:
    """Count the messages of a send, ``total``, and log a line every few seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._done_before = 0
        self._logged_at = self._started = time.monotonic()

    def begin(self, due: int) -> None:
        """Begin to send. Messages that are not due are done."""
        self._done = self._done_before = self._total - due
        self._started = time.monotonic()

    def add(self, count: int) -> None:
        """Count messages that are done, and log a line if the last one is long ago."""
        self._done += count
        now = time.monotonic()
        if now - self._logged_at < PROGRESS_INTERVAL:
            return
        self._logged_at = now
        rate = (self._done - self._done_before) / max(now - self._started, 0.001)
        log.info("%s", describe_progress(self._done, self._total, "message", rate))


class OutsideHoursError(RtiSmsTransientError, may_have_acted=False):
    """The allowed hours have not begun, or are over. What has not been sent waits."""


class StoppedError(RtiSmsPermanentError):
    """The sending has ended, so the request has not left."""

    may_have_acted = False
