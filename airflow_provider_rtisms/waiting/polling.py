"""Poll once, and read the Connection again if the credentials are refused: for the worker and for the triggerer."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from decimal import Decimal
from typing import TypeVar

from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient, fetch
from airflow_provider_rtisms.api.errors import RtiSmsAuthenticationError, RtiSmsError, RtiSmsTransientError
from airflow_provider_rtisms.api.models import SmsDetails, SmsStatus
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.waiting.delivery_wait import DeliveryWait

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Opens a client with the credentials that the Connection holds now.
Connect = Callable[[], AbstractAsyncContextManager[AsyncRtiSmsClient]]


async def with_current_credentials(connect: Connect, work: Callable[[AsyncRtiSmsClient], Awaitable[T]]) -> T:
    """
    Do work with a client. If its credentials are refused, read the Connection again, and go on if it has changed.

    :param connect: opens a client; called again after a refusal, and then reads the Connection again.
    :param work: what to do; starts again from its beginning after a refusal.
    :return: its result.
    :raises RtiSmsAuthenticationError: the credentials are refused, and the Connection holds no others.
    """
    refused: tuple[ApiSettings, RtiSmsAuthenticationError] | None = None
    while True:
        try:
            async with connect() as client:
                settings = client.settings
                if refused is not None and refused[0] == settings:
                    raise refused[1]
                return await work(client)
        except RtiSmsAuthenticationError as error:
            if refused is not None and error is refused[1]:
                raise
            refused = settings, error
            log.warning("%s Reading the Connection again, in case its credentials were rotated", error)


async def poll_deliveries(
    client: AsyncRtiSmsClient, wait: DeliveryWait, missing_until: float, *, is_first_time: bool = True
) -> bool:
    """
    Poll every submission that is still open, once.

    :param client: an opened client.
    :param wait: the wait; keeps what the poll finds.
    :param missing_until: wall-clock time (seconds since the epoch) until which an unknown id is accepted.
    :param is_first_time: False if an earlier poll may have found the same deliveries. Then the client's metrics do not
        count them again.
    :return: whether every submission is final.
    :raises RtiSmsError: the wait has failed.
    """
    earlier_error = wait.last_error
    async with aclosing(fetch(client, wait.open_ids)) as outcomes:
        async for submission_id, outcome in outcomes:
            wait.note(submission_id, outcome)
            if is_first_time and (seconds := _delivery_seconds(outcome)) is not None:
                client.stats.on_delivery(seconds)
    is_done = wait.is_over(missing_ok=time.time() < missing_until)
    if wait.last_error is not earlier_error:
        log.warning("%s The next poll will try again", wait.last_error)
    log.info("%s", wait.progress())
    return is_done


def _delivery_seconds(outcome: SmsDetails | RtiSmsError) -> float | None:
    """Return how long a delivery took by the vendor's clock; None if the message is not delivered."""
    if not isinstance(outcome, SmsDetails) or outcome.status != SmsStatus.DELIVERED:
        return None
    if outcome.registered_at is None or outcome.done_at is None:
        return None
    return max(0.0, (outcome.done_at - outcome.registered_at).total_seconds())


async def poll_balance(client: AsyncRtiSmsClient, minimum: Decimal) -> tuple[bool, Decimal | None]:
    """
    Poll the balance, once.

    :param client: an opened client.
    :param minimum: the amount to wait for.
    :return: whether the balance is at least that, and the balance; None after a transient error.
    :raises RtiSmsPermanentError: the API refused.
    """
    try:
        balance = await client.get_balance()
    except RtiSmsTransientError as error:
        log.warning("%s The next poll will try again", error)
        return False, None
    is_done = balance >= minimum
    log.info("The balance is %s, %s %s", balance, "at least" if is_done else "below", minimum)
    return is_done, balance
