"""An object store in memory that fails as a test tells it to."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem


class Store(AbstractFileSystem):  # type: ignore[misc,unused-ignore]
    """
    Objects by key.

    ``failures`` holds what the next calls of a method raise; None lets one pass. ``calls`` has all calls so far.
    """

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.failures: defaultdict[str, list[BaseException | None]] = defaultdict(list)
        self.calls: list[tuple[Any, ...]] = []

    def called(self, name: str) -> list[Any]:
        """Return the first argument of each call of a method."""
        return [call[1] for call in self.calls if call[0] == name]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytearray:
        self._note("cat_file", path)
        return bytearray(self.objects[path][start:end])

    def info(self, path: str) -> dict[str, Any]:
        self._note("info", path)
        return {"size": len(self.objects[path]), "ETag": hash(self.objects[path])}

    def pipe_file(self, path: str, value: bytes) -> None:
        self._note("pipe_file", path, value)
        self.objects[path] = value

    def put_file(self, lpath: str, rpath: str) -> None:
        self._note("put_file", lpath, rpath)
        self.objects[rpath] = Path(lpath).read_bytes()

    def ls(self, path: str, detail: bool) -> list[str]:
        self._note("ls", path)
        assert not detail
        found = [key for key in self.objects if key.startswith(f"{path}/")]
        if not found:
            raise FileNotFoundError(path)
        return found[::-1]

    def rm_file(self, path: str) -> None:
        self._note("rm_file", path)
        if path not in self.objects:
            raise FileNotFoundError(path)
        del self.objects[path]

    def rmdir(self, path: str) -> None:
        self._note("rmdir", path)

    def invalidate_cache(self, path: str | None = None) -> None:
        self._note("invalidate_cache", path)

    def makedirs(self, path: str, exist_ok: bool) -> None:
        assert exist_ok
        self._note("makedirs", path)

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        failures = self.failures[call[0]]
        if failures and (failure := failures.pop(0)):
            raise failure


class FolderStore(Store):
    """A store with a rename of its own, as SFTP and HDFS have one."""

    def mv(self, path1: str, path2: str) -> None:
        self._note("mv", path1, path2)
        self.objects[path2] = self.objects.pop(path1)


class StoredPath:
    """
    What bulk fetches use of ObjectStoragePath.

    :param fs: the store.
    :param protocol: the scheme of the URL.
    """

    def __init__(self, fs: Store, protocol: str = "s3") -> None:
        self.fs = fs
        self.protocol = protocol
        self.name = "details.jsonl"
        self.path = f"bucket/day/{self.name}"

    def __str__(self) -> str:
        return f"{self.protocol}://conn@{self.path}"
