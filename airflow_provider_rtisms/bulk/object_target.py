"""A bulk fetch into an object store, which cannot append to an object."""

from __future__ import annotations

import hashlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_rtisms.bulk.lineage import report_output
from airflow_provider_rtisms.bulk.object_store import ObjectOutput, ObjectStore
from airflow_provider_rtisms.bulk.part import PartFile
from airflow_provider_rtisms.bulk.records import COLUMNS, parse_record
from airflow_provider_rtisms.bulk.storage_errors import STORAGE_ERRORS, RtiSmsStorageError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_rtisms.bulk.formats import Convert
    from airflow_provider_rtisms.bulk.records import Record

log = logging.getLogger(__name__)

#: Seconds between two uploads of what has been fetched.
UPLOAD_EVERY = 10.0
#: Bytes of one part object, at most.
PIECE_SIZE = 8 * 1024 * 1024
#: The name of a part object, see :func:`_name_piece`.
_PIECE = re.compile(r"(?P<offset>[0-9]{12})-(?P<size>[0-9]{1,9})-[0-9a-f]{16}(?=\.jsonl$)")


class ObjectTarget:
    """
    An object in a store such as S3 or GCS.

    Records collect in a local part file in the folder for temporary files. Every few seconds the new ones are uploaded
    as a part object, in a folder beside the target, where an attempt on another machine finds them.

    :param path: the final name.
    :param digest: identifies the ids.
    :param convert: writes the records in the format of the object.
    :param columns: of the records.
    :param run: identifies the DAG run; None outside of one.
    """

    def __init__(
        self,
        path: ObjectStoragePath,
        digest: str,
        convert: Convert,
        columns: Sequence[str] = COLUMNS,
        run: str | None = None,
    ) -> None:
        self.path = path
        self._convert = convert
        self._bytes = 0
        self._store = ObjectStore(path)
        self._folder = f"{path.path}.{digest}.part"
        self._folder_url = f"{path}.{digest}.part"
        self._output = ObjectOutput(path, digest)
        self.part = PartFile(self._output.staging_path.with_suffix(".part"), columns, run)
        self._objects: set[str] = set()  # the keys of our own part objects
        self._saved = len(self.part.header)  # bytes of the part that are in the store
        self._saved_at = time.monotonic()
        self._saving = threading.Lock()  # a cancelled fetch saves while its last upload may still run in a thread

    def __str__(self) -> str:
        return str(self.path)

    @property
    def kept_at(self) -> str:
        """Where a later attempt finds the records: the store, or this machine if the store refused them."""
        if self._saved >= self.part.size:
            return self._folder_url
        return f"{self.part.path} on {socket.gethostname()}"

    def resume(self, accept: Callable[[Record], bool]) -> None:
        """Read the local part, then the part objects that are no copies of its beginning."""
        self.part.resume(accept)
        is_first = self.part.size == len(self.part.header)
        keys = self._skip_copies(self._list_objects())
        for records in self._read_objects(keys, accept):
            self.part.append(records)
        if is_first:
            self._saved = self.part.size
        # Otherwise this machine may have records that the store lacks: they are uploaded again.

    def probe(self) -> None:
        """Write a part object without records. It stays until the file is complete."""
        self._write_object("header", b"")

    def is_due(self) -> bool:
        """Return whether the last upload is :data:`UPLOAD_EVERY` seconds ago."""
        return time.monotonic() - self._saved_at > UPLOAD_EVERY

    def save(self, *, is_last: bool = False) -> None:
        """Upload the new records as part objects."""
        attempts = None if is_last else 1
        with self._saving:
            try:
                for piece in self.part.pieces(self._saved, PIECE_SIZE):
                    self._write_object(_name_piece(self._saved, piece), piece, attempts)
                    self._saved += len(piece)
            except STORAGE_ERRORS as error:
                log.warning("%s The records are kept in %s for now", error, self.kept_at)
            self._saved_at = time.monotonic()

    def commit(self, json_lines: Iterable[bytes]) -> None:
        """Write the file locally, then upload it, then delete the part objects."""
        self.save(is_last=True)

        def fill(file: IO[bytes]) -> None:
            self._convert(json_lines, file)
            self._bytes = file.tell()

        self._output.commit(fill)
        self.remove()
        report_output(self.path)

    def remove(self) -> None:
        """Remove the local part, and delete the part objects."""
        self.part.remove()
        self._delete_objects()

    def summary(self) -> dict[str, Any]:
        """Return the ``path``, and its size in ``bytes``."""
        return {"path": str(self.path), "bytes": self._bytes}

    def close(self) -> None:
        """Close the local part, and remove it if the store has all of its records."""
        if self._saved >= self.part.size:
            self.part.remove()
        self.part.close()

    def _write_object(self, name: str, lines: bytes, attempts: int | None = None) -> None:
        key = f"{self._folder}/{name}.jsonl"
        self._objects.add(key)
        self._store.write(key, self.part.header + lines, attempts)

    def _list_objects(self) -> list[str]:
        try:
            return self._store.list(self._folder)
        except RtiSmsStorageError as error:  # such as no permission to list
            log.warning("%s The submissions that an earlier attempt has fetched are fetched again", error)
            return []

    def _skip_copies(self, keys: Iterable[str]) -> list[str]:
        """
        Leave out the objects that hold the beginning of the local part, and do not upload that again.

        After a kill on this machine these are all of them. To read hundreds of megabytes twice would take long.
        """
        rest = []
        for key in keys:  # sorted, so by their offsets
            name = _PIECE.search(key)
            if name is not None and int(name["offset"]) == self._saved:
                piece = self.part.read(self._saved, int(name["size"]))
                if _name_piece(self._saved, piece) == name[0]:
                    self._saved += len(piece)
                    continue
            rest.append(key)
        return rest

    def _read_objects(self, keys: Iterable[str], accept: Callable[[Record], bool]) -> Iterator[list[Record]]:
        try:
            for key in keys:
                data = self._store.read(key)
                header = self.part.find_header(data)
                if header is None:
                    log.warning("%s %s: it is not used", key, self.part.why_unusable(data))
                    continue
                lines = data[len(header) :].splitlines(keepends=True)
                records = (parse_record(line, self.part.columns) for line in lines)
                accepted = (record for record in records if record is not None and accept(record))
                while batch := list(islice(accepted, 1000)):  # an object holds tens of thousands
                    yield batch
        except RtiSmsStorageError as error:
            log.warning("%s The submissions that an earlier attempt has fetched are fetched again", error)

    def _delete_objects(self) -> None:
        """Delete the part objects. The file is complete, so a failure is only logged."""
        keys = self._objects
        try:
            with suppress(RtiSmsStorageError):  # no permission to list
                keys |= set(self._store.list(self._folder))
            while keys:
                self._store.delete(min(keys))
                keys.remove(min(keys))
            self._store.delete_folder(self._folder)
        except STORAGE_ERRORS as error:
            log.warning(
                "%s is complete, but its part objects could not be deleted. %s Delete the folder %s yourself",
                self.path,
                error,
                self._folder_url,
            )


def _name_piece(offset: int, lines: bytes) -> str:
    """Return the name of a part object: where its lines are in the local part, how long they are, and their digest."""
    return f"{offset:012}-{len(lines)}-{hashlib.sha256(lines).hexdigest()[:16]}"
