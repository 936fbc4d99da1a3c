"""The state of a sandbox: tokens, submissions, the balance, active faults, and counts of requests and responses."""

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
from airflow_provider_rtisms.sandbox.magic_numbers import look_up
from airflow_provider_rtisms.sandbox.settings import Settings
from airflow_provider_rtisms.sandbox.submissions import Submissions

#: How many messages, tokens, and submission ids with counts a sandbox keeps.
KEPT = 100_000


@dataclass(frozen=True)
class Message:
    """
    A message to one recipient of a send call.

    :param recipient: the phone number.
    :param sender: the sender.
    :param text: the decoded text.
    :param charset: the charset's number in the request.
    :param status: its status in the response: ``submitted``, ``account_no_balance`` or ``unknown_error``.
    :param submission_id: the id of its submission; None if it was not submitted.
    """

    recipient: str
    sender: str
    text: str
    charset: int
    status: str
    submission_id: str | None


@dataclass(frozen=True)
class Snapshot:
    """
    The state of a sandbox at one moment. A call is named by method and family, such as ``GET sms``.

    :param requests: how many requests came, by call. A request counts when it comes in.
    :param responses: how many requests are finished, by call and by result. A result is the status of the response
        (``"200"``), or the fault that prevented it (``"reset"``, ``"lost_response"``, ``"cut_off"``, ``"outage"``).
    :param requests_by_id: how many requests came for each submission id, for the first 100,000 ids.
    :param tokens_issued: how many tokens were issued.
    :param sockets: how many connections to the API are open; control calls do not count.
    :param sockets_peak: how many were open at most at the same time.
    :param balance: the balance, a decimal string.
    :param messages: the messages of all send calls, oldest first; the last 100,000.
    :param tokens: all issued tokens, oldest first; the last 100,000. Tests that search for leaks need them.
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

    def count_responses(self, result: int | str, call: str | None = None) -> int:
        """
        Return how many requests had a result.

        :param result: the status of the response, or the name of the fault that prevented it.
        :param call: count only requests of this call, such as ``GET sms``; None for all calls.
        :return: the number of requests.
        """
        counts = self.responses.values() if call is None else [self.responses.get(call, {})]
        return sum(count.get(str(result), 0) for count in counts)


class State:
    """
    The state of a sandbox since its start or its last reset.

    :param settings: the initial settings.
    :param clock: returns the time, in epoch seconds.
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
        """Return the time, in epoch seconds."""
        return self._clock()

    def change(self, changes: Mapping[str, Any]) -> None:
        """
        Change settings. Tokens and submissions that exist do not change.

        :param changes: new values by name; ``seed`` has no effect before the next reset.
        :raises ValueError: if a name is unknown or a value is not valid.
        """
        self.settings = self.settings.changed(changes)
        if "balance" in changes:
            self.balance = Decimal(self.settings.balance)
        if "faults" in changes:
            self.faults = FaultPlan(self.settings.faults, self._random)

    def issue_token(self) -> str:
        """
        Issue a token. The settings say how long it is valid.

        :return: the token: opaque, and with ``.`` and ``$`` in it as a token of the API may have.
        """
        now = self._clock()
        # Tokens mostly expire in the order of their issue, so drop the expired ones at the front.
        while self._expiry_by_token and next(iter(self._expiry_by_token.values())) <= now:
            del self._expiry_by_token[next(iter(self._expiry_by_token))]
        token = f"sandbox.{secrets.token_urlsafe(24)}.${secrets.token_urlsafe(8)}"
        self._expiry_by_token[token] = now + self.settings.token_lifetime
        self._tokens.append(token)
        self.tokens_issued += 1
        return token

    def accepts_token(self, token: str) -> bool:
        """
        Return whether a token is valid now.

        :param token: the token as the request has it.
        """
        return self._expiry_by_token.get(token, 0.0) > self._clock()

    def revoke_tokens(self) -> None:
        """Make every issued token invalid."""
        self._expiry_by_token.clear()

    def send(self, recipients: Iterable[str], sender: str, text: Text) -> list[Message]:
        """
        Accept or refuse a message to each recipient. The balance and magic numbers decide which.

        :param recipients: phone numbers.
        :param sender: the sender.
        :param text: the text.
        :return: the messages, in the order of the recipients.
        """
        messages = [self._send_one(recipient, sender, text) for recipient in recipients]
        self._messages.extend(messages)
        return messages

    def _send_one(self, recipient: str, sender: str, text: Text) -> Message:
        number = look_up(recipient)
        status, submission_id = "submitted", None
        if number.refusal is not None and self._refusals[recipient] < number.refusals:
            self._refusals[recipient] += 1
            status = number.refusal
        elif text.parts > self.balance:
            status = "account_no_balance"
        else:
            self.balance -= text.parts
            submission_id = self.submissions.add(
                number.status, self.settings.pending_for, self.settings.sent_for, text.parts
            ).submission_id
        return Message(recipient, sender, text.characters, text.charset, status, submission_id)

    def count_request(self, call: str, submission_id: str | None) -> None:
        """
        Count a request that has come in.

        :param call: its method and family, such as ``GET sms``.
        :param submission_id: the id in its path, if any.
        """
        self._requests[call] += 1
        if submission_id and (submission_id in self._requests_by_id or len(self._requests_by_id) < KEPT):
            self._requests_by_id[submission_id] += 1

    def count_response(self, call: str, result: int | str) -> None:
        """
        Count the response to a request.

        :param call: the request's method and family.
        :param result: the status of the response, or the name of the fault that prevented it.
        """
        self._responses[call][str(result)] += 1

    def snapshot(self, sockets: int, sockets_peak: int) -> Snapshot:
        """
        Return the whole state at this moment.

        :param sockets: how many connections are open.
        :param sockets_peak: how many were open at most at the same time.
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
