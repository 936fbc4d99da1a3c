"""A call that does not leave once the sending has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TypeVar

from airflow_provider_rtisms.api.calls import Call, HttpRequest
from airflow_provider_rtisms.api.errors import RtiSmsPermanentError
from airflow_provider_rtisms.api.values.secret import Secret

T = TypeVar("T")


class StoppedError(RtiSmsPermanentError):
    """The sending has ended, so the request has not left."""

    may_have_acted = False


@dataclass(slots=True)
class _StoppableCall(Call[T]):
    is_stopped: Callable[[], bool] = field(default=lambda: False, repr=False)

    def request(self, access_token: Secret[str] | None = None) -> HttpRequest:
        """Return the request. The client asks for it when it is about to send it."""
        if self.is_stopped():
            raise StoppedError("The sending has ended.", call=self.name)
        return Call.request(self, access_token)


def make_stoppable(call: Call[T], is_stopped: Callable[[], bool]) -> Call[T]:
    """
    Return a call that raises an error in place of its request once the sending has ended.

    Many calls wait in the client for their turn. Each one that leaves after the API has stopped to respond would be one
    more uncertain message.

    :param call: what to do.
    :param is_stopped: whether the sending has ended; asked when the request is about to leave.
    """
    values = {one.name: getattr(call, one.name) for one in fields(call)}
    return _StoppableCall(**values, is_stopped=is_stopped)
