"""How each message ends: the last three digits of the recipient decide, as test card numbers do for payments.

==========  =================================================================
``...001``  REJECTED
``...002``  UNDELIVERED
``...003``  EXPIRED
``...004``  never final, stays SENT
``...005``  not accepted: ``account_no_balance``
``...006``  not accepted: ``unknown_error``
``...007``  ``unknown_error`` the first two times, accepted after that, DELIVERED
``...008``  UNKNOWN, as a final status
any other   DELIVERED
==========  =================================================================

Submissions that exist from the start carry the same digits: 4193366853543001 ended REJECTED, and so on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What becomes of a message.

    :param meaning: one line for people.
    :param status: the status it ends in; ``SENT`` is never left.
    :param refusal: what the response to the send says instead of ``submitted``, if anything.
    :param refusals: how many times a recipient is refused before it is accepted.
    """

    meaning: str
    status: str = "DELIVERED"
    refusal: str | None = None
    refusals: float = math.inf


DELIVERED = Outcome("DELIVERED")

MAGIC_NUMBERS = {
    "001": Outcome("REJECTED", status="REJECTED"),
    "002": Outcome("UNDELIVERED", status="UNDELIVERED"),
    "003": Outcome("EXPIRED", status="EXPIRED"),
    "004": Outcome("never final, stays SENT", status="SENT"),
    "005": Outcome("not accepted: account_no_balance", refusal="account_no_balance"),
    "006": Outcome("not accepted: unknown_error", refusal="unknown_error"),
    "007": Outcome("unknown_error the first two times, then DELIVERED", refusal="unknown_error", refusals=2),
    "008": Outcome("UNKNOWN, as a final status", status="UNKNOWN"),
}


def outcome_of(recipient: str) -> Outcome:
    """The ending that a recipient's last three digits ask for.

    :param recipient: a phone number.
    :returns: its ending; DELIVERED for digits that ask for nothing else.
    """
    return MAGIC_NUMBERS.get(recipient[-3:], DELIVERED)
