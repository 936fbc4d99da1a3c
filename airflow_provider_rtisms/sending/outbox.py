"""
Sending one text to many recipients, each at most once.

The API has no idempotency key and no way to list what was sent, so a request whose response was lost is uncertain: it is
repeated only where the caller says so. Every request is written down before it goes out, and its response after it came.

Source: API page, "Send SMS"; design.md, rule 2.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

from airflow_provider_rtisms.api.errors import (
    RtiSmsError,
    RtiSmsInputError,
    RtiSmsNoBalanceError,
    RtiSmsNotAcceptedError,
    RtiSmsUncertainError,
    shape,
)
from airflow_provider_rtisms.api.models import Submission
from airflow_provider_rtisms.api.policy.retry import backoff
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import Call
from airflow_provider_rtisms.api.values.recipients import masked
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.sending.journal import SendJournal

log = logging.getLogger(__name__)

OnUncertain = Literal["fail", "resend", "skip"]

#: Recipients of one request. A lost response leaves so many uncertain; the API documents no limit.
DEFAULT_CHUNK_SIZE = 50
#: An entry of the record stays below the 64 KiB at which Airflow begins to warn about values in its state store.
LARGEST_CHUNK_SIZE = 500
#: How often a recipient is tried in all, while the vendor says ``unknown_error``.
ATTEMPTS = 4
#: So many lost responses in a row end the sending: the trouble is no passing one, and each leaves more in doubt.
LOST_IN_A_ROW = 2
#: How many recipients of each fate an error message names: in practice all of them, since people have to be asked.
NAMED_IN_MESSAGE = 1000


class Outbox:
    """
    One text on its way to many recipients.

    :param perform: does a call of :mod:`~airflow_provider_rtisms.api.protocol.endpoints` and returns its result.
    :param recipients: checked numbers, each once.
    :param text: the message.
    :param sender: as allowed for the account.
    :param record: what earlier attempts have sent, and where this one writes down what it sends.
    :param on_uncertain: what becomes of recipients of whom it is not known whether they were sent to: ``fail`` leaves
        them and raises at the end, ``resend`` sends to them, maybe a second time, ``skip`` leaves them.
    :param chunk_size: most recipients of one request, 1 to 500.
    :param pause: waits for some seconds.
    :raises RtiSmsInputError: ``on_uncertain`` or ``chunk_size`` is anything else.
    """

    def __init__(
        self,
        perform: Callable[[Call[list[Submission]]], list[Submission]],
        recipients: Sequence[str],
        text: SmsText,
        sender: str,
        record: SendJournal,
        *,
        on_uncertain: OnUncertain = "fail",
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.recipients = list(recipients)
        self.text = text
        #: Whether a request has gone out in this try that the API may have acted on.
        self.may_have_sent = False
        self._perform = perform
        self._sender = sender
        self._record = record
        self._on_uncertain = check_on_uncertain(on_uncertain)
        self._chunk_size = _check_chunk_size(chunk_size)
        self._pause = pause
        #: What was told in responses that could not be matched with recipients.
        self._unmatched: list[Submission] = []

    @property
    def submissions(self) -> list[Submission]:
        """What is known of each recipient, by position; see :class:`~airflow_provider_rtisms.api.models.Submission`."""
        return [self._record.known(recipient) for recipient in self.recipients]

    def send(self) -> list[Submission]:
        """
        Send to every recipient to whom nothing was sent yet.

        :return: what the vendor said of each recipient, by position, in this try or an earlier one.
        :raises RtiSmsUncertainError: recipients are uncertain, and ``on_uncertain`` is not ``skip``.
        :raises RtiSmsError: the API refused or could not be reached; recipients may be left. All errors carry what was
            told until then as ``submissions``.
        """
        sent = sum(submission.is_submitted for submission in self.submissions)
        if sent:
            log.info("%d of %d recipients were sent to in an earlier try, and are left out", sent, len(self.recipients))
        try:
            due = [recipient for recipient in self.recipients if self._is_due(recipient, attempts=0)]
            for attempts in range(1, ATTEMPTS + 1):
                self._send_round(due)
                due = [recipient for recipient in due if self._is_due(recipient, attempts)]
                if not due:
                    break
                seconds = backoff(attempts)
                log.warning("Trying %d recipients again in %.1f s", len(due), seconds)
                self._pause(seconds)
            self._settle_uncertain()
        except RtiSmsError as error:
            self._tell_all(error)
            raise
        return self.submissions

    def check_submitted(self) -> None:
        """
        Make sure that no recipient was refused.

        :raises RtiSmsNoBalanceError: the account had no money for some of them.
        :raises RtiSmsNotAcceptedError: ``unknown_error`` for some of them, however often they were tried.
        """
        statuses = {submission.status for submission in self.submissions}
        error: RtiSmsError | None = None
        if "account_no_balance" in statuses:
            error = RtiSmsNoBalanceError(
                "The account has no balance left for some recipients.", call=endpoints.SEND_SMS
            )
        elif "unknown_error" in statuses:
            what = "The vendor could not take the SMS for some recipients, however often they were tried."
            error = RtiSmsNotAcceptedError(what, call=endpoints.SEND_SMS)
        if error is not None:
            self._tell_all(error)
            raise error

    def summary(self) -> str:
        """Return what is known of all recipients in one line, whom it names by position and last three digits."""
        by_status: dict[str, list[str]] = {}
        for position, (recipient, submission) in enumerate(zip(self.recipients, self.submissions, strict=True)):
            name = submission.submission_id or f"recipients[{position}] {masked(recipient)}"
            by_status.setdefault(submission.status, []).append(name)
        if self._unmatched:
            by_status["told of nobody"] = [_outcome(submission) for submission in self._unmatched]
        counts = (f"{len(names)} {status} ({_some(names)})" for status, names in by_status.items())
        return f"Of {len(self.recipients)} recipients: {'; '.join(counts)}."

    def _is_due(self, recipient: str, attempts: int) -> bool:
        known = self._record.known(recipient)
        if known.is_submitted or attempts == ATTEMPTS:
            return False
        if known.is_uncertain:
            return self._on_uncertain == "resend"
        return attempts == 0 or known.status == "unknown_error"

    def _send_round(self, due: Sequence[str]) -> None:
        lost = 0
        for start in range(0, len(due), self._chunk_size):
            try:
                self._send_chunk(due[start : start + self._chunk_size])
                lost = 0
            except RtiSmsUncertainError as error:
                self._unmatched += error.submissions
                lost += 1
                if lost == LOST_IN_A_ROW:
                    raise
                log.warning("%s", error)

    def _send_chunk(self, chunk: Sequence[str]) -> None:
        call = endpoints.send_sms(recipients=chunk, text=self.text, sender=self._sender)
        number = self._record.open(chunk)
        had_sent, self.may_have_sent = self.may_have_sent, True
        try:
            submissions = self._perform(call)
        except RtiSmsUncertainError:
            raise  # the entry stays open
        except RtiSmsError:
            self.may_have_sent = had_sent
            self._record.close(number, chunk, [])
            raise
        log.info("%s", "; ".join(map(_describe, chunk, submissions)))
        self._record.close(number, chunk, submissions)

    def _settle_uncertain(self) -> None:
        if not any(submission.is_uncertain for submission in self.submissions):
            return
        if self._on_uncertain == "skip":
            log.warning("Uncertain recipients are skipped, since on_uncertain is 'skip'. %s", self.summary())
            return
        raise RtiSmsUncertainError(
            "The response to a request was lost, so that some recipients may have been sent to or not. Ask RealTime or "
            "them, then set on_uncertain to 'resend' or 'skip'.",
            call=endpoints.SEND_SMS,
        )

    def _tell_all(self, error: RtiSmsError) -> None:
        """Give an error all that is known of every recipient."""
        error.args = (f"{error} {self.summary()}",)
        error.submissions = self.submissions + self._unmatched


def check_on_uncertain(value: object) -> OnUncertain:
    """
    Return what to do about uncertain recipients.

    :raises RtiSmsInputError: it is none of ``fail``, ``resend`` and ``skip``.
    """
    match value:
        case "fail" | "resend" | "skip":
            return value
    raise RtiSmsInputError(f"on_uncertain is {shape(value)}: use 'fail', 'resend' or 'skip'.")


def _check_chunk_size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_CHUNK_SIZE:
        raise RtiSmsInputError(f"chunk_size is {shape(value)}: use a whole number from 1 to {LARGEST_CHUNK_SIZE}.")
    return value


def _describe(recipient: str, submission: Submission) -> str:
    return f"{masked(recipient)} {_outcome(submission)}"


def _outcome(submission: Submission) -> str:
    return f"{submission.status} {submission.submission_id}" if submission.submission_id else submission.status


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED_IN_MESSAGE
    return ", ".join(names[:NAMED_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")
