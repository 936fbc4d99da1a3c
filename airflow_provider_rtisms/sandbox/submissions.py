"""
Submissions and their statuses: first PENDING, then SENT, then final.

The status is computed from the clock when it is read; nothing is scheduled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from reprlib import repr as short_repr
from typing import Any

from airflow_provider_rtisms.sandbox.checks import check_number, check_text
from airflow_provider_rtisms.sandbox.magic_numbers import MAGIC_NUMBERS, ORDINARY

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
_UNDOCUMENTED_CODE = "9"

_OPERATORS = (
    {"id": "188", "name": "Entel Pcs", "mcc": "730", "mnc": "10"},
    {"id": "189", "name": "Movistar", "mcc": "730", "mnc": "02"},
    {"id": "190", "name": "Claro", "mcc": "730", "mnc": "03"},
)

# The example's timestamps: when it was registered, and how many seconds later it was sent and done.
_EXAMPLE_REGISTERED, _EXAMPLE_PENDING_FOR, _EXAMPLE_SENT_FOR = 1600351683, 11, 3916


@dataclass(frozen=True, slots=True)
class Submission:
    """
    One submission.

    :param submission_id: its id, decimal digits.
    :param status: its final status, under any name. With PENDING or SENT it never becomes final.
    :param registered: when it was accepted, in epoch seconds.
    :param pending_for: seconds until it is SENT.
    :param sent_for: seconds from then until it is final.
    :param cost: its cost.
    """

    submission_id: str
    status: str
    registered: float
    pending_for: float
    sent_for: float
    cost: float = 1

    def details(self, now: float) -> dict[str, Any]:
        """
        Return the response of "Get SMS info".

        :param now: the time, in epoch seconds.
        :return: a JSON object.
        """
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
                "status": {"code": _CODES.get(status, _UNDOCUMENTED_CODE), "status": status},
                "cost": self.cost,
                "operator": _OPERATORS[int(self.submission_id) % len(_OPERATORS)],
            },
        }


class Submissions:
    """
    All submissions of a sandbox.

    :param seed: how many DELIVERED submissions exist from :data:`FIRST_SEEDED_ID` on; they take no memory.
    :param clock: returns the time, in epoch seconds.
    """

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self._seeded_ids = range(FIRST_SEEDED_ID, FIRST_SEEDED_ID + seed)
        self._clock = clock
        self._next_id = FIRST_SENT_ID
        self._known = {EXAMPLE_ID: _done_long_ago(EXAMPLE_ID, "DELIVERED")}
        for digits, number in {"000": ORDINARY, **MAGIC_NUMBERS}.items():
            if number.refusal is None:
                submission_id = MAGIC_ID_PREFIX + digits
                self._known[submission_id] = _done_long_ago(submission_id, number.status)

    def find(self, submission_id: str) -> Submission | None:
        """
        Return the submission with an id.

        :param submission_id: the id as the request has it.
        :return: the submission; None if it does not exist.
        """
        known = self._known.get(submission_id)
        if known is not None or not (submission_id.isascii() and submission_id.isdigit()):
            return known
        # Compare the length first: Python refuses to convert numbers of thousands of digits.
        if len(submission_id) == len(str(FIRST_SEEDED_ID)) and int(submission_id) in self._seeded_ids:
            return _done_long_ago(submission_id, "DELIVERED")
        return None

    def add(
        self,
        status: str,
        pending_for: float,
        sent_for: float,
        cost: float = 1,
        submission_id: str | None = None,
    ) -> Submission:
        """
        Add a submission that is registered now.

        :param status: its final status.
        :param pending_for: seconds until it is SENT.
        :param sent_for: seconds from then until it is final.
        :param cost: its cost.
        :param submission_id: its id; the next free id by default. It may replace a submission.
        :return: the submission.
        :raises ValueError: if a value is not valid.
        """
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
