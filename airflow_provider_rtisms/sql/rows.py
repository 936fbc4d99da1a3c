"""Private. Rows of a query as messages or as submission ids, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError
from airflow_provider_rtisms.api.values.arguments import check_submission_id
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.bulk.store import STORAGE_ERRORS
from airflow_provider_rtisms.sending.messages import PlaceholderText, choose_number
from airflow_provider_rtisms.sql.databases import get_hook, read_rows
from airflow_provider_rtisms.tables import Row, read_query

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook


def query_messages(
    sql_conn_id: str | None,
    sql: str,
    parameters: Secret[Any],
    *,
    recipient_column: str,
    text: Any = None,
    text_column: str | None = None,
    reference_column: str | None = None,
) -> Iterator[Row]:
    """
    Run a query, and give its messages one by one. Where there is no reference, the recipient identifies a message.
    """
    if (text is None) == (text_column is None):
        raise RtiSmsInputError("Give either text or text_column.")
    template = None if text is None else PlaceholderText(text)
    columns = dict(template.columns) if template else {}
    columns |= {str(text_column): "text_column"} if text_column is not None else {}
    columns |= {recipient_column: "recipient_column"}
    columns |= {reference_column: "reference_column"} if reference_column is not None else {}

    def message(values: Mapping[str, Any], position: str) -> Row:
        text, problem = template.fill(values) if template else (Secret(values[text_column or ""]), None)
        problems = [problem] if problem else []
        reference = None if reference_column is None else values[reference_column]
        if reference_column is not None and reference in (None, ""):
            problems.append(f"has no reference in {reference_column}")
        made = {"recipient": values[recipient_column], "text": text, "reference": reference}
        return Row(position, Secret(made), " and ".join(problems) or None)

    def read(found: Sequence[str], rows: Iterator[Any]) -> Iterator[Row]:
        for row in read_query(found, rows, columns, note="Nothing was sent."):
            yield message(row.values.get_secret_value(), row.position)

    def run() -> Iterator[Row]:
        failure: RtiSmsError | None = None
        try:
            yield from read_rows(get_hook("sql_conn_id", sql_conn_id), sql, parameters, read)
        except STORAGE_ERRORS as error:
            failure = error.with_context("Nothing was sent in this attempt.")
        if failure is not None:
            raise failure

    return run()


def query_numbers(conn_id: str | None, sql: str) -> Iterator[Row]:
    """Run a query, and give its phone numbers one by one: of the only column, or else of ``recipient``."""

    def read(columns: Sequence[str], rows: Iterator[Any]) -> Iterator[Row]:
        return read_query(columns, rows, {choose_number(columns, "exclude_sql"): "exclude_sql"})

    failure: RtiSmsError | None = None
    try:
        yield from read_rows(get_hook("exclude_conn_id", conn_id), sql, Secret(None), read)
    except STORAGE_ERRORS as error:
        failure = error.with_context("The query is exclude_sql. Nothing was sent in this attempt.")
    if failure is not None:
        raise failure


def query_ids(hook: DbApiHook, sql: str, parameters: Secret[Any], column: str | None) -> Iterator[str]:
    """Run a query, and yield its submission ids: of a column, or else of the only one or of ``submission_id``."""

    def read(columns: Sequence[str], rows: Iterator[Any]) -> Iterator[str]:
        wanted = column or (columns[0] if len(columns) == 1 else "submission_id")
        note = "Name the column of the submission ids in submission_ids_column, or select only that one."
        for row in read_query(columns, rows, {wanted: "submission_ids_column"}, note=note):
            value = row.values.get_secret_value()[wanted]
            if value is None:
                problem = "has no submission id: exclude such rows with WHERE ... IS NOT NULL."
                raise RtiSmsInputError(f"{row.position} of the query {problem}")
            yield check_submission_id(value, f"{row.position} of the query")

    return read_rows(hook, sql, parameters, read)
