"""Where a bulk fetch writes to, and where it keeps its records until the file is complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from airflow_provider_rtisms.bulk.local_files import LocalOutput
from airflow_provider_rtisms.bulk.part import PartFile
from airflow_provider_rtisms.bulk.storage import is_local

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_rtisms.bulk.local_files import Fill
    from airflow_provider_rtisms.bulk.records import Record
    from airflow_provider_rtisms.bulk.storage import StoragePath


class Target(Protocol):
    """The file of a bulk fetch, and the part that keeps the records until it is complete."""

    part: PartFile
    """The local file that collects the records."""

    @property
    def kept_at(self) -> str:
        """Where a later attempt finds the records, for people."""

    def resume(self, accept: Callable[[Record], bool]) -> None:
        """
        Read what an earlier attempt has fetched into the part.

        :param accept: called with each record; returns False for a record that does not belong here.
        """

    def probe(self) -> None:
        """
        Find out whether the file can be written, before the first request.

        :raises RtiSmsError: it cannot.
        """

    def is_due(self) -> bool:
        """Return whether :meth:`save` should be called now; cheap."""

    def save(self, *, is_last: bool = False) -> None:
        """
        Save the records where an attempt on another machine finds them. A failure is only logged.

        :param is_last: whether no further save follows; then a failure is repeated with backoff.
        """

    def commit(self, fill: Fill) -> None:
        """
        Write the complete file under its final name, in one step, and remove the part.

        :param fill: writes the content.
        :raises RtiSmsError: the file cannot be written; the part is kept.
        """

    def close(self) -> None:
        """Close the part."""


class LocalTarget:
    """
    A file on this machine. Its part lies beside it, named after the ids, so that other ids are never mixed in.

    :param path: the final name.
    :param digest: identifies the ids.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.part = PartFile(path.with_name(f"{path.name}.{digest}.part"))
        self.kept_at = str(self.part.path)
        self._output = LocalOutput(path, path.with_name(f"{path.name}.{digest}.staging"))

    def resume(self, accept: Callable[[Record], bool]) -> None:
        """Read the part, which is where the earlier attempt left it."""
        self.part.resume(accept)

    def probe(self) -> None:
        """Create the staging file for a moment."""
        self._output.probe()

    def is_due(self) -> bool:
        """Return False: the part is safe as soon as it is written."""
        return False

    def save(self, *, is_last: bool = False) -> None:
        """Do nothing, see :meth:`is_due`."""

    def commit(self, fill: Fill) -> None:
        """Write a staging file beside the final one, then rename it."""
        self._output.commit(fill)
        self.part.remove()

    def close(self) -> None:
        """Close the part."""
        self.part.close()


def open_target(path: StoragePath, digest: str) -> Target:
    """
    Return the target for a path.

    :param path: local or in an object store.
    :param digest: identifies the ids.
    :raises RtiSmsError: the part cannot be opened.
    """
    if is_local(path):
        return LocalTarget(path, digest)
    from airflow_provider_rtisms.bulk.object_target import ObjectTarget

    return ObjectTarget(cast("ObjectStoragePath", path), digest)
