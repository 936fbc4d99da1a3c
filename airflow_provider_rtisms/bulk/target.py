"""Where a bulk fetch writes to, and where it keeps its records until the output is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from airflow_provider_rtisms.bulk.lineage import report_output
from airflow_provider_rtisms.bulk.local_files import LocalOutput
from airflow_provider_rtisms.bulk.part import PartFile
from airflow_provider_rtisms.bulk.records import COLUMNS
from airflow_provider_rtisms.bulk.storage import is_local

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_rtisms.bulk.formats import Convert
    from airflow_provider_rtisms.bulk.records import Record
    from airflow_provider_rtisms.bulk.storage import StoragePath


class Target(Protocol):
    """The output of a bulk fetch, and the part that keeps the records until it is complete."""

    @property
    def part(self) -> PartFile:
        """The local file that collects the records."""

    def __str__(self) -> str:
        """Return the name of the output, for people."""

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
        Find out whether the output can be written, before the first request.

        :raises RtiSmsError: it cannot.
        """

    def is_due(self) -> bool:
        """Return whether :meth:`save` should be called now; cheap."""

    def save(self, *, is_last: bool = False) -> None:
        """
        Save the records where an attempt on another machine finds them. A failure is only logged.

        :param is_last: whether no further save follows; then a failure is repeated with backoff.
        """

    def commit(self, json_lines: Iterable[bytes]) -> None:
        """
        Write all records to the output, in one step, and remove the part.

        :param json_lines: the records; may be read again.
        :raises RtiSmsError: the output cannot be written; the part is kept.
        """

    def remove(self) -> None:
        """Remove the part, which is no longer needed. A failure is only logged."""

    def summary(self) -> dict[str, Any]:
        """Return what the summary says of the output after the commit, such as its ``path``."""

    def close(self) -> None:
        """Close the part."""


class LocalTarget:
    """
    A file on this machine. Its part lies beside it, named after the ids, so that other ids are never mixed in.

    :param path: the final name.
    :param digest: identifies the ids.
    :param convert: writes the records in the format of the file.
    :param columns: of the records.
    :param run: identifies the DAG run; None outside of one.
    """

    def __init__(
        self, path: Path, digest: str, convert: Convert, columns: Sequence[str] = COLUMNS, run: str | None = None
    ) -> None:
        self.path = path
        self.part = PartFile(path.with_name(f"{path.name}.{digest}.part"), columns, run)
        self.kept_at = str(self.part.path)
        self._convert = convert
        self._bytes = 0
        self._output = LocalOutput(path, path.with_name(f"{path.name}.{digest}.staging"))

    def __str__(self) -> str:
        return str(self.path)

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

    def commit(self, json_lines: Iterable[bytes]) -> None:
        """Write a staging file beside the final one, then rename it."""

        def fill(file: IO[bytes]) -> None:
            self._convert(json_lines, file)
            self._bytes = file.tell()

        self._output.commit(fill)
        self.remove()
        report_output(self.path)

    def remove(self) -> None:
        """Remove the part."""
        self.part.remove()

    def summary(self) -> dict[str, Any]:
        """Return the ``path``, and its size in ``bytes``."""
        return {"path": str(self.path), "bytes": self._bytes}

    def close(self) -> None:
        """Close the part."""
        self.part.close()


def open_target(
    path: StoragePath, digest: str, convert: Convert, columns: Sequence[str] = COLUMNS, run: str | None = None
) -> Target:
    """
    Return the target for a path.

    :param path: local or in an object store.
    :param digest: identifies the ids.
    :param convert: writes the records in the format of the file.
    :param columns: of the records.
    :param run: identifies the DAG run; None outside of one.
    :raises RtiSmsError: the part cannot be opened.
    """
    if is_local(path):
        return LocalTarget(path, digest, convert, columns, run)
    from airflow_provider_rtisms.bulk.object_target import ObjectTarget

    return ObjectTarget(cast("ObjectStoragePath", path), digest, convert, columns, run)
