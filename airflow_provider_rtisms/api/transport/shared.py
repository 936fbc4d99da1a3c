"""Values that the users on one event loop share by key, and the client that all triggers of a Connection share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient, OnSecret
from airflow_provider_rtisms.api.transport.stats import Stats

V = TypeVar("V")


@dataclass(slots=True)
class Shared(Generic[V]):
    """
    A value and its users.

    :param value: what they share.
    :param lock: for users that change it.
    :param users: how many there are.
    """

    value: V
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class SharedByKey(Generic[V]):
    """Share values by key among the users on one event loop. The last user of a key removes its value."""

    def __init__(self) -> None:
        self._entries: dict[tuple[asyncio.AbstractEventLoop, Hashable], Shared[V]] = {}

    @contextmanager
    def use(self, key: Hashable, make: Callable[[], V]) -> Iterator[Shared[V]]:
        """
        Use the value of a key. Its ``users`` is 0 after the last user has left.

        :param key: equal keys share a value.
        :param make: makes the value for the first user.
        """
        full_key = (asyncio.get_running_loop(), key)
        entry = self._entries.get(full_key)
        if entry is None:
            entry = self._entries[full_key] = Shared(make())
        entry.users += 1
        try:
            yield entry
        finally:
            entry.users -= 1
            if entry.users == 0:
                del self._entries[full_key]


_clients: SharedByKey[AsyncRtiSmsClient] = SharedByKey()


@asynccontextmanager
async def shared_client(
    settings: ApiSettings, on_secret: OnSecret | None = None, new_stats: Callable[[], Stats] = Stats
) -> AsyncIterator[AsyncRtiSmsClient]:
    """
    Yield the client that all users of these settings on this event loop share. The last user closes it.

    :param settings: equal settings share a client, and so a token, sockets and ``max_concurrency``.
    :param on_secret: as for :class:`AsyncRtiSmsClient`; that of the first user is kept.
    :param new_stats: makes the counters of the client; that of the first user is called.
    """
    entry: Shared[AsyncRtiSmsClient] | None = None
    try:
        with _clients.use(settings, lambda: AsyncRtiSmsClient(settings, None, on_secret, new_stats())) as entry:
            async with entry.lock:
                await entry.value.open()
            yield entry.value
    finally:
        if entry is not None and entry.users == 0:
            # Shielded: a user that is cancelled while it closes the client would leave sockets open.
            await asyncio.shield(entry.value.close())
