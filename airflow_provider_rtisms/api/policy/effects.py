"""
What a call may ask of a transport. ``api.flow`` yields these; ``api.client`` and ``api.aio`` carry them out.

The split follows gidgethub's ``sansio`` and httpx's ``auth_flow``: every decision stands in one generator, and what
differs between blocking and asyncio is only how these few things are done.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from airflow_provider_rtisms.api.protocol.request import HttpRequest


@dataclass(frozen=True, slots=True)
class Send:
    """Do one HTTP exchange; send back the :class:`~.call.HttpResponse`, or throw in the failure that came instead."""

    request: HttpRequest


@dataclass(frozen=True, slots=True)
class Sleep:
    """
    Pause.

    :param seconds: how long.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class WaitFor:
    """
    Wait until another caller has settled the future; send back its result or throw in its exception.

    :param future: must not be cancelled by whoever waits.
    """

    future: Future[Any]


@dataclass(frozen=True, slots=True)
class MaskSecret:
    """
    Tell whoever hides secrets in logs that this is one, before it is used.

    :param secret: a freshly minted token.
    """

    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Throttled:
    """
    Tell that an exchange was responded with 429. Send back True if the transport slows down all of its exchanges for it,
    so that the refusal counts as no try of the call.

    :param sent_at: see :class:`~.call.HttpResponse`.
    :param retry_after: seconds the server asked to wait, or None.
    """

    sent_at: float
    retry_after: float | None


Effect: TypeAlias = Send | Sleep | WaitFor | MaskSecret | Throttled
