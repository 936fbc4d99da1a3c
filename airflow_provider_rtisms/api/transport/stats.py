"""What the transport counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_rtisms.api.policy.observer import Observer
from airflow_provider_rtisms.api.protocol.request import Call


@dataclass
class Stats(Observer):
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

    def on_request(self, call: Call[Any], status: int | None) -> None:
        """Count a request."""
        self.requests += 1

    def on_retry(self, call: Call[Any]) -> None:
        """Count a request that is repeated."""
        self.retries += 1

    def on_throttled(self, call: Call[Any]) -> None:
        """Count a response of 429."""
        self.throttled += 1

    def on_token(self) -> None:
        """Count a token."""
        self.tokens += 1
