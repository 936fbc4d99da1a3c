"""The file of the ids that the API does not know."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.bulk.formats import gzipped
from airflow_provider_rtisms.bulk.lineage import report_output
from airflow_provider_rtisms.bulk.local_files import LocalOutput
from airflow_provider_rtisms.bulk.object_store import ObjectOutput
from airflow_provider_rtisms.bulk.storage import is_local

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
    from airflow_provider_rtisms.bulk.storage import StoragePath

COLUMNS = ("submission_id", "reason")


class MissingFile:
    """
    A file that names the missing ids, in the order of arrival.

    :param path: ends in ``.csv`` or ``.jsonl`` for ids and reasons; else one id a line. ``.gz`` may follow.
    :param digest: identifies the ids of the fetch.
    :raises RtiSmsInputError: the path ends in ``.parquet``.
    :raises RtiSmsError: the file cannot be written; found out now, if it can be.
    """

    def __init__(self, path: StoragePath, digest: str) -> None:
        bare = path.name.removesuffix(".gz")
        suffix = Path(bare).suffix
        if suffix == ".parquet":
            raise RtiSmsInputError(f"missing_path ends in {path.name[-20:]!r}: use .txt, .csv or .jsonl.")
        convert = _CONVERTERS.get(suffix, _to_text)
        self._convert = convert if bare == path.name else gzipped(convert)
        self._path = path
        self._output = (
            LocalOutput(path, path.with_name(f"{path.name}.{digest}.staging"))
            if is_local(path)
            else ObjectOutput(cast("ObjectStoragePath", path), digest)
        )
        self._output.probe()

    def __str__(self) -> str:
        return str(self._path)

    def write(self, ids: DistinctIds) -> None:
        """
        Write the file.

        :param ids: knows which are missing.
        :raises RtiSmsError: the file cannot be written.
        """
        self._output.commit(lambda file: self._convert(ids.missing(), file))
        report_output(self._path)


def columns_of(path: str) -> Sequence[str]:
    """Return the columns of a file of missing ids."""
    return COLUMNS if Path(path.removesuffix(".gz")).suffix in _CONVERTERS else COLUMNS[:1]


def _to_text(rows: Iterable[tuple[str, str]], file: IO[bytes]) -> None:
    file.writelines(f"{submission_id}\n".encode() for submission_id, _ in rows)


def _to_csv(rows: Iterable[tuple[str, str]], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    text.detach()


def _to_jsonl(rows: Iterable[tuple[str, str]], file: IO[bytes]) -> None:
    file.writelines(json.dumps(dict(zip(COLUMNS, row, strict=True))).encode() + b"\n" for row in rows)


_CONVERTERS = {".csv": _to_csv, ".jsonl": _to_jsonl}
