"""
What a call may ask of a transport. ``policy/perform.py`` yields these; the two clients carry them out.

The split follows gidgethub's ``sansio`` and httpx's ``auth_flow``: one generator makes every decision, and the blocking
and the asyncio client differ only in how they do these few things.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from airflow_provider_rtisms.api.policy.flight import Flight
from airflow_provider_rtisms.api.protocol.request import HttpRequest
from airflow_provider_rtisms.api.values.secret import Secret


@dataclass(frozen=True, slots=True)
class Acquire:
    """Wait until the limiter lets the next request leave: a permit, the rate, and the pause after a 429."""


#: The only one that is needed.
ACQUIRE = Acquire()


@dataclass(slots=True)  # not frozen, see protocol/request.py
class Send:
    """
    Send a request and read its response.

    The transport sends back the :class:`~.protocol.request.HttpResponse`. If there is none, it throws in a
    :class:`~.perform.TransportError`.

    :param request: what to send.
    """

    request: HttpRequest


@dataclass(frozen=True, slots=True)
class Sleep:
    """
    Pause before the next attempt.

    :param seconds: how long.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class WaitFor:
    """
    Wait until another caller has completed a flight or is gone, and send back the result.

    :param flight: the work of the other caller.
    """

    flight: Flight[Any]


@dataclass(frozen=True, slots=True)
class MaskSecret:
    """
    Mask a secret in logs before it is used.

    :param secret: a new token.
    """

    secret: Secret[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Throttled:
    """
    Report that the server refused the last request with 429.

    The transport sends back True if it slows down all of its requests together. Then the refusal is not an attempt of
    this call.

    :param retry_after: seconds that the server asked to wait, or None.
    """

    retry_after: float | None


Effect: TypeAlias = Acquire | Send | Sleep | WaitFor | MaskSecret | Throttled
