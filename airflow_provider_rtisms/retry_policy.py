"""A ``retry_policy`` for tasks that call the RTI SMS API (Airflow 3.3 and later)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

try:
    from airflow_provider_rtisms.compat import RetryDecision, RetryPolicy
except ImportError as error:
    raise ImportError("airflow_provider_rtisms.retry_policy needs Airflow 3.3 or later") from error

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsPermanentError

if TYPE_CHECKING:
    from airflow_provider_rtisms.compat import Context


class RtiSmsRetryPolicy(RetryPolicy):
    """
    Fail at once after a permanent error, and wait as long as the server asks.

    - A permanent error, such as refused credentials or a refused sender, fails the task. The operators of this package
      do that without the policy. The policy does it for your own tasks that use the hook.
    - After a response with Retry-After, such as a 429, the task is retried after that time, but not before
      ``retry_delay`` of the task.
    - For any other error, ``retries`` and ``retry_delay`` of the task decide.

    :param longest: the longest time to wait for Retry-After.
    """

    def __init__(self, longest: timedelta = timedelta(hours=1)) -> None:
        self.longest = longest

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """
        Decide what follows a failure.

        :param exception: what the task raised; an error of the API may also be its cause.
        :param context: holds the task, whose ``retry_delay`` is used.
        """
        error = _api_error(exception)
        if isinstance(error, RtiSmsPermanentError):
            return RetryDecision.fail(reason=str(error))
        if error is None or error.retry_after is None:
            return RetryDecision.default()
        own = getattr((context or {}).get("task"), "retry_delay", None) or timedelta()
        delay = max(own, min(timedelta(seconds=error.retry_after), self.longest))
        return RetryDecision.retry(delay, reason=f"The server asked to wait for {error.retry_after:g} s")

    def serialize(self) -> dict[str, Any]:
        """Return what :meth:`deserialize` recreates the policy from."""
        return {"longest": self.longest.total_seconds()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> RtiSmsRetryPolicy:
        """Return the policy that :meth:`serialize` described."""
        return cls(timedelta(seconds=data["longest"]))


def _api_error(exception: BaseException | None) -> RtiSmsError | None:
    """Return the error of the API in a chain of causes."""
    while exception is not None and not isinstance(exception, RtiSmsError):
        exception = exception.__cause__
    return exception
