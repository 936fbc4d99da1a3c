"""Read an object as a stream, from a store that may fail or never respond."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, cast

from airflow_provider_rtisms.bulk.object_store import ObjectStore
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageUnavailableError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

#: Bytes of one request, and so of memory.
PIECE_SIZE = 4 * 1024 * 1024


def open_object(path: ObjectStoragePath, action: str) -> IO[bytes]:
    """
    Open an object. Each piece of it is a request that is repeated, and that ends in bounded time.

    :param path: which.
    :param action: what an error says, such as ``Reading s3://bucket/ids.txt``.
    :raises RtiSmsError: the store refuses it, or does not respond; while reading too.
    """
    store = ObjectStore(path)
    size, tag = store.version(path.path, action)
    if size is None:
        return io.BytesIO(store.read(path.path, action=action))
    return cast("IO[bytes]", io.BufferedReader(_Pieces(store, path.path, size, tag, action), PIECE_SIZE))


class _Pieces(io.RawIOBase):
    def __init__(self, store: ObjectStore, key: str, size: int, tag: str, action: str) -> None:
        self._store = store
        self._key = key
        self._size = size
        self._tag = tag
        self._action = action
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        end = min(self._position + len(buffer), self._size)
        if self._position == end:
            self._check_version()
            return 0
        piece = self._store.read(self._key, self._position, end, self._action)
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _check_version(self) -> None:
        """Make sure that the pieces are of one object: another one may have taken its name meanwhile."""
        if self._store.version(self._key, self._action) != (self._size, self._tag):
            raise RtiSmsStorageUnavailableError(
                f"{self._action} failed: another program has replaced the object meanwhile. Run the task again."
            )
