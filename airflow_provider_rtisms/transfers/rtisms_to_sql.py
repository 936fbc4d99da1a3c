"""From the API to a table. Importing this module loads neither an HTTP library nor a provider of a database."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_provider_rtisms.compat import BaseOperator
from airflow_provider_rtisms.hooks.rtisms import hook_of_task
from airflow_provider_rtisms.hooks.templates import Redacted, TemplateFields
from airflow_provider_rtisms.operators.lineage import add_to_outlet_events

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_rtisms.bulk.fetch import OnMissing, Target
    from airflow_provider_rtisms.compat import Context
    from airflow_provider_rtisms.sql.table import SqlTable


class RtiSmsDetailsToSqlOperator(TemplateFields, BaseOperator):
    """
    Fetch the details of thousands of submissions into a table: one row for each, upserted by ``submission_id``.

    The records collect in a part file, as those of ``RtiSmsBulkGetDetailsOperator`` do, and a task retry requests
    only the rest. Once all of them are there, they go into the table in one transaction: into a temporary table, and
    from there with one upsert. PostgreSQL, SQLite, MySQL and MariaDB are supported. So the table has all rows or
    none, whatever is killed, and each row once. The table, its columns, its unique key and the permissions are
    checked before the first submission is fetched. See ``docs/rtisms-to-sql.md``.

    If the task has outlets, the counts of the summary go into the ``extra`` of their asset events.

    Needs ``apache-airflow-providers-common-sql`` (pip extra ``sql``) and the provider of the database.

    :param table: (templated) the table, ``table`` or ``schema.table``. Names are quoted, and taken as they are.
    :param sql_conn_id: (templated) the Connection of the database that has the table.
    :param sql: (templated) one SELECT of submission ids; may be the name of a file, without spaces, that ends in
        ``.sql``.
    :param source_conn_id: (templated) the Connection of the database for ``sql``. Default: ``sql_conn_id``.
    :param parameters: (templated) of the query, as the driver of the database takes them. Airflow shows no value.
    :param submission_ids: (templated) instead of ``sql``, a list of ids, such a list as JSON, the output of another
        task, or records with a ``submission_id``.
    :param submission_ids_path: (templated) instead of ``sql``, a file of ids: one id per line, or a column of a CSV; a
        local path or a URL for ObjectStoragePath; ``.gz`` is decompressed.
    :param submission_ids_column: (templated) the column of the query or of the CSV. Default: the only column of the
        query, or ``submission_id``; one id per line of a file.
    :param csv_delimiter: of the CSV, as for ``RtiSmsBulkGetDetailsOperator``; default: what its first lines say.
    :param csv_encoding: of the file, such as ``cp1252`` or ``utf-16``; default UTF-8.
    :param refresh: instead of ``sql``, ask for the submissions of the table itself whose rows are not final, and update
        these rows. The table is one of this operator, or the ``results_table`` of a send. Rows that are final are never
        asked for again. The summary also says how many are still ``open``, and how many are ``too_old``.
    :param lookback: (seconds or timedelta) with ``refresh``: submissions that were registered, or sent, longer ago are
        too old to ask for. Not 0. Default: 7 days.
    :param create_table: make the table if it does not exist.
    :param on_conflict: for submissions that the table has already: ``update`` the row unless it is newer, or ``ignore``
        the record.
    :param raw: add a column ``raw``, the JSON of each response as it came: ``jsonb`` in PostgreSQL, else text.
    :param on_missing: for ids that the API does not know (404): ``fail``, after having fetched the rest and before
        anything is written into the table, or ``skip``. Default: ``fail``, and with ``refresh`` ``skip``: such rows
        stay open.
    :param missing_path: (templated) a file for these ids: ids and reasons if it ends in ``.csv`` or ``.jsonl``, else
        one id a line; ``.gz`` may follow.
    :param part_folder: (templated) where to keep the records until the table has them, so that a retry on another
        worker finds them: a shared folder, or a URL for ObjectStoragePath. Default: the worker's temporary files.
    :param max_concurrency: most requests under way at once. Default: what the Connection says, else 32.
    :param requests_per_second: most requests a second. Default: what the Connection says, else no limit.
    :param rtisms_conn_id: (templated) the Connection of the API.
    :return: the summary, see :meth:`~airflow_provider_rtisms.bulk.fetch.FetchStats.summary`, with ``table`` and
        ``written``: how many rows were inserted or updated.
    :raises AirflowFailException: an argument, the query, an id or the table is unfit, ids are missing, or the API
        refused.
    :raises RtiSmsTransientError: the API or the database could not be reached; a task retry goes on from there.
    """

    template_fields: Sequence[str] = (
        "table",
        "sql_conn_id",
        "sql",
        "source_conn_id",
        "parameters",
        "submission_ids",
        "submission_ids_path",
        "submission_ids_column",
        "missing_path",
        "part_folder",
        "rtisms_conn_id",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql"}
    redacted_fields: Sequence[str] = ("parameters",)
    ui_color = "#d9ead3"

    def __init__(
        self,
        *,
        table: str,
        sql_conn_id: str,
        sql: str | None = None,
        source_conn_id: str | None = None,
        parameters: Any = None,
        submission_ids: Any = None,
        submission_ids_path: Any = None,
        submission_ids_column: str | None = None,
        csv_delimiter: str | None = None,
        csv_encoding: str | None = None,
        refresh: bool = False,
        lookback: timedelta | float = timedelta(days=7),
        create_table: bool = False,
        on_conflict: Literal["update", "ignore"] = "update",
        raw: bool = False,
        on_missing: OnMissing | None = None,
        missing_path: Any = None,
        part_folder: Any = None,
        max_concurrency: int | None = None,
        requests_per_second: float | None = None,
        rtisms_conn_id: str = "rtisms_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.sql_conn_id = sql_conn_id
        self.sql = sql
        self.source_conn_id = source_conn_id
        self.parameters = parameters
        self.submission_ids = submission_ids
        self.submission_ids_path = submission_ids_path
        self.submission_ids_column = submission_ids_column
        self.csv_delimiter = csv_delimiter
        self.csv_encoding = csv_encoding
        self.refresh = refresh
        self.lookback = lookback
        self.create_table = create_table
        self.on_conflict = on_conflict
        self.raw = raw
        self.on_missing = on_missing
        self.missing_path = missing_path
        self.part_folder = part_folder
        self.max_concurrency = max_concurrency
        self.requests_per_second = requests_per_second
        self.rtisms_conn_id = rtisms_conn_id
        self._summary: dict[str, Any] | None = None  # for OpenLineage
        self._is_made = True

    def execute(self, context: Context) -> dict[str, Any]:
        """Fetch them all, load them into the table, and return the summary."""
        from airflow_provider_rtisms.api.values.arguments import plural
        from airflow_provider_rtisms.bulk.fetch import DistinctIds, check_on_missing, counts_in, fetch_to_target
        from airflow_provider_rtisms.bulk.store import columns_of, storage_path
        from airflow_provider_rtisms.hooks.rtisms import run_of
        from airflow_provider_rtisms.sql.databases import get_hook

        with hook_of_task(self.rtisms_conn_id) as hook:
            on_missing = self.on_missing or ("skip" if self.refresh else "fail")
            check_on_missing(on_missing)
            self._check_source()
            since = self._since() if self.refresh else ""
            hook.get_conn()  # refuses a malformed Connection before a table is created
            missing = None if self.missing_path is None else storage_path("missing_path", self.missing_path)
            database = get_hook("sql_conn_id", self.sql_conn_id)
            from airflow_provider_rtisms.sql.table import layout_of_details, open_table

            layout = layout_of_details(columns_of(self.raw), only_updates=self.refresh)
            table = open_table(database, self.table, layout, self.on_conflict, create=self.create_table)
            ids = DistinctIds(table.read_open_ids(since) if self.refresh else self._read_ids())
            open_target = partial(self._open_target, table, run_of(context))
            self._summary = summary = hook.run_bulk(
                len(ids),
                lambda client: fetch_to_target(client, ids, open_target, on_missing, missing),
                self.max_concurrency,
                self.requests_per_second,
            )
            if self.refresh:
                summary["open"], summary["too_old"] = table.count_open(since)
                self.log.info("Refresh of the %s:", table)
                self.log.info("  not final before: %s", plural(summary["requested"], "submission"))
                self.log.info("  with new details: %d, unknown to the API: %d", summary["fetched"], summary["missing"])
                later = ". The next refresh asks for them" if summary["open"] else ""
                self.log.info("  not final now: %d%s", summary["open"], later)
                if summary["too_old"]:
                    self.log.info("  not asked for: %d from before %s (lookback)", summary["too_old"], since)

        if self.outlets:
            add_to_outlet_events(context, self.outlets, counts_in(summary))
        return summary

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """
        Return the table that was written, with columns and rows, and what the ids came from. OpenLineage calls this.

        :param task_instance: not used.
        :return: None if the OpenLineage provider is not installed.
        """
        from airflow_provider_rtisms.bulk.store import types_of
        from airflow_provider_rtisms.operators import lineage
        from airflow_provider_rtisms.sql.databases import get_hook
        from airflow_provider_rtisms.sql.table import parse_table_name

        if not lineage.is_installed():
            return None
        inputs, outputs = [], []
        if self.sql is not None:
            source = self.source_conn_id or self.sql_conn_id
            inputs += lineage.sql_datasets(get_hook("source_conn_id", source), source, self.sql)[0]
        elif self.submission_ids_path is not None:
            inputs.append(lineage.file_dataset(self.submission_ids_path))
        if (summary := self._summary) is not None:
            hook, table = get_hook("sql_conn_id", self.sql_conn_id), parse_table_name(self.table).quoted
            described = {"columns": types_of(self.raw), "rows": summary["written"]}
            outputs.append(lineage.table_dataset(hook, self.sql_conn_id, table, **described))
            if summary["missing_path"] is not None:
                outputs.append(lineage.missing_dataset(summary["missing_path"], summary["missing"]))
        return lineage.operator_lineage(self, inputs, outputs)

    def _open_target(self, table: SqlTable, run: str | None, digest: str) -> Target:
        """Return the table as the output of a fetch. Its part is that of a file that is never written."""
        from airflow_provider_rtisms.bulk.fetch import Part, Target
        from airflow_provider_rtisms.bulk.store import columns_of, private_folder, repeat, report_output, storage_path

        if self.refresh and run is not None:  # more may be open when a retry asks, and another DAG may refresh too
            digest = hashlib.sha256(f"{self.rtisms_conn_id}\n{run}".encode()).hexdigest()[:16]
        folder = private_folder() if self.part_folder is None else storage_path("part_folder", self.part_folder)
        identity = hashlib.sha256(f"{self.sql_conn_id}\n{table.name.quoted}".encode()).hexdigest()[:16]
        name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', str(table.name))[:60]}.{identity}.jsonl"
        part = Part(folder / name, digest, columns_of(self.raw), run)

        def write(json_lines: Iterable[bytes]) -> dict[str, Any]:
            part.save()
            written = repeat(f"Writing the {table}", lambda: table.load(json_lines))
            part.remove()
            if uri := table.uri():
                report_output(uri, table.hook)
            return {"table": str(table.name), "written": written}

        return Target(f"the {table}", part, part.probe, write)

    def _check_source(self) -> None:
        from airflow_provider_rtisms.api.errors import RtiSmsInputError
        from airflow_provider_rtisms.sql.databases import check_parameters
        from airflow_provider_rtisms.tables import csv_format_of

        given = [self.sql, self.submission_ids, self.submission_ids_path, self.refresh or None]
        if sum(one is not None for one in given) != 1:
            raise RtiSmsInputError("Give one of sql, submission_ids, submission_ids_path and refresh=True.")
        if self.refresh and (self.create_table or self.on_conflict != "update"):
            raise RtiSmsInputError("refresh=True updates rows that are there: leave out create_table and on_conflict.")
        if self.sql is None and self.source_conn_id is not None:
            raise RtiSmsInputError("source_conn_id is for sql: leave it out.")
        if self.sql is None and self.parameters is not None:
            raise RtiSmsInputError("parameters are for sql: leave them out.")
        csv_format_of(self, "submission_ids_path")
        check_parameters(Redacted(self.parameters))

    def _since(self) -> str:
        """Return the moment before which submissions are too old to ask for."""
        from airflow_provider_rtisms.api.errors import RtiSmsInputError
        from airflow_provider_rtisms.api.values.arguments import check_seconds

        seconds = check_seconds("lookback", self.lookback)
        if not seconds:
            raise RtiSmsInputError("lookback is 0, so that nothing is asked for: use a time such as timedelta(days=7).")
        now = datetime.now(UTC)
        longest = now - datetime(2000, 1, 1, tzinfo=UTC)  # no submission is older
        return (now - min(timedelta(seconds=seconds), longest)).isoformat(timespec="seconds")

    def _read_ids(self) -> Iterator[str]:
        from airflow_provider_rtisms.api.values.arguments import check_rendered
        from airflow_provider_rtisms.sql.databases import get_hook
        from airflow_provider_rtisms.sql.rows import query_ids
        from airflow_provider_rtisms.tables import read_ids

        if self.sql is None:
            return read_ids(self)
        check_rendered("sql", self.sql)
        source = get_hook("source_conn_id", self.source_conn_id or self.sql_conn_id)
        return query_ids(source, self.sql, Redacted(self.parameters), self.submission_ids_column)
