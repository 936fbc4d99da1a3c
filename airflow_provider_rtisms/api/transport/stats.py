"""What the transport counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stats:
    """
    Counters of one client. They only grow.

    :param requests: HTTP requests that left, those for tokens included.
    :param tokens: tokens that were issued.
    :param retries: requests that were repeated, for whatever reason.
    :param throttled: responses of 429.
    """

    requests: int = 0
    tokens: int = 0
    retries: int = 0
    throttled: int = 0
