"""Convert records to the format that a file name asks for, as a stream."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsInputError
from airflow_provider_rtisms.bulk.records import COLUMNS, TIMES

T = TypeVar("T")
#: Rows of a row group of Parquet; they are in memory together.
ROW_GROUP = 10_000

#: Takes records as JSON lines, and a binary file to write to.
Convert = Callable[[Iterable[bytes], IO[bytes]], None]


def converter(name: str, columns: Sequence[str] = COLUMNS) -> Convert:
    """
    Return the function that converts records to the format that a name asks for.

    :param name: ends in ``.jsonl``, ``.csv`` or ``.parquet``; ``.gz`` may follow the first two.
    :param columns: of the records.
    :return: takes records as JSON lines, and a binary file to write to.
    :raises RtiSmsInputError: the name has no such suffix.
    :raises RtiSmsConfigError: pyarrow is missing.
    """
    bare = name.removesuffix(".gz")
    suffix = Path(bare).suffix
    if suffix not in _CONVERTERS or (suffix == ".parquet" and bare != name):
        raise RtiSmsInputError(f"output_path ends in {name[-20:]!r}: use .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet.")
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise RtiSmsConfigError(
                "Writing .parquet takes pyarrow: pip install 'airflow-provider-rtisms[parquet]', or use .jsonl or .csv."
            ) from None
    convert = partial(_CONVERTERS[suffix], columns)
    return convert if bare == name else gzipped(convert)


def gzipped(convert: Callable[[Iterable[T], IO[bytes]], None]) -> Callable[[Iterable[T], IO[bytes]], None]:
    """Return a function that writes through gzip what another one writes."""

    def convert_gzipped(items: Iterable[T], target: IO[bytes]) -> None:
        # Without name and time, equal records make equal files.
        with gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as packed:
            convert(items, packed)  # type: ignore[arg-type]  # it has what IO[bytes] needs here

    return convert_gzipped


def _to_jsonl(columns: Sequence[str], json_lines: Iterable[bytes], target: IO[bytes]) -> None:
    target.writelines(json_lines)


def _to_csv(columns: Sequence[str], json_lines: Iterable[bytes], target: IO[bytes]) -> None:
    text = io.TextIOWrapper(target, "utf-8", newline="")
    rows = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for record in map(json.loads, json_lines):
        # Databases read true and false; Python's own words only some of them.
        rows.writerow({**record, "is_final": json.dumps(record["is_final"])})
    text.detach()


def _to_parquet(columns: Sequence[str], json_lines: Iterable[bytes], target: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = pa.timestamp("s", tz="UTC")
    types = {"is_final": pa.bool_(), "cost": pa.float64(), **dict.fromkeys(TIMES, moment)}
    schema = pa.schema([(column, types.get(column, pa.string())) for column in columns])
    records = map(json.loads, json_lines)
    with pq.ParquetWriter(target, schema) as writer:
        while rows := [_with_moments(record) for record in islice(records, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _with_moments(record: dict[str, Any]) -> dict[str, Any]:
    return record | {name: datetime.fromisoformat(record[name]) for name in TIMES if record[name]}


_CONVERTERS: dict[str, Callable[[Sequence[str], Iterable[bytes], IO[bytes]], None]] = {
    ".jsonl": _to_jsonl,
    ".csv": _to_csv,
    ".parquet": _to_parquet,
}
