"""
Magic numbers: the last three digits of the recipient's number decide what happens to a message.

==========  ===================================================================
``...001``  REJECTED
``...002``  UNDELIVERED
``...003``  EXPIRED
``...004``  never final, stays SENT
``...005``  not accepted: ``account_no_balance``
``...006``  not accepted: ``unknown_error``
``...007``  ``unknown_error`` the first two times, accepted after that, DELIVERED
``...008``  UNKNOWN, as a final status
any other   DELIVERED
==========  ===================================================================

The ids of submissions that exist from the start have the same digits: 4193366853543001 is REJECTED, and so on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MagicNumber:
    """
    What happens to a message whose recipient has certain last three digits.

    :param meaning: one line for people.
    :param status: the final status of the submission; with ``SENT`` it never becomes final.
    :param refusal: the status of a message that is not accepted, such as ``unknown_error``; None if it is accepted.
    :param refusals: how many messages to the same recipient are not accepted before one is.
    """

    meaning: str
    status: str = "DELIVERED"
    refusal: str | None = None
    refusals: float = math.inf


#: What happens to a message to a number that is not magic.
ORDINARY = MagicNumber("DELIVERED")

#: Magic numbers by their last three digits.
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


def look_up(recipient: str) -> MagicNumber:
    """
    Return what happens to a message to a recipient.

    :param recipient: a phone number.
    :return: the entry for its last three digits; :data:`ORDINARY` if there is none.
    """
    return MAGIC_NUMBERS.get(recipient[-3:], ORDINARY)
