"""Results of a send: in XCom, or as a file with one row for each message."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, cast

from airflow_provider_rtisms.api.models import SendOutcome
from airflow_provider_rtisms.bulk.lineage import report_output
from airflow_provider_rtisms.bulk.local_files import LocalOutput
from airflow_provider_rtisms.bulk.object_store import ObjectOutput
from airflow_provider_rtisms.bulk.storage import is_local, storage_path
from airflow_provider_rtisms.bulk.storage_errors import explain_failures
from airflow_provider_rtisms.operators.message_files import wrong_ending

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath

    from airflow_provider_rtisms.bulk.storage import StoragePath
    from airflow_provider_rtisms.sending.outbox import Outbox

log = logging.getLogger(__name__)

#: The XCom that holds what is known of each message, also where the task fails.
SUBMISSIONS_KEY = "submissions"
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
        raise wrong_ending("output_path")
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
    else:
        ObjectOutput(cast("ObjectStoragePath", path), "results").commit(fill)
    report_output(path)


def keep_results(context: Context, outbox: Outbox, path: StoragePath | None, *, to_xcom: bool) -> Any:
    """
    Write what is known of each message to XCom, or to the file and the counts to XCom.

    :param context: of the task.
    :param outbox: after the send, or after a part of it.
    :param path: the file, or None.
    :param to_xcom: whether XCom gets anything.
    :return: what XCom holds.
    :raises RtiSmsStorageError: the file cannot be written.
    :raises RtiSmsStorageUnavailableError: the file cannot be written at the moment.
    """
    result: Any = outbox.results()
    if outbox.is_journal_lost:
        log.warning(
            "The task state store no longer accepts what this attempt writes, so another attempt may have taken "
            "over. This attempt keeps no results"
        )
        return result
    if path is not None:
        write_results(path, result)
        result = {"path": str(path), **outbox.counts()}
        log.info("The results of all messages are in %s", path)
    ti = context.get("ti")
    if ti is not None and to_xcom:
        ti.xcom_push(key=SUBMISSIONS_KEY, value=result)
    return result


def kept_results(context: Context) -> Any:
    """Return what :func:`keep_results` has written to XCom before the deferral of the task; None if nothing."""
    ti: Any = context["ti"]
    return ti.xcom_pull(task_ids=ti.task_id, key=SUBMISSIONS_KEY, map_indexes=ti.map_index)


def counts_in(results: Any) -> dict[str, int]:
    """
    Return how many messages there are, and how many have each outcome.

    :param results: see :func:`keep_results`; None for an empty result.
    """
    if isinstance(results, dict):
        return {name: results[name] for name in ("messages", *map(str, SendOutcome))}
    if not results:
        return {}
    counts = Counter(one["outcome"] for one in results)
    return {"messages": len(results), **{str(outcome): counts[str(outcome)] for outcome in SendOutcome}}


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
