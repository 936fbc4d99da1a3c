"""
Send messages, each at most once.

The API has no idempotency key and no way to list what was sent. So a request whose response was lost is uncertain, and
it is repeated only if the caller says so. The journal records every request before it goes out, and its response after
it came.

Source: docs/vendor-api.md, "Send SMS"; docs/sending-once.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.calls import Call
from airflow_provider_rtisms.api.errors import (
    RtiSmsError,
    RtiSmsSenderRefusedError,
    RtiSmsUncertainError,
)
from airflow_provider_rtisms.api.models import Submission
from airflow_provider_rtisms.api.retrying import backoff
from airflow_provider_rtisms.api.values.lists import name_some
from airflow_provider_rtisms.sending.journal import NOT_SENT, SendJournal
from airflow_provider_rtisms.sending.message import Message, batched_by_text
from airflow_provider_rtisms.sending.options import (
    DEFAULT_CHUNK_SIZE,
    OnUncertain,
    check_chunk_size,
    check_on_uncertain,
    check_window,
)
from airflow_provider_rtisms.sending.progress import Progress
from airflow_provider_rtisms.sending.report import Item, SendReport
from airflow_provider_rtisms.sending.stoppable import make_stoppable
from airflow_provider_rtisms.sending.summary import describe, describe_vanished

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How many requests a message gets in one attempt of the task, while the vendor returns ``unknown_error``.
MAX_ROUNDS = 4
#: How many requests a message gets with ``on_uncertain="resend"``, in all attempts of the task: one repetition.
MAX_REQUESTS_IN_DOUBT = 2
#: Lost responses in a row that end the sending, since each further one leaves more messages uncertain.
MAX_CONSECUTIVE_LOSSES = 2

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


class Outbox(SendReport):
    """
    Send messages, and keep the journal of it.

    Messages with the same text share requests of up to ``chunk_size`` recipients. Requests run in parallel, as many as
    the client allows.

    :param messages: checked messages, each with another key.
    :param sender: as allowed for the account.
    :param journal: what earlier attempts have sent, and where this one records what it sends.
    :param on_uncertain: what to do with messages that may have been sent already. ``fail``: do not send them again, and
        raise an error at the end. ``resend``: send them again, once. ``skip``: do not send them again.
    :param chunk_size: most recipients of one request, 1 to 500.
    :param window: most messages that a killed process leaves uncertain, at least ``chunk_size``, at most 500.
    :param sender_source: where the sender comes from, for the error if the API refuses it.
    :param pause: waits for some seconds.
    :param in_thread: runs a function that blocks, and waits for its result.
    :raises RtiSmsInputError: an argument has an impossible value.
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
        sender_source: str = "the argument 'sender'",
        pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        in_thread: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        super().__init__(messages, journal)
        self._on_uncertain = check_on_uncertain(on_uncertain)
        self._chunk_size = check_chunk_size(chunk_size)
        self._window = check_window(window, self._chunk_size)
        self._parallel_windows = 2 if self._window >= 2 * self._chunk_size else 1
        self._sender = endpoints.check_sender(sender)
        self._sender_source = sender_source
        self._pause = pause
        self._in_thread = in_thread
        #: Requests that have gone out and that the server did not provably ignore.
        self._requests = 0
        self._consecutive_losses = 0
        #: Until a request has succeeded, requests go out one at a time, so that few messages become uncertain.
        self._is_probing = True
        #: The error that ends the sending once the requests under way are complete.
        self._fatal: RtiSmsError | None = None
        #: Whether the journal refused a write. Then another attempt may have taken over.
        self.is_journal_lost = False
        self._progress = Progress(len(self._items))

    @property
    def may_have_sent(self) -> bool:
        """Whether a request has gone out in this attempt that the server may have acted on."""
        return self._requests > 0

    async def send(self, client: Client) -> list[Submission]:
        """
        Send every message that has not been sent yet.

        :param client: does the calls.
        :return: what is known of each message, by position, from this attempt or an earlier one.
        :raises RtiSmsUncertainError: messages are uncertain, and ``on_uncertain`` is not ``skip``.
        :raises RtiSmsError: the API refused or could not be reached, and messages may be left. Every error carries what
            is known of each message as ``submissions``.
        """
        if sent := self.counts()["submitted"]:
            log.info(
                "%d of %d messages were sent in an earlier attempt; they are not sent again", sent, len(self._items)
            )
        if self._vanished:
            log.warning("No longer among the messages: %s", describe_vanished(self._vanished))
        if self._on_uncertain != "fail" and any(one.is_uncertain for one in self.submissions):
            log.warning("%s on_uncertain is %r", self._journal.reasons_for_doubt(), self._on_uncertain)
        self._fatal, self._consecutive_losses = None, 0  # of an earlier call that failed
        try:
            due = [item for item in self._items if self._is_due(item, is_first_round=True)]
            for round_number in range(1, MAX_ROUNDS + 1):
                await self._send_round(client, due)
                due = [item for item in due if self._is_due(item, is_first_round=False)]
                if not due or round_number == MAX_ROUNDS:
                    break
                seconds = backoff(round_number)
                log.warning("Sending %d messages again in %.1f s", len(due), seconds)
                await self._pause(seconds)
            self._check_certain()
        except RtiSmsError as error:
            raise self._with_summary(error) from None
        return self.submissions

    def _is_due(self, item: Item, *, is_first_round: bool) -> bool:
        known = self._status_of(item)
        if known.is_submitted:
            return False
        if known.is_uncertain:
            requests = self._journal.requests_in_doubt(item.digest)
            return self._on_uncertain == "resend" and requests < MAX_REQUESTS_IN_DOUBT
        return is_first_round or known.status == "unknown_error"

    async def _send_round(self, client: Client, due: Sequence[Item]) -> None:
        """Send each message once. Two windows are under way, so that requests do not wait for the journal."""
        self._progress.begin(len(due))
        windows: set[asyncio.Task[None]] = set()
        try:
            for requests in self._windows(due):
                while len(windows) >= (1 if self._is_probing else self._parallel_windows):
                    done, windows = await asyncio.wait(windows, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*done)
                if self._fatal is not None:
                    break
                number = await self._record(self._journal.begin, [item.digest for items in requests for item in items])
                windows.add(asyncio.create_task(self._send_window(client, number, requests)))
                if self._is_probing:
                    await asyncio.gather(*windows)
            await asyncio.gather(*windows)
        finally:
            for window in windows:
                window.cancel()
            await asyncio.gather(*windows, return_exceptions=True)
        if self._fatal is not None:
            raise self._fatal

    def _windows(self, due: Sequence[Item]) -> Iterator[list[list[Item]]]:
        """Give the requests of one window at a time: messages of equal text together, in the order of the texts."""
        requests = batched_by_text(due, lambda item: item.message.text, self._chunk_size)
        window: list[list[Item]] = []
        size = 0
        for request in requests:
            most = 0 if self._is_probing else self._window // self._parallel_windows
            if window and size + len(request) > most:
                yield window
                window, size = [], 0
            window.append(request)
            size += len(request)
        if window:
            yield window

    async def _send_window(self, client: Client, number: int, requests: Sequence[Sequence[Item]]) -> None:
        results: dict[str, Submission | None] = dict.fromkeys(item.digest for items in requests for item in items)
        try:
            await asyncio.gather(*(self._send_request(client, items, results) for items in requests))
        except BaseException:
            # A task timeout or the like: what is known saves messages from being uncertain.
            if any(results.values()):
                with suppress(Exception):
                    self._journal.commit(number, results)
            raise
        await self._record(self._journal.commit, number, results)
        self._progress.add(len(results))
        responses = ((item, results[item.digest]) for items in requests for item in items)
        named = [f"{item.message.name} {describe(one)}" for item, one in responses if one is not None and one.status]
        if named:
            log.info("Sent %d messages: %s", len(named), name_some(named))

    async def _send_request(self, client: Client, items: Sequence[Item], results: dict[str, Submission | None]) -> None:
        recipients = [item.message.recipient for item in items]
        call = endpoints.send_sms(recipients=recipients, text=items[0].message.text, sender=self._sender)
        self._requests += 1
        try:
            submissions = await client.perform(make_stoppable(call, lambda: self._fatal is not None))
        except RtiSmsUncertainError as error:
            self._on_loss(error)
        except RtiSmsError as error:  # the server did not act on it
            self._requests -= 1
            results.update(dict.fromkeys((item.digest for item in items), NOT_SENT))
            if isinstance(error, RtiSmsSenderRefusedError):
                error = error.with_context(f"The sender comes from {self._sender_source}.")
            self._fatal = self._fatal or error
        else:
            self._consecutive_losses, self._is_probing = 0, False
            results.update(zip((item.digest for item in items), submissions, strict=True))

    def _on_loss(self, error: RtiSmsUncertainError) -> None:
        self._unmatched += error.submissions
        self._consecutive_losses += 1
        if self._consecutive_losses >= MAX_CONSECUTIVE_LOSSES:
            self._fatal = self._fatal or error
        else:
            log.warning("%s", error)

    async def _record(self, write: Callable[..., Any], *args: Any) -> Any:
        """Write to the journal in a thread, since the store asks Airflow's API server."""
        try:
            return await self._in_thread(write, *args)
        except Exception:
            self.is_journal_lost = True
            raise

    def _check_certain(self) -> None:
        # Messages that have vanished cannot be sent again, so "resend" ends with the warning about them.
        looked_at = self.submissions + (self._vanished if self._on_uncertain == "fail" else [])
        if not any(submission.is_uncertain for submission in looked_at):
            return
        if self._on_uncertain == "skip":
            log.warning("Uncertain messages are not sent again, since on_uncertain is 'skip'. %s", self.summary())
            return
        what = f"{self._journal.reasons_for_doubt()} {_REMEDIES[self._on_uncertain]}"
        raise RtiSmsUncertainError(what, call=endpoints.SEND_SMS)
