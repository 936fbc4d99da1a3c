"""What a hook needs on an event loop: read a Connection and mask a secret without blocking the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from airflow.providers.common.compat.sdk import mask_secret

if TYPE_CHECKING:
    from airflow_provider_rtisms.api.aio import SharedByKey
    from airflow_provider_rtisms.api.settings import ApiSettings

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """
    Run a function that asks Airflow for something, such as a Connection.

    Only a thread of asgiref's ``sync_to_async`` can do that in ``dag.test()`` and in a triggerer on every version: a
    triggerer's supervisor does not serve other threads.

    :param function: blocks.
    :return: its result.
    """
    from asgiref.sync import sync_to_async

    return await sync_to_async(function)()


async def amask_secret(secret: str) -> None:
    """
    Mask a secret in logs.

    :param secret: the plain value.
    """
    try:
        from airflow.sdk.log import amask_secret as mask
    except ImportError:  # before Airflow 3.3.2
        await in_thread(lambda: mask_secret(secret))
    else:
        await mask(secret)


@dataclass(slots=True)
class _Read:
    """The latest read of a Connection: when it began, and what it gave."""

    began: float = 0.0
    settings: ApiSettings | None = None


async def single_flight_read(conn_id: str, read: Callable[[], ApiSettings]) -> ApiSettings:
    """
    Read a Connection. Callers that ask at the same time share one read.

    The supervisor of a triggerer serves few reads a second, and a triggerer may start a thousand triggers at once. A
    caller never gets the result of a read that began before it asked.

    :param conn_id: which Connection.
    :param read: reads it, blocking.
    :return: its fields, checked.
    :raises RtiSmsConfigError: a field of the Connection is missing or malformed.
    """
    asked = time.monotonic()
    with _reads().use(conn_id, _Read) as entry:
        async with entry.lock:
            latest = entry.value
            if latest.settings is None or latest.began < asked:
                latest.began = time.monotonic()
                latest.settings = None
                latest.settings = await in_thread(read)
            return latest.settings


@cache
def _reads() -> SharedByKey[_Read]:
    from airflow_provider_rtisms.api.aio import SharedByKey

    return SharedByKey()
