"""Results of a send: in XCom, or as a file with one row for each message."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.models import SendOutcome
from airflow_provider_rtisms.bulk.formats import suffix_of, write_rows
from airflow_provider_rtisms.bulk.lineage import report_output
from airflow_provider_rtisms.bulk.store import Output, storage_path
from airflow_provider_rtisms.tables import wrong_ending

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.bulk.store import StoragePath
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
    if suffix_of(path.name)[0] not in (".csv", ".jsonl"):
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
    Output(path, "results").commit(lambda file: write_rows(path.name, COLUMNS, records, file))
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
