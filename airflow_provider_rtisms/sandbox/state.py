"""What a sandbox remembers: tokens, submissions, the balance, the faults in force, what was asked of it."""

from __future__ import annotations

import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

from airflow_provider_rtisms.sandbox.charsets import Text
from airflow_provider_rtisms.sandbox.faults import FaultPlan
from airflow_provider_rtisms.sandbox.magic_numbers import outcome_of
from airflow_provider_rtisms.sandbox.settings import Settings
from airflow_provider_rtisms.sandbox.submissions import Submissions

#: How many messages, how many tokens, and how many ids in the counts per submission, are kept.
KEPT = 100_000


@dataclass(frozen=True)
class Message:
    """One message that a send call asked for.

    :param recipient: the phone number.
    :param sender: the sender.
    :param text: the text as a person reads it, whatever its charset.
    :param charset: the number that came with it.
    :param status: the response: ``submitted``, ``account_no_balance`` or ``unknown_error``.
    :param submission_id: its id, where it was submitted.
    """

    recipient: str
    sender: str
    text: str
    charset: int
    status: str
    submission_id: str | None


@dataclass(frozen=True)
class Snapshot:
    """What a sandbox remembers at one moment. A call is named by method and family, such as ``GET sms``.

    :param requests: how many requests came, by call; counted when they come.
    :param responses: how many were responded, by call and by status (``"200"``) or by the fault that took the
        response's place (``"reset"``, ``"lost_response"``, ``"cut_off"``, ``"outage"``).
    :param requests_by_id: how many requests came for each submission id, for the first 100,000 ids.
    :param tokens_issued: how many tokens were handed out.
    :param sockets: open connections of those who use the API; control calls do not count.
    :param sockets_peak: the most of them at one time.
    :param balance: the balance, a decimal string.
    :param messages: every message that send calls asked for, oldest first; the last 100,000.
    :param tokens: every token that was handed out, oldest first; the last 100,000. For tests that search for leaks.
    """

    requests: Mapping[str, int]
    responses: Mapping[str, Mapping[str, int]]
    requests_by_id: Mapping[str, int]
    tokens_issued: int
    sockets: int
    sockets_peak: int
    balance: str
    messages: list[Message] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def responded(self, outcome: int | str, call: str | None = None) -> int:
        """How many requests ended in one way.

        :param outcome: a status, or the name of a fault.
        :param call: only of this call, such as ``GET sms``; None for all.
        :returns: their number.
        """
        counts = self.responses.values() if call is None else [self.responses.get(call, {})]
        return sum(count.get(str(outcome), 0) for count in counts)


class State:
    """The state of one sandbox from its start, or from its last reset.

    :param settings: how it starts.
    :param clock: the time, in epoch seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.submissions = Submissions(settings.seed, clock)
        self.balance = Decimal(settings.balance)
        self.tokens_issued = 0
        self._clock = clock
        self._random = Random(0)  # noqa: S311  # the same faults in every run
        self.faults = FaultPlan(settings.faults, self._random)
        self._expiry_by_token: dict[str, float] = {}
        self._refusals: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._responses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._requests_by_id: Counter[str] = Counter()
        self._messages: deque[Message] = deque(maxlen=KEPT)
        self._tokens: deque[str] = deque(maxlen=KEPT)

    def now(self) -> float:
        """The time, in epoch seconds."""
        return self._clock()

    def change(self, changes: Mapping[str, Any]) -> None:
        """Change settings while running. Tokens and submissions that exist stay as they are.

        :param changes: new values by name; a change of ``seed`` takes a reset.
        :raises ValueError: if a name is unknown or a value makes no sense.
        """
        self.settings = self.settings.changed(changes)
        if "balance" in changes:
            self.balance = Decimal(self.settings.balance)
        if "faults" in changes:
            self.faults = FaultPlan(self.settings.faults, self._random)

    def issue_token(self) -> str:
        """Make a token that is good for as long as the settings say.

        :returns: the token: opaque, JWT-like, with ``.`` and ``$`` in it.
        """
        now = self._clock()
        # Tokens are issued in the order in which they mostly expire; drop those at the front.
        while self._expiry_by_token and next(iter(self._expiry_by_token.values())) <= now:
            del self._expiry_by_token[next(iter(self._expiry_by_token))]
        token = f"sandbox.{secrets.token_urlsafe(24)}.${secrets.token_urlsafe(8)}"
        self._expiry_by_token[token] = now + self.settings.token_lifetime
        self._tokens.append(token)
        self.tokens_issued += 1
        return token

    def accepts_token(self, token: str) -> bool:
        """Whether a token is good now.

        :param token: the token as it came.
        """
        return self._expiry_by_token.get(token, 0.0) > self._clock()

    def revoke_tokens(self) -> None:
        """Make every token issued so far invalid."""
        self._expiry_by_token.clear()

    def send(self, recipients: Iterable[str], sender: str, text: Text) -> list[Message]:
        """Accept or refuse a message to each recipient, as its number asks for and the balance allows.

        :param recipients: phone numbers.
        :param sender: the sender.
        :param text: the text.
        :returns: what became of each, in their order.
        """
        messages = [self._send_one(recipient, sender, text) for recipient in recipients]
        self._messages.extend(messages)
        return messages

    def _send_one(self, recipient: str, sender: str, text: Text) -> Message:
        ending = outcome_of(recipient)
        status, submission_id = "submitted", None
        if ending.refusal is not None and self._refusals[recipient] < ending.refusals:
            self._refusals[recipient] += 1
            status = ending.refusal
        elif text.parts > self.balance:
            status = "account_no_balance"
        else:
            self.balance -= text.parts
            submission_id = self.submissions.add(
                ending.status, self.settings.pending_for, self.settings.sent_for, text.parts
            ).submission_id
        return Message(recipient, sender, text.characters, text.charset, status, submission_id)

    def count_request(self, call: str, submission_id: str | None) -> None:
        """Count a request that came.

        :param call: its method and family, such as ``GET sms``.
        :param submission_id: the submission that it asks for, if any.
        """
        self._requests[call] += 1
        if submission_id and (submission_id in self._requests_by_id or len(self._requests_by_id) < KEPT):
            self._requests_by_id[submission_id] += 1

    def count_response(self, call: str, outcome: int | str) -> None:
        """Count how a request ended.

        :param call: its method and family.
        :param outcome: the status, or the fault that took the response's place.
        """
        self._responses[call][str(outcome)] += 1

    def snapshot(self, sockets: int, sockets_peak: int) -> Snapshot:
        """All of it at this moment.

        :param sockets: open connections, which the server knows.
        :param sockets_peak: the most of them at one time.
        """
        return Snapshot(
            requests=self._requests,
            responses=self._responses,
            requests_by_id=self._requests_by_id,
            tokens_issued=self.tokens_issued,
            sockets=sockets,
            sockets_peak=sockets_peak,
            balance=f"{self.balance:f}",
            messages=list(self._messages),
            tokens=list(self._tokens),
        )
