"""
What a sandbox knows: submissions, texts, messages, tokens, the balance and counts.

Sources: the API's reference, 3GPP TS 23.038 for the alphabet of texts, 23.040 for their parts.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import takewhile
from random import Random
from reprlib import repr as short_repr
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from airflow_provider_rtisms.sandbox.settings import ActiveFault, Settings, check_number, check_text


@dataclass(frozen=True)
class MagicNumber:
    """What happens to a message whose recipient has certain last three digits."""

    meaning: str
    status: str = "DELIVERED"
    refusal: str | None = None
    refusals: float = math.inf


ORDINARY = MagicNumber("DELIVERED")
#: Magic numbers by the last three digits of the recipient. The ids of submissions that exist from the start end alike.
MAGIC_NUMBERS = {
    "001": MagicNumber("REJECTED", status="REJECTED"),
    "002": MagicNumber("UNDELIVERED", status="UNDELIVERED"),
    "003": MagicNumber("EXPIRED", status="EXPIRED"),
    "004": MagicNumber("never final, stays SENT", status="SENT"),
    "005": MagicNumber("not accepted: account_no_balance", refusal="account_no_balance"),
    "006": MagicNumber("not accepted: unknown_error", refusal="unknown_error"),
    "007": MagicNumber("unknown_error the first two times, then DELIVERED", refusal="unknown_error", refusals=2),
    "008": MagicNumber("UNKNOWN, as a final status", status="UNKNOWN"),
}


#: A sender that is refused with HTTP 406, like one that the account may not use.
REFUSED_SENDER = "blocked"
#: The example of the vendor's reference. Its details are those printed there.
EXAMPLE_ID = "4193366853543393"
#: One submission exists for each magic number: this prefix and its three digits. "000" is DELIVERED.
MAGIC_ID_PREFIX = "4193366853543"
#: The id of the first DELIVERED submission that ``--seed N`` adds; the next ones count up.
FIRST_SEEDED_ID = 5000000000000000
#: The id of the first submission that is sent to a fresh sandbox; the next ones count up.
FIRST_SENT_ID = 4200000000000001

# The API promises no length, but Python does not convert numbers of thousands of digits.
_ID = r"[0-9]{1,100}"

# Only "1" is documented; the other numbers are made up, so clients have to decide by name.
_CODES = {"PENDING": "0", "DELIVERED": "1", "SENT": "2", "REJECTED": "3", "UNDELIVERED": "4", "EXPIRED": "5"}

_OPERATORS = (
    {"id": "188", "name": "Entel Pcs", "mcc": "730", "mnc": "10"},
    {"id": "189", "name": "Movistar", "mcc": "730", "mnc": "02"},
    {"id": "190", "name": "Claro", "mcc": "730", "mnc": "03"},
)

# The example's timestamps: when it was registered, and how many seconds later it was sent and done.
_EXAMPLE_REGISTERED, _EXAMPLE_PENDING_FOR, _EXAMPLE_SENT_FOR = 1600351683, 11, 3916


@dataclass(frozen=True, slots=True)
class Submission:
    submission_id: str
    status: str
    registered: float
    pending_for: float
    sent_for: float
    cost: float = 1

    def details(self, now: float) -> dict[str, Any]:
        sent = math.inf if self.status == "PENDING" else self.registered + self.pending_for
        done = math.inf if self.status in ("PENDING", "SENT") else sent + self.sent_for
        status = "PENDING" if now < sent else "SENT" if now < done else self.status
        return {
            "id": self.submission_id,
            "timestamps": {
                "registered": int(self.registered),
                "sent": int(sent) if sent <= now else 0,
                "done": int(done) if done <= now else 0,
            },
            "info": {
                "status": {"code": _CODES.get(status, "9"), "status": status},
                "cost": self.cost,
                "operator": _OPERATORS[int(self.submission_id) % len(_OPERATORS)],
            },
        }


class Submissions:
    """All submissions of a sandbox."""

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self.seed(seed)
        self._clock = clock
        self._next_id = FIRST_SENT_ID
        self._known = {EXAMPLE_ID: _done_long_ago(EXAMPLE_ID, "DELIVERED")}
        for digits, number in {"000": ORDINARY, **MAGIC_NUMBERS}.items():
            if number.refusal is None:
                submission_id = MAGIC_ID_PREFIX + digits
                self._known[submission_id] = _done_long_ago(submission_id, number.status)

    def seed(self, count: int) -> None:
        self._seeded_ids = range(FIRST_SEEDED_ID, FIRST_SEEDED_ID + count)

    def find(self, submission_id: str) -> Submission | None:
        known = self._known.get(submission_id)
        if known is not None or not (submission_id.isascii() and submission_id.isdigit()):
            return known
        # Compare the length first: Python refuses to convert numbers of thousands of digits.
        if len(submission_id) == len(str(FIRST_SEEDED_ID)) and int(submission_id) in self._seeded_ids:
            return _done_long_ago(submission_id, "DELIVERED")
        return None

    def add(
        self, status: str, pending_for: float, sent_for: float, cost: float = 1, submission_id: str | None = None
    ) -> Submission:
        check_text("status", status)
        for name, value in (("pending_for", pending_for), ("sent_for", sent_for), ("cost", cost)):
            check_number(name, value)
        if submission_id is None:
            submission_id = str(self._next_id)
            self._next_id += 1
        elif not isinstance(submission_id, str) or not re.fullmatch(_ID, submission_id):
            raise ValueError(f"submission_id must be 1 to 100 decimal digits, not {short_repr(submission_id)}")
        submission = Submission(submission_id, status, self._clock(), pending_for, sent_for, cost)
        self._known[submission_id] = submission
        return submission


def _done_long_ago(submission_id: str, status: str) -> Submission:
    return Submission(submission_id, status, _EXAMPLE_REGISTERED, _EXAMPLE_PENDING_FOR, _EXAMPLE_SENT_FOR)


DEFAULT, GSM_7BIT, UCS_2_HEX, GSM_URL_ENCODED = 0, 1, 6, 8

# The position is the code; ESC, at 0x1B, comes before a character of the extension.
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
#: The basic character with the same code, and the character of the extension.
_EXTENSION = dict(zip("\nΛ()/<=>¡e", "\f^{}\\[~]|€", strict=True))


class Text(NamedTuple):
    """The decoded text of a message."""

    characters: str
    charset: int
    parts: int


def read_text(charset: int, encoded: str) -> Text:
    if charset in (DEFAULT, GSM_7BIT):
        septets = len(encoded) + sum(character in _EXTENSION.values() for character in encoded)
        return Text(encoded, charset, _parts(septets, 160, 153))
    if charset == UCS_2_HEX:
        if not re.fullmatch(r"([0-9A-Fa-f]{4})*", encoded):
            raise ValueError("message.text in charset 6 takes four hexadecimal digits for each UCS-2 unit")
        characters = bytes.fromhex(encoded).decode("utf-16-be")  # UnicodeDecodeError is a ValueError
        return Text(characters, charset, _parts(len(encoded) // 4, 70, 67))
    if charset == GSM_URL_ENCODED:
        if not re.fullmatch(r"([!-$&-~]|%[0-7][0-9A-Fa-f])*", encoded):
            raise ValueError("message.text in charset 8 takes URL-encoded GSM 7-bit codes")
        codes = unquote_to_bytes(encoded.replace("+", "%20"))
        basic = "".join(_BASIC[code] for code in codes)
        # ESC before an unknown code is shown as a space (TS 23.038, 6.2.1.1).
        characters = re.sub("\x1b(.?)", lambda escape: _EXTENSION.get(escape[1], " "), basic, flags=re.DOTALL)
        return Text(characters, charset, _parts(len(codes), 160, 153))
    raise ValueError(f"message.charset must be 0, 1, 6 or 8, not {charset!r}")


def _parts(units: int, alone: int, joined: int) -> int:
    return 1 if units <= alone else math.ceil(units / joined)


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
    """The state of a sandbox since its start or its last reset."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.submissions = Submissions(settings.seed, clock)
        self.balance = Decimal(settings.balance)
        self.tokens_issued = 0
        self.now = clock
        self._random = Random(0)  # noqa: S311  # the same faults in every run
        self.faults = [ActiveFault(fault, self._random) for fault in settings.faults]
        self._expiry_by_token: dict[str, float] = {}
        self._refusals: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._responses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._requests_by_id: Counter[str] = Counter()
        self._messages: deque[Message] = deque(maxlen=KEPT)
        self._tokens: deque[str] = deque(maxlen=KEPT)

    def change(self, changes: Mapping[str, Any]) -> None:
        self.settings = self.settings.changed(changes)
        if "seed" in changes:
            self.submissions.seed(self.settings.seed)
        if "balance" in changes:
            self.balance = Decimal(self.settings.balance)
        if "faults" in changes:
            self.faults = [ActiveFault(fault, self._random) for fault in self.settings.faults]

    def issue_token(self) -> str:
        now = self.now()
        # Tokens mostly expire in the order of their issue, so drop the expired ones at the front.
        for old in [*takewhile(lambda token: self._expiry_by_token[token] <= now, self._expiry_by_token)]:
            del self._expiry_by_token[old]
        token = f"sandbox.{secrets.token_urlsafe(24)}.${secrets.token_urlsafe(8)}"
        self._expiry_by_token[token] = now + self.settings.token_lifetime
        self._tokens.append(token)
        self.tokens_issued += 1
        return token

    def accepts_token(self, token: str) -> bool:
        return self._expiry_by_token.get(token, 0.0) > self.now()

    def revoke_tokens(self) -> None:
        self._expiry_by_token.clear()

    def send(self, recipients: Iterable[str], sender: str, text: Text) -> list[Message]:
        messages = [self._send_one(recipient, sender, text) for recipient in recipients]
        self._messages.extend(messages)
        return messages

    def _send_one(self, recipient: str, sender: str, text: Text) -> Message:
        number = MAGIC_NUMBERS.get(recipient[-3:], ORDINARY)
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
        self._requests[call] += 1
        if submission_id and (submission_id in self._requests_by_id or len(self._requests_by_id) < KEPT):
            self._requests_by_id[submission_id] += 1

    def count_response(self, call: str, result: int | str) -> None:
        self._responses[call][str(result)] += 1

    def snapshot(self, sockets: int, sockets_peak: int) -> Snapshot:
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
