"""Results of a send as a file: one row for each message."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.bulk.local_files import LocalOutput
from airflow_provider_rtisms.bulk.storage import is_local, storage_path
from airflow_provider_rtisms.bulk.storage_errors import explain_failures

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.storage import StoragePath

#: The columns of the file.
COLUMNS = ("reference", "outcome", "status", "submission_id")


def check_output_path(value: object) -> StoragePath:
    """
    Return the path to write results to.

    :param value: local or in an object store; its name ends in ``.jsonl`` or ``.csv``, ``.gz`` may follow.
    :raises RtiSmsInputError: it is anything else.
    """
    path = storage_path("output_path", value)
    if PurePath(path.name.removesuffix(".gz")).suffix not in (".csv", ".jsonl"):
        raise RtiSmsInputError(f"output_path ends in {path.name[-20:]!r}: use .jsonl, .jsonl.gz, .csv or .csv.gz.")
    return path


def write_results(path: StoragePath, records: Iterable[Mapping[str, Any]]) -> None:
    """
    Write results to a file, which appears under its name when it is complete.

    :param path: from :func:`check_output_path`.
    :param records: with the keys of :data:`COLUMNS`; a missing one is null.
    :raises RtiSmsStorageError: the file cannot be written.
    :raises RtiSmsStorageUnavailableError: the file cannot be written at the moment.
    """
    is_packed = path.name.endswith(".gz")
    name = path.name.removesuffix(".gz")

    def fill(target: IO[bytes]) -> None:
        if not is_packed:
            _write(name, target, records)
            return
        # Without name and time, equal records make equal files.
        with gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as packed:
            _write(name, packed, records)  # type: ignore[arg-type]

    if is_local(path):
        with explain_failures(f"Writing {path} (output_path)"):
            path.parent.mkdir(parents=True, exist_ok=True)
        LocalOutput(path, path.with_name(f"{path.name}.staging")).commit(fill)
        return
    with explain_failures(f"Writing {path} (output_path)", Exception):
        content = io.BytesIO()
        fill(content)
        path.write_bytes(content.getvalue())


def _write(name: str, target: IO[bytes], records: Iterable[Mapping[str, Any]]) -> None:
    text = io.TextIOWrapper(target, "utf-8", newline="")
    rows = ({column: record.get(column) for column in COLUMNS} for record in records)
    if Path(name).suffix == ".csv":
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.writelines(json.dumps(row) + "\n" for row in rows)
    text.detach()
