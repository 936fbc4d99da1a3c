"""The operator for thousands of submissions. Importing this module loads no HTTP library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.compat import BaseOperator
from airflow_provider_rtisms.hooks.rtisms import hook_of_task
from airflow_provider_rtisms.hooks.templates import TemplateFields
from airflow_provider_rtisms.operators.lineage import add_to_outlet_events

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_rtisms.bulk.fetch import OnMissing
    from airflow_provider_rtisms.compat import Context

#: Most records that a bulk fetch without ``output_path`` puts into XCom; they take about 3 MB.
MAX_RECORDS_IN_XCOM = 10_000


class RtiSmsBulkGetDetailsOperator(TemplateFields, BaseOperator):
    """
    Fetch the details of thousands of submissions: one request each, ``max_concurrency`` of them at once, one token.

    With ``output_path`` the records stream to a file, which gets its name once it is complete. Until then they are kept
    in a part file beside it, which the log names, so that a task retry requests only the rest: what has
    no record, and what was not final. Another DAG run does not use them. If the API responds 429 (a threshold of the
    account was passed), the whole fetch slows down.

    If the task has outlets, the counts of the summary go into the ``extra`` of their asset events.

    :param submission_ids: (templated) a list of ids, such a list as JSON, the output of another task, or records with a
        ``submission_id``. Repeated ids are fetched once.
    :param submission_ids_path: (templated) instead of ``submission_ids``, a file of ids, read as a stream: one id per
        line, a column of a CSV, or a key of JSON lines (``.jsonl``); a local path or a URL for ObjectStoragePath;
        ``.gz`` is decompressed.
    :param submission_ids_column: (templated) the column of the CSV, or the key; None for one id per line.
    :param csv_delimiter: what separates the fields of the CSV. Default: what its line ``sep=`` says, or the one of
        comma, semicolon and tab with which the header line has the column.
    :param csv_encoding: of the CSV or of the lines, such as ``cp1252`` or ``utf-16``; default UTF-8.
    :param output_path: (templated) a local path or a URL for ObjectStoragePath (``s3://conn_id@bucket/key``) that ends
        in ``.jsonl``, ``.jsonl.gz``, ``.csv``, ``.csv.gz`` or ``.parquet`` (pip extra ``parquet``). None puts the
        records into XCom, at most :data:`MAX_RECORDS_IN_XCOM`.
    :param missing_path: (templated) a file for the ids that the API does not know: ids and reasons if it ends in
        ``.csv`` or ``.jsonl``, else one id a line; ``.gz`` may follow. It is written once all is fetched, also if
        ``on_missing`` then fails the task.
    :param max_concurrency: most requests under way at once. Default: what the Connection says, else 32.
    :param requests_per_second: most requests a second. Default: what the Connection says, else no limit.
    :param on_missing: for ids that the API does not know (404): ``fail``, after having fetched the rest, or ``skip``.
    :param raw: add a column ``raw`` to the file: the JSON of each response as it came. Needs ``output_path``.
    :param rtisms_conn_id: (templated) the Connection.
    :return: with ``output_path`` the summary, see
        :meth:`~airflow_provider_rtisms.bulk.fetch.FetchStats.summary`; else the records in the order of arrival,
        see :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`.
    :raises AirflowFailException: an argument or an id is malformed, ids are missing, or the API refused.
    :raises RtiSmsTransientError: the API could not be reached within the attempts; a task retry goes on from there.
    """

    template_fields: Sequence[str] = (
        "submission_ids",
        "submission_ids_path",
        "submission_ids_column",
        "output_path",
        "missing_path",
        "rtisms_conn_id",
    )
    ui_color = "#d9ead3"

    def __init__(
        self,
        *,
        submission_ids: Any = None,
        submission_ids_path: Any = None,
        submission_ids_column: str | None = None,
        csv_delimiter: str | None = None,
        csv_encoding: str | None = None,
        output_path: Any = None,
        max_concurrency: int | None = None,
        requests_per_second: float | None = None,
        on_missing: OnMissing = "fail",
        missing_path: Any = None,
        raw: bool = False,
        rtisms_conn_id: str = "rtisms_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.submission_ids = submission_ids
        self.submission_ids_path = submission_ids_path
        self.submission_ids_column = submission_ids_column
        self.csv_delimiter = csv_delimiter
        self.csv_encoding = csv_encoding
        self.output_path = output_path
        self.max_concurrency = max_concurrency
        self.requests_per_second = requests_per_second
        self.on_missing = on_missing
        self.missing_path = missing_path
        self.raw = raw
        self.rtisms_conn_id = rtisms_conn_id
        self._summary: dict[str, Any] | None = None  # for OpenLineage

    def execute(self, context: Context) -> dict[str, Any] | list[dict[str, Any]]:
        """Fetch them all, and return the summary or the records."""
        from airflow_provider_rtisms.api.errors import RtiSmsInputError
        from airflow_provider_rtisms.bulk.fetch import DistinctIds, counts_in, counts_of
        from airflow_provider_rtisms.hooks.rtisms import run_of

        with hook_of_task(self.rtisms_conn_id) as hook:
            ids = DistinctIds(self._read_ids())
            if self.output_path is None and len(ids) > MAX_RECORDS_IN_XCOM:
                raise RtiSmsInputError(
                    f"{len(ids)} records are too many for XCom, which takes {MAX_RECORDS_IN_XCOM}: set output_path."
                )
            result = hook.bulk_get_sms(
                ids,
                output_path=self.output_path,
                max_concurrency=self.max_concurrency,
                requests_per_second=self.requests_per_second,
                on_missing=self.on_missing,
                missing_path=self.missing_path,
                raw=self.raw,
                run=run_of(context),
            )
        if isinstance(result, dict):
            self._summary = result
            if self.outlets:
                add_to_outlet_events(context, self.outlets, counts_in(result), path=result["path"])
        elif self.outlets:
            add_to_outlet_events(context, self.outlets, counts_of(result, len(ids), ids.duplicates))
        return result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """
        Return the files that were read and written, with schema, rows and bytes. OpenLineage calls this.

        :param task_instance: not used.
        :return: None if the OpenLineage provider is not installed.
        """
        from airflow_provider_rtisms.bulk.store import types_of
        from airflow_provider_rtisms.operators.lineage import file_dataset, missing_dataset, operator_lineage

        inputs, outputs = [], []
        if self.submission_ids_path is not None:
            inputs.append(file_dataset(self.submission_ids_path))
        if self._summary is not None:
            path, missing_path = self._summary["path"], self._summary["missing_path"]
            rows, size = self._summary["fetched"], self._summary["bytes"]
            outputs.append(file_dataset(path, columns=types_of(self.raw), rows=rows, size=size))
            if missing_path is not None:
                outputs.append(missing_dataset(missing_path, self._summary["missing"]))
        return operator_lineage(self, inputs, outputs)

    def _read_ids(self) -> Iterator[str]:
        from airflow_provider_rtisms.api.errors import RtiSmsInputError
        from airflow_provider_rtisms.tables import read_ids

        if (self.submission_ids is None) == (self.submission_ids_path is None):
            raise RtiSmsInputError("Give either submission_ids or submission_ids_path.")
        return read_ids(self)
