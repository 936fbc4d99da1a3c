"""What is known of each message of a send: results, counts, a summary, and the error for refused messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsNoBalanceError, RtiSmsNotAcceptedError
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.sending.journal import SendJournal
from airflow_provider_rtisms.sending.message import Message, message_key
from airflow_provider_rtisms.sending.summary import summarize


@dataclass(frozen=True, slots=True)
class Item:
    """A message and its digest in the journal."""

    message: Message
    digest: str


class SendReport:
    """
    Report what the journal knows of messages.

    :param messages: checked messages, each with another key.
    :param journal: what is known of them.
    """

    def __init__(self, messages: Sequence[Message], journal: SendJournal) -> None:
        self._journal = journal
        to = Counter(message_key(message.recipient, reference=None) for message in messages)
        self._items = [Item(message, journal.digest(message.key, _recipient_key(message, to))) for message in messages]
        #: What earlier attempts have sent, or may have sent, and the caller no longer has.
        self._vanished = journal.match(item.digest for item in self._items)
        #: Submissions of responses that could not be matched with recipients.
        self._unmatched: list[Submission] = []

    @property
    def messages(self) -> list[Message]:
        """The messages, in their order."""
        return [item.message for item in self._items]

    @property
    def submissions(self) -> list[Submission]:
        """What is known of each message, by position."""
        return [self._status_of(item) for item in self._items]

    def results(self) -> list[dict[str, Any]]:
        """
        Return what is known of each message, by position, as JSON-safe dicts.

        Where the caller gave messages of their own texts, each dict begins with the ``reference``; it is None for a
        message without one.
        """
        records = [(item.message, self._status_of(item).to_record()) for item in self._items]
        return [{"reference": one.reference, **record} if one.is_row else record for one, record in records]

    def counts(self) -> dict[str, int]:
        """Return how many messages there are, how many with each outcome, and how many have vanished since before."""
        counts = Counter(str(submission.outcome) for submission in self.submissions)
        outcomes = {str(outcome): counts[outcome] for outcome in SendOutcome}
        return {"messages": len(self._items), **outcomes, "vanished": len(self._vanished)}

    def check_submitted(self) -> None:
        """
        Make sure that the vendor has accepted every message.

        :raises RtiSmsNoBalanceError: the account had no balance left for some of them.
        :raises RtiSmsNotAcceptedError: ``unknown_error`` for some of them, in every attempt.
        """
        statuses = {submission.status for submission in self.submissions if not submission.is_submitted}
        if "account_no_balance" in statuses:
            what = "The account has no balance left for some messages."
            raise self._with_summary(RtiSmsNoBalanceError(what, call=endpoints.SEND_SMS))
        if "unknown_error" in statuses:
            what = "The vendor refused some messages with 'unknown_error' in every attempt."
            raise self._with_summary(RtiSmsNotAcceptedError(what, call=endpoints.SEND_SMS))

    def summary(self) -> str:
        """Return in one line what is known of all messages. It names references, ids and masked numbers only."""
        return summarize(self.messages, self.submissions, self._unmatched, self._vanished)

    def _status_of(self, item: Item) -> Submission:
        return self._journal.status_of(item.digest)

    def _with_summary(self, error: RtiSmsError) -> RtiSmsError:
        return error.with_context(self.summary(), submissions=self.submissions + self._unmatched)


def _recipient_key(message: Message, to: Counter[str]) -> str:
    """
    Return what identifies the recipient of a message: its number, and how many messages it gets if these are many.

    A query may leave out the row that was sent, of two rows for one recipient. The other row is no renamed one then.
    """
    key = message_key(message.recipient, reference=None)
    return key if to[key] == 1 else f"{to[key]} messages to {key}"
