"""What a client has done so far, counted where it happens: in the transport."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stats:
    """
    Counters of one client; they only grow.

    :param requests: HTTP requests that left, those for tokens included.
    :param tokens: tokens that were got.
    :param retries: requests that were repeated, for whatever reason.
    :param refusals: responses of 429.
    """

    requests: int = 0
    tokens: int = 0
    retries: int = 0
    refusals: int = 0
