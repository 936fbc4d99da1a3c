"""What the transport counts."""

from __future__ import annotations

from typing import Any

from airflow_provider_rtisms.api.policy.observer import Observer
from airflow_provider_rtisms.api.protocol.request import Call


class Stats(Observer):
    """Counters of one client. They only grow."""

    def __init__(self) -> None:
        #: HTTP requests that left, those for tokens included.
        self.requests = 0
        #: Tokens that were issued.
        self.tokens = 0
        #: Requests that were repeated, for whatever reason.
        self.retries = 0
        #: Responses of 429.
        self.throttled = 0

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
