"""What the calls of a client report about themselves: to counters, and to the metrics of a deployment."""

from __future__ import annotations

from typing import Any

from airflow_provider_rtisms.api.protocol.request import Call


class Observer:
    """
    Hear what calls do. This class ignores all of it; a subclass overrides what it needs.

    The methods run between two steps of a call, on event loops too. They must return at once and raise nothing.
    """

    def on_request(self, call: Call[Any], status: int | None) -> None:
        """
        Hear that a request has ended.

        :param call: what it was for. A call that gets a token for itself is a call of its own.
        :param status: HTTP status; None if no usable response came, for whatever reason.
        """

    def on_retry(self, call: Call[Any]) -> None:
        """Hear that a call repeats its request: after a transient error, a 429, or a 401 with a new token."""

    def on_throttled(self, call: Call[Any]) -> None:
        """Hear of a response of 429."""

    def on_token(self) -> None:
        """Hear that a token was issued."""

    def on_call(self, call: Call[Any], seconds: float, outcome: Any) -> None:
        """
        Hear that a call has ended. A call that is cancelled or interrupted is not reported.

        :param call: what it was.
        :param seconds: how long it took, with its retries, without the time for which the limiter held it back.
        :param outcome: its result, or the :class:`~airflow_provider_rtisms.api.errors.RtiSmsError` that it raises.
        """

    def on_records(self, count: int) -> None:
        """Hear that a bulk fetch has fetched so many records."""

    def on_delivery(self, seconds: float) -> None:
        """Hear that a wait has found a message to be delivered, so many seconds after the vendor accepted it."""
