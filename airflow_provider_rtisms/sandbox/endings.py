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
class Ending:
    """What becomes of a message.

    :param meaning: one line for people.
    :param status: the status it ends in; ``SENT`` is never left.
    :param refusal: what the answer to the send says instead of ``submitted``, if anything.
    :param refusals: how many times a recipient is refused before it is accepted.
    """

    meaning: str
    status: str = "DELIVERED"
    refusal: str | None = None
    refusals: float = math.inf


DELIVERED = Ending("DELIVERED")

ENDINGS = {
    "001": Ending("REJECTED", status="REJECTED"),
    "002": Ending("UNDELIVERED", status="UNDELIVERED"),
    "003": Ending("EXPIRED", status="EXPIRED"),
    "004": Ending("never final, stays SENT", status="SENT"),
    "005": Ending("not accepted: account_no_balance", refusal="account_no_balance"),
    "006": Ending("not accepted: unknown_error", refusal="unknown_error"),
    "007": Ending("unknown_error the first two times, then DELIVERED", refusal="unknown_error", refusals=2),
    "008": Ending("UNKNOWN, as a final status", status="UNKNOWN"),
}


def ending_of(recipient: str) -> Ending:
    """The ending that a recipient's last three digits ask for.

    :param recipient: a phone number.
    :returns: its ending; DELIVERED for digits that ask for nothing else.
    """
    return ENDINGS.get(recipient[-3:], DELIVERED)
