"""
A ready ``retry_policy`` for tasks that talk to the RTI SMS API (Airflow 3.3 and later).

::

    from airflow_provider_rtisms.retry_policy import RtiSmsRetryPolicy

    RtiSmsSendOperator(..., retries=5, retry_policy=RtiSmsRetryPolicy())
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

try:
    from airflow.providers.common.compat.sdk import RetryDecision, RetryPolicy
except ImportError as error:
    raise ImportError("airflow_provider_rtisms.retry_policy needs Airflow 3.3: retry policies are new there") from error

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsPermanentError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class RtiSmsRetryPolicy(RetryPolicy):
    """
    Fail at once on what cannot succeed, and wait as long as the server asks.

    - A permanent error, such as bad credentials or a refused sender, fails the task. The operators of this package see
      to that by themselves; the policy does it for tasks of your own that use the hook.
    - An response with Retry-After, such as 429, is retried after that time, but not sooner than the task's own delay.
    - Everything else is left to the task's ``retries`` and ``retry_delay``.

    :param longest: a Retry-After beyond it is cut to it.
    """

    def __init__(self, longest: timedelta = timedelta(hours=1)) -> None:
        self.longest = longest

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """
        Decide what comes after a failure.

        :param exception: what the task raised; an error of the API may also be its cause.
        :param try_number: not looked at.
        :param max_tries: not looked at.
        :param context: tells the task's own delay.
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
        """Return what :meth:`deserialize` makes the policy from."""
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
