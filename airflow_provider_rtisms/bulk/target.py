"""Write the file of a bulk fetch, locally or to an object store, and keep what has been fetched until then."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from airflow_provider_rtisms.bulk.local_files import LocalOutput
from airflow_provider_rtisms.bulk.part import HEADER
from airflow_provider_rtisms.bulk.storage import is_local

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_rtisms.bulk.formats import Convert
    from airflow_provider_rtisms.bulk.part import PartFile
    from airflow_provider_rtisms.bulk.storage import StoragePath

#: Seconds between two uploads of what has been fetched, where the target is in an object store.
UPLOAD_EVERY = 10.0


class Target(Protocol):
    """What :mod:`~airflow_provider_rtisms.bulk.job` needs of something to write to."""

    part_path: Path
    """The local file that collects records."""
    kept_at: str
    """Where a later attempt finds them, for people."""

    def restore(self) -> None:
        """Bring what an earlier attempt has fetched into ``part_path``."""

    def probe(self) -> None:
        """Find out whether the file can be written, before the first request."""

    def is_due(self) -> bool:
        """Whether :meth:`save` should be called now; cheap."""

    def save(self, part: PartFile) -> None:
        """Save what has been fetched so far, so that an attempt on another machine finds it."""

    def commit(self, part: PartFile, convert: Convert) -> None:
        """Give the complete file its final name, in one step, and remove the part."""

    def close(self) -> None:
        """Remove what only this attempt needs."""


class LocalTarget:
    """
    A file on this machine. Its part lies beside it, named after the ids, so that parts of other ids are never mixed in.

    :param path: the final name.
    :param digest: identifies the ids.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self.part_path = path.with_name(f"{path.name}.{digest}.part")
        self.kept_at = str(self.part_path)
        self._output = LocalOutput(path, path.with_name(f"{path.name}.{digest}.staging"))

    def restore(self) -> None:
        """Do nothing: the part is where it was left."""

    def probe(self) -> None:
        """Create the staging file for a moment."""
        self._output.probe()

    def is_due(self) -> bool:
        """Return False: the part is safe as soon as it is written."""
        return False

    def save(self, part: PartFile) -> None:
        """Do nothing, see :meth:`is_due`."""

    def commit(self, part: PartFile, convert: Convert) -> None:
        """Convert the part beside the target, then rename."""
        self._output.commit(lambda staging: convert(part.lines(), staging))
        part.path.unlink()

    def close(self) -> None:
        """Do nothing."""


class ObjectTarget:
    """
    An object in a store such as S3 or GCS, which cannot be appended to.

    Records collect in a temporary local file; every few seconds what is new goes to the store as one numbered object,
    in a folder beside the target. An attempt on another machine reads these back.

    :param path: the final name.
    :param digest: identifies the ids.
    """

    def __init__(self, path: ObjectStoragePath, digest: str) -> None:
        self.path = path
        self._scratch = tempfile.TemporaryDirectory(prefix="rtisms-")
        self.part_path = Path(self._scratch.name, "part.jsonl")
        self._staging = Path(self._scratch.name, "staging")
        self._folder = path.parent / f"{path.name}.{digest}.part"
        self._upload = path.parent / f"{path.name}.{digest}.staging"
        self.kept_at = str(self._folder)
        self._saved_bytes, self._saved_objects = len(HEADER), 0
        self._saved_at = time.monotonic()

    def probe(self) -> None:
        """Do nothing."""

    def restore(self) -> None:
        """Download the numbered objects, one after the other."""
        if not (objects := self._kept()):
            return
        with self.part_path.open("wb") as part:
            part.write(HEADER)
            for kept in objects:
                with kept.open("rb") as source:  # type: ignore[no-untyped-call]
                    shutil.copyfileobj(source, part)
                self._saved_objects += 1
            self._saved_bytes = part.tell()

    def is_due(self) -> bool:
        """Return whether the last upload is :data:`UPLOAD_EVERY` seconds ago."""
        return time.monotonic() - self._saved_at > UPLOAD_EVERY

    def save(self, part: PartFile) -> None:
        """Upload what is new as the next numbered object."""
        self._saved_at = time.monotonic()
        if part.size < self._saved_bytes:  # a damaged end was dropped: save it again
            self._forget()
        if tail := b"".join(part.pieces(self._saved_bytes, sys.maxsize)):
            self._saved_objects += 1
            with (self._folder / f"{self._saved_objects:08}.jsonl").open("wb") as kept:  # type: ignore[no-untyped-call]
                kept.write(tail)
            self._saved_bytes += len(tail)

    def commit(self, part: PartFile, convert: Convert) -> None:
        """Convert locally, upload under another name, then move: no store shows half an object under the final name."""
        with self._staging.open("wb") as staging:
            convert(part.lines(), staging)
        store = self.path.fs
        store.put_file(str(self._staging), self._upload.path)
        store.mv(self._upload.path, self.path.path)
        self._forget()

    def close(self) -> None:
        """Remove the temporary files."""
        self._scratch.cleanup()

    def _kept(self) -> list[ObjectStoragePath]:
        if not self._folder.exists():
            return []
        return sorted((one for one in self._folder.iterdir() if one.name.endswith(".jsonl")), key=lambda one: one.name)

    def _forget(self) -> None:
        for kept in self._kept():
            kept.unlink()
        self._saved_bytes, self._saved_objects = len(HEADER), 0


def open_target(path: StoragePath, digest: str) -> Target:
    """
    Return the target for a path.

    :param path: local or in an object store.
    :param digest: identifies the ids.
    """
    if is_local(path):
        return LocalTarget(path, digest)
    return ObjectTarget(cast("ObjectStoragePath", path), digest)
