"""From a database to people. Importing this module loads neither an HTTP library nor a provider of a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from airflow_provider_rtisms.hooks.templates import Redacted
from airflow_provider_rtisms.operators.send import RtiSmsSendOperator


class SqlToRtiSmsOperator(RtiSmsSendOperator):
    """
    Send a message to each person of a query, each at most once.

    The rows are read as a stream, with a server-side cursor on PostgreSQL and MySQL. All of them are checked before the
    first message goes out. Numbers and texts go from the database to the API, and nowhere else: not to XCom, logs or
    Airflow's database. After a retry or a clear, the journal decides what is sent: a row whose reference, or whose
    recipient where there is no ``reference_column``, has been sent is not sent again, whatever its text is now. Rows
    that were sent and that the query no longer returns are reported in the log. See
    :class:`~airflow_provider_rtisms.operators.rtisms.RtiSmsSendOperator` and ``docs/sql-to-rtisms.md``.

    Needs ``apache-airflow-providers-common-sql`` (pip extra ``sql``) and the provider of the database.

    :param sql: (templated) one SELECT; may be the name of a file, without spaces, that ends in ``.sql``.
    :param sql_conn_id: (templated) the Connection of the database.
    :param parameters: (templated) of the query, as the driver of the database takes them.
    :param recipient_column: (templated) the column of the phone numbers, in international form.
    :param text: (templated) the text, in which ``{column}`` stands for the value of a column; may be the name of a
        file, without spaces, that ends in ``.txt`` or ``.j2``. The template is rendered first, so values of rows are
        never rendered.
    :param text_column: (templated) instead of ``text``, the column of the texts.
    :param reference_column: (templated) the column of a key that no two rows have in common, and that stays the same
        when the query runs again: text, whole numbers or UUIDs. Default: the recipient is the key, so no recipient may
        come twice.
    :param kwargs: the other parameters of ``RtiSmsSendOperator``, such as ``sender``, ``max_messages``,
        ``output_path``, ``results_table`` and ``exclude_sql`` (in the database of the query by default) and
        ``wait_for_delivery``.
    :return: as ``RtiSmsSendOperator`` returns it, with ``reference``.
    :raises AirflowFailException: an argument or the query is wrong, rows cannot be sent (all are named by their
        number), or as ``RtiSmsSendOperator``.
    :raises RtiSmsTransientError: the database could not be reached, or as ``RtiSmsSendOperator``.
    """

    template_fields: Sequence[str] = (
        "sql",
        "sql_conn_id",
        "parameters",
        "recipient_column",
        "text",
        "text_column",
        "reference_column",
        "output_path",
        "results_table",
        "results_conn_id",
        "exclude_sql",
        "exclude_conn_id",
        "exclude_path",
        "sender",
        "rtisms_conn_id",
    )
    template_ext: Sequence[str] = (".sql", ".txt", ".j2")
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql"}
    redacted_fields: Sequence[str] = ("text", "parameters")

    def __init__(
        self,
        *,
        sql: str,
        sql_conn_id: str,
        recipient_column: str,
        parameters: Any = None,
        text: str | None = None,
        text_column: str | None = None,
        reference_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        of_messages = {"recipients", "messages", "messages_path", "csv_delimiter", "csv_encoding"}
        if unusable := of_messages & kwargs.keys():
            raise TypeError(f"SqlToRtiSmsOperator takes no {', '.join(sorted(unusable))}: the query gives the messages")
        super().__init__(text=text, **kwargs)
        self._is_made = False
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.parameters = parameters
        self.recipient_column = recipient_column
        self.text_column = text_column
        self.reference_column = reference_column
        self._is_made = True

    def _ledger_conn_id(self) -> str | None:
        return self.results_conn_id or self.sql_conn_id

    def _exclude_conn_id(self) -> str | None:
        return self.exclude_conn_id or self.sql_conn_id

    def _source(self) -> dict[str, Any]:
        from airflow_provider_rtisms.sql.rows import query_messages

        rows = query_messages(
            self.sql_conn_id,
            self.sql,
            Redacted(self.parameters),
            recipient_column=self.recipient_column,
            text=self.text if self.text is None else Redacted(self.text),
            text_column=self.text_column,
            reference_column=self.reference_column,
        )
        return {"rows": rows}
