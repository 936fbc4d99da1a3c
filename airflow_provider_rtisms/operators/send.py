"""
The operator that sends: what it keeps in Airflow, how a task without a journal is kept from retries, and the wait.

Importing this module loads no HTTP library; that happens where the work happens.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow import __version__
from airflow.exceptions import AirflowRescheduleException
from packaging.version import Version

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.api.values.arguments import check_choice, check_seconds, plural
from airflow_provider_rtisms.compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    BaseOperator,
    conf,
)
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook, fail_without_retry, hook_of_task
from airflow_provider_rtisms.hooks.templates import Redacted, TemplateFields, in_fixed_order
from airflow_provider_rtisms.operators.lineage import add_to_outlet_events
from airflow_provider_rtisms.sensors.rtisms import (
    DeliveryPolling,
    ending_deferral,
    execution_end,
    pushing_records_on_failure,
    raise_for_outcome,
    read_wait_event,
)

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated  # type: ignore[attr-defined,unused-ignore]
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[attr-defined,no-redef,unused-ignore]

if TYPE_CHECKING:
    from airflow_provider_rtisms.bulk.store import StoragePath
    from airflow_provider_rtisms.compat import Context
    from airflow_provider_rtisms.sending.hours import AllowedHours
    from airflow_provider_rtisms.sending.outbox import Outbox
    from airflow_provider_rtisms.sql.ledger import Ledger
    from airflow_provider_rtisms.tables import Row
    from airflow_provider_rtisms.waiting import Quota, Record

log = logging.getLogger(__name__)

#: Most messages whose results go to XCom; more need ``output_path`` or ``results_table``.
MAX_RESULTS_IN_XCOM = 10_000
#: The XCom that holds what is known of each message, also where the task fails.
SUBMISSIONS_KEY = "submissions"
#: The columns of a file of results.
COLUMNS = ("reference", "outcome", "status", "submission_id")
#: What can end a task while it sends: AirflowTaskTerminated is what Airflow 2 raises where the task gets SIGTERM.
_STOPS = (Exception, AirflowTaskTimeout, AirflowTaskTerminated)


class RtiSmsSendOperator(TemplateFields, BaseOperator):
    """
    Send a text to one or many recipients, or a text of its own to each, each at most once.

    A request whose response is lost is not repeated, unless ``on_uncertain`` says so. On Airflow 3.3 and later, another
    attempt of the task does not send the same messages again, even if their text has changed. Below 3.3, or if a clear
    discards the task state, only ``results_table`` remembers them. See ``docs/sending-once.md``.

    XCom ``submissions`` holds what is known of each message, by position, also if the task fails:
    ``{"outcome", "status", "submission_id"}``, see :class:`~airflow_provider_rtisms.api.models.Submission`, and the
    ``reference`` where ``messages`` or ``messages_path`` is given. The counts by outcome go into the ``extra`` of the
    events of outlets.

    :param recipients: (templated) a phone number in international form, a list of them, or such a list as JSON. Spaces,
        hyphens, dots and parentheses are dropped. A number that stands there twice gets one SMS.
    :param text: (templated) the message to all recipients; may be the name of a file, without spaces, that ends in
        ``.txt`` or ``.j2``.
    :param messages: (templated) instead of these two, dicts with ``recipient``, ``text`` and maybe ``reference``, or
        such a list as JSON. The reference is the caller's key of the message, and no two messages have the same one.
        Without references, the recipient is the key.
    :param messages_path: (templated) instead of ``messages``, a file of them, CSV or JSON lines: a local path or a URL
        for ObjectStoragePath that ends in ``.csv`` or ``.jsonl``; ``.gz`` may follow.
    :param csv_delimiter: what separates the fields of a CSV. Default: what its line ``sep=`` says, or the one of comma,
        semicolon and tab with which the header line has the columns.
    :param csv_encoding: of a CSV, such as ``cp1252`` or ``utf-16``; default UTF-8.
    :param sender: (templated) as allowed for the account; default the field ``sender`` in the extra of the Connection.
    :param rtisms_conn_id: (templated) the Connection.
    :param charset: 0, 1, 6 or 8 of the API; None picks GSM 7-bit where every character fits, else UCS-2.
    :param default_region: two letters of a country, such as ``CL``, in which a phone number without + is dialled. Only
        valid mobile numbers are sent to; needs the pip extra ``phones``. Default: that of the Connection; without it,
        such numbers are refused.
    :param smart_encoding: replace typographic quotes, dashes, ellipses and blanks by characters of GSM 7-bit where that
        saves a part.
    :param max_parts: refuse a text of more parts, before anything is sent.
    :param max_messages: refuse more messages, before anything is sent.
    :param max_parts_total: refuse messages that take more parts together, before anything is sent.
    :param chunk_size: most recipients of one request, 1 to 500; a lost response leaves so many uncertain.
    :param on_uncertain: what to do with messages that may have been sent already. ``fail``: send the others, then fail
        and name the uncertain ones. ``resend``: send them again, once. ``skip``: do not send them again.
    :param output_path: (templated) write what is known of each message to this file in place of XCom, also if the task
        fails: a local path or a URL for ObjectStoragePath that ends in ``.jsonl`` or ``.csv``; ``.gz`` may follow.
        More than 10,000 messages need this, or ``results_table``. XCom ``submissions`` then holds ``path`` and the
        counts ``messages``, ``submitted``, ``refused``, ``uncertain``, ``not_sent``, ``excluded`` and ``vanished``
        (sent in an earlier attempt, no longer among the messages).
    :param results_table: (templated) a table that gets a row for each message: ``reference``, ``submission_id``,
        ``outcome``, ``status``, ``dag_id``, ``task_id``, ``run_id``, ``map_index``, ``parts``, ``charset`` and
        ``sent_at``, and neither number nor text. It is written while the send goes on, and a task retry writes what a
        killed attempt has not written. What is submitted there is not sent again in the same DAG run.
        ``RtiSmsDetailsToSqlOperator(refresh=True)`` adds the details later. Of more than 10,000 messages, XCom
        ``submissions`` holds ``table`` and the counts of ``output_path``. See ``docs/ledger.md``.
    :param results_conn_id: (templated) the Connection of the database that has the table.
    :param create_table: make the table if it does not exist.
    :param exclude_sql: (templated) one SELECT of numbers that are never texted, in international form: of its only
        column, or of ``recipient``. Their messages have the outcome ``excluded``. An empty list, or one that cannot be
        read, stops the send.
    :param exclude_conn_id: (templated) the Connection of the database that has the list.
    :param exclude_path: (templated) instead of these two, a file of numbers as ``messages_path`` takes it.
    :param allowed_hours: when messages may go out, such as ``("09:00", "20:00")``, over midnight too. It is checked
        before each request. Needs ``timezone``.
    :param timezone: the name of the time zone of these hours, such as ``America/Santiago``.
    :param outside_hours: ``wait``: until the hours begin, and go on with what has not been sent; with ``deferrable`` in
        the triggerer. ``fail``: with an error that Airflow may retry. See ``docs/sending-once-details.md``,
        "Allowed hours".
    :param dry_run: read, check and count, and send and write nothing. The task then returns the dict of
        :meth:`preview`.
    :param price: of one part, a decimal string or a number, for the ``cost`` of a dry run.
    :param wait_for_delivery: after the send, wait until every submission is final, as ``RtiSmsDeliverySensor`` does.
    :param deferrable: wait in the triggerer; default from ``[operators] default_deferrable``.
    :param fail_on: final states that fail the wait.
    :param min_delivered: succeed when all are final and this many are delivered: a whole number, or a share such as
        ``0.95`` of all messages. Then ``fail_on`` is not used. A wait that fails pushes the records of final
        submissions to XCom ``records``, unless it is for more than 1,000.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id is accepted.
    :param poke_interval: seconds or timedelta between two polls of the wait.
    :param timeout: seconds or timedelta that the wait may last.
    :return: what XCom ``submissions`` holds; with ``wait_for_delivery`` the records (dict) of those submitted, see
        :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`; with ``output_path`` too, their counts:
        ``{"path", "submitted", "by_status"}``, and of more than 10,000 ``{"table", "submitted", "by_status"}``.
    :raises AirflowFailException: an argument is malformed, the API refused, messages are uncertain, or a submission
        reached a state of ``fail_on``; below Airflow 3.3 also anything else that fails once a request has gone out.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    :raises RtiSmsTransientError: messages are left that a task retry can reach.
    """

    template_fields: Sequence[str] = (
        "recipients",
        "text",
        "messages",
        "messages_path",
        "output_path",
        "results_table",
        "results_conn_id",
        "exclude_sql",
        "exclude_conn_id",
        "exclude_path",
        "sender",
        "rtisms_conn_id",
    )
    template_ext: Sequence[str] = (".txt", ".j2")
    redacted_fields: Sequence[str] = ("recipients", "text", "messages")
    ui_color = "#fff2cc"

    def __init__(
        self,
        *,
        recipients: Any = None,
        text: str | None = None,
        messages: Any = None,
        messages_path: Any = None,
        csv_delimiter: str | None = None,
        csv_encoding: str | None = None,
        sender: str | None = None,
        rtisms_conn_id: str = "rtisms_default",
        charset: int | None = None,
        default_region: str | None = None,
        smart_encoding: bool = False,
        max_parts: int | None = None,
        max_messages: int | None = None,
        max_parts_total: int | None = None,
        chunk_size: int = 50,
        on_uncertain: Literal["fail", "resend", "skip"] = "fail",
        output_path: Any = None,
        results_table: str | None = None,
        results_conn_id: str | None = None,
        create_table: bool = False,
        exclude_sql: str | None = None,
        exclude_conn_id: str | None = None,
        exclude_path: Any = None,
        allowed_hours: Sequence[str] | None = None,
        timezone: str | None = None,
        outside_hours: Literal["wait", "fail"] = "wait",
        dry_run: bool = False,
        price: str | float | None = None,
        wait_for_delivery: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        fail_on: Sequence[str] = ("REJECTED", "UNDELIVERED", "EXPIRED"),
        min_delivered: float | None = None,
        missing_ok_for: timedelta | float = 60,
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float = 7 * 24 * 3600,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.recipients = recipients
        self.text = text
        self.messages = messages
        self.messages_path = messages_path
        self.csv_delimiter = csv_delimiter
        self.csv_encoding = csv_encoding
        self.sender = sender
        self.rtisms_conn_id = rtisms_conn_id
        self.charset = charset
        self.default_region = default_region
        self.smart_encoding = smart_encoding
        self.max_parts = max_parts
        self.max_messages = max_messages
        self.max_parts_total = max_parts_total
        self.chunk_size = chunk_size
        self.on_uncertain = on_uncertain
        self.output_path = output_path
        self.results_table = results_table
        self.results_conn_id = results_conn_id
        self.create_table = create_table
        self.exclude_sql = exclude_sql
        self.exclude_conn_id = exclude_conn_id
        self.exclude_path = exclude_path
        self.allowed_hours = allowed_hours
        self.timezone = timezone
        self.outside_hours = outside_hours
        self.is_dry_run = dry_run  # ``dry_run`` is a method of every operator
        self.price = price
        self._excludes = exclude_sql is not None or exclude_path is not None
        self.wait_for_delivery = wait_for_delivery
        self.deferrable = deferrable
        self.fail_on = in_fixed_order(fail_on)
        self.min_delivered = min_delivered
        self.missing_ok_for = missing_ok_for
        self.poke_interval = poke_interval
        self.timeout = timeout
        self._is_made = True

    def execute(self, context: Context) -> Any:
        """Send, then wait if asked to, in this process or in the triggerer."""
        return self._run(context)

    def execute_in_hours(self, context: Context, event: Any = None) -> Any:
        """Send what is left, now that the trigger has waited for the allowed hours."""
        return self._run(context)

    def _run(self, context: Context) -> Any:
        from airflow_provider_rtisms.waiting import make_quota

        with hook_of_task(self.rtisms_conn_id) as hook:
            if self.is_dry_run is not False:
                found = self.preview()
                del found["samples"]
                return {**found, "charsets": {str(one): count for one, count in found["charsets"].items()}}
            poke_interval, timeout = self._check_wait()
            path, hours = self._check_path(), self._check_hours()
            outbox = self._open(hook, context, hours)
            ledger = self._open_ledger(context)
            if ledger is not None:
                ledger.remind(outbox)
            quota = None
            if self.wait_for_delivery:
                quota = make_quota(self.min_delivered, len(outbox.messages) - outbox.counts()["excluded"])
            if path is not None:  # a file that cannot be written is found before anything is sent
                write_results(path, outbox.results())
            if outbox.messages:
                self._warn_of_forgetting(context, outbox)
            with no_retry_after(outbox, context, self._sent_again(context)):
                while True:
                    with ledger.following(outbox) if ledger else nullcontext():
                        is_over, result = self._send(hook, context, outbox, path)
                    if is_over or hours is None:
                        break
                    self._wait_for_hours(context, outbox, hours)
                if self.outlets:
                    add_to_outlet_events(context, self.outlets, counts_in(result))
                if not self.wait_for_delivery:
                    return result
                return self._result_of_wait(self._wait(context, outbox, quota, poke_interval, timeout))

    def _send(self, hook: RtiSmsHook, context: Context, outbox: Outbox, path: StoragePath | None) -> tuple[bool, Any]:
        """Send until all is sent or the allowed hours end. Return whether all is sent, and what is kept of it."""
        from airflow_provider_rtisms.sending.outbox import OutsideHoursError

        try:
            hook.send(outbox)
            outbox.check_submitted()
            is_over = True
        except OutsideHoursError:
            if self.outside_hours == "fail":
                raise
            is_over = False
        finally:
            result = self._keep_results(context, outbox, path)
        return is_over, result

    def _wait_for_hours(self, context: Context, outbox: Outbox, hours: AllowedHours) -> None:
        """Defer or reschedule this task, or wait here where another process would send again what this one has sent."""
        from airflow_provider_rtisms.sending import hours as clock

        now = clock.utc_now()
        start = hours.next_start(now)
        left = outbox.counts()["not_sent"]
        due = plural(left, "message")
        self.log.info("SMS are allowed from %s only. Left: %s. The task goes on at %s", hours, due, start)
        has_journal = context.get("task_state_store") is not None
        if self.deferrable and (has_journal or not outbox.may_have_sent):
            from airflow.providers.common.compat.standard.triggers import TimeDeltaTrigger

            from airflow_provider_rtisms.triggers.polling import DEFERRAL_GRACE

            pause = max(start - now, timedelta(seconds=DEFERRAL_GRACE))
            self.defer(trigger=TimeDeltaTrigger(pause), method_name="execute_in_hours")
        if has_journal:
            raise AirflowRescheduleException(start)  # type: ignore[no-untyped-call,unused-ignore]
        self.log.info("The task waits in this process, since Airflow does not remember what has been sent")
        hours.wait()
        if (exclude := self._exclude()) is not None:  # people say no at night too
            try:
                outbox.exclude(*exclude)
            except RtiSmsError as error:
                raise error.with_context(f"This is the state since the hours ended. {outbox.summary()}") from None

    def execute_complete(self, context: Context, event: Any) -> Any:
        """End the wait as the event of the trigger says. Nothing is sent here."""
        from airflow_provider_rtisms.waiting import Quota

        parsed = read_wait_event(event, "records")
        found = parsed.found
        ids = found.get("submission_ids") or [record["submission_id"] for record in found.get("records", ())]
        if "records" not in found:  # a large wait that has failed, so there are no records to push
            raise_for_outcome(parsed)
        # The trigger has counted already, and the total is not known here.
        polling = self._polling(ids, None if self.min_delivered is None else Quota(needed=0, total=len(ids)))
        with (
            pushing_records_on_failure(context, lambda: polling),
            naming_messages(lambda: self._names_of_results(context)),
            fail_without_retry(),
        ):
            records = polling.complete(event)
        if self.outlets:  # the context of the process that has sent is gone
            ti: Any = context["ti"]
            kept = ti.xcom_pull(task_ids=ti.task_id, key=SUBMISSIONS_KEY, map_indexes=ti.map_index)
            add_to_outlet_events(context, self.outlets, counts_in(kept))
        return self._result_of_wait(records)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after a deferral: that of the allowed hours, which is followed by a send, or that of the wait."""
        if next_method == "execute_in_hours":
            return super().resume_execution(next_method, next_kwargs, context)
        ending = ending_deferral(self, self.timeout, next_method, next_kwargs)
        with no_retry_after(None, context, self._sent_again(context)), ending:
            return super().resume_execution(next_method, next_kwargs, context)

    def _source(self) -> dict[str, Any]:
        """Return what to send, for ``RtiSmsHook.get_outbox``."""
        from airflow_provider_rtisms.sending.messages import read_message_file
        from airflow_provider_rtisms.tables import csv_format_of

        csv_format = csv_format_of(self, "messages_path")
        has_text = self.recipients is not None or self.text is not None
        if has_text + (self.messages is not None) + (self.messages_path is not None) != 1:
            raise RtiSmsInputError("Give either recipients and text, or messages, or messages_path.")
        if self.messages_path is not None:
            return {"rows": read_message_file(self.messages_path, csv_format)}
        if self.messages is not None:
            return {"messages": Redacted(self.messages)}
        return {"recipients": Redacted(self.recipients), "text": Redacted(self.text)}

    def _exclude(self) -> tuple[str, Iterator[Row]] | None:
        """Return the numbers that are never texted, and before them the name of the argument that gives them."""
        from airflow_provider_rtisms.sending.messages import read_excluded_file

        given = (self.exclude_sql is not None) + (self.exclude_path is not None)
        if given != self._excludes:
            raise RtiSmsInputError("Give either exclude_sql or exclude_path, and none that a template makes empty.")
        if self.exclude_conn_id is not None and self.exclude_sql is None:
            raise RtiSmsInputError("exclude_conn_id is for exclude_sql: leave it out.")
        if self.exclude_sql is not None:
            from airflow_provider_rtisms.sql.rows import query_numbers

            return "exclude_sql", query_numbers(self._exclude_conn_id(), self.exclude_sql)
        return None if self.exclude_path is None else ("exclude_path", read_excluded_file(self.exclude_path))

    def _exclude_conn_id(self) -> str | None:
        return self.exclude_conn_id

    def _open(self, hook: RtiSmsHook, context: Mapping[str, Any], hours: AllowedHours | None = None) -> Outbox:
        """Return what is to be sent, all checked, with what earlier attempts have sent of it."""
        store, ti = context.get("task_state_store"), context.get("ti")
        task = [str(getattr(ti, name, None)) for name in ("dag_id", "task_id", "run_id", "map_index")]
        outbox = hook.get_outbox(
            **self._source(),
            sender=self.sender,
            charset=self.charset,
            default_region=self.default_region,
            smart_encoding=self.smart_encoding,
            max_parts=self.max_parts,
            max_messages=self.max_messages,
            max_parts_total=self.max_parts_total,
            store=None if store is None else PermanentStore(store),
            task=" ".join(task),
            on_uncertain=self.on_uncertain,
            chunk_size=self.chunk_size,
            exclude=self._exclude(),
            hours=hours,
        )
        if self.output_path is self.results_table is None and len(outbox.messages) > MAX_RESULTS_IN_XCOM:
            raise RtiSmsInputError(
                f"The results of {len(outbox.messages)} messages are too many for XCom, which takes "
                f"{MAX_RESULTS_IN_XCOM}. Nothing was sent. Set output_path or results_table."
            )
        from airflow_provider_rtisms.sending.messages import describe_size

        parts = [message.text.parts for message in outbox.messages]
        charsets = sorted({message.text.charset for message in outbox.messages})
        self.log.info("%s", describe_size(len(parts), sum(parts), max(parts, default=0), charsets))
        return outbox

    def _warn_of_forgetting(self, context: Context, outbox: Outbox) -> None:
        """Say what is sent again, where Airflow does not remember, or no longer, what this task has sent."""
        again = self._sent_again(context)
        attempt = getattr(context.get("ti"), "try_number", 1)
        if context.get("task_state_store") is not None:
            if outbox.is_journal_new and attempt > 1:
                log.warning(
                    "This is attempt %d of the task, and the task state store holds no journal. Either no earlier "
                    "attempt began to send, or a clear has discarded the task state. This attempt sends %s",
                    *(attempt, again),
                )
        elif Version(__version__).release >= (3, 3):
            log.warning(
                "There is no task state store outside of a task run, so Airflow does not remember what is sent. If this"
                " is called again, it sends %s again",
                again,
            )
        else:
            log.warning(
                "This Airflow has no task state store (it is new in 3.3). If this worker dies, or the task is cleared, "
                "the next attempt sends %s again. Set retries=0 to prevent that after a death",
                again,
            )

    def _sent_again(self, context: Context) -> str:
        """Return in words what the next attempt sends, where Airflow does not remember what this one has sent."""
        is_in_run = getattr(context.get("ti"), "run_id", None) is not None
        has_memory = is_in_run and self.results_table is not None
        return "the messages that results_table does not have" if has_memory else "all messages"

    def _open_ledger(self, context: Context) -> Ledger | None:
        """Return the table of results, checked; None if there is none."""
        from airflow_provider_rtisms.api.errors import RtiSmsInputError

        if self.results_table is not None:
            from airflow_provider_rtisms.sql.ledger import open_ledger

            return open_ledger(self._ledger_conn_id(), self.results_table, context, create=self.create_table)
        if self.results_conn_id is not None or self.create_table:
            raise RtiSmsInputError("results_conn_id and create_table are for results_table: leave them out.")
        return None

    def _ledger_conn_id(self) -> str | None:
        return self.results_conn_id

    def _keep_results(self, context: Context, outbox: Outbox, path: StoragePath | None) -> Any:
        """Write what is known of each message to XCom, or to the file and the counts to XCom; return those."""
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
            self.log.info("The results of all messages are in %s", path)
        elif len(result) > MAX_RESULTS_IN_XCOM:
            result = {"table": self.results_table, **outbox.counts()}
        ti = context.get("ti")
        if ti is not None and self.do_xcom_push:
            ti.xcom_push(key=SUBMISSIONS_KEY, value=result)
        return result

    def preview(self, samples: int = 0) -> dict[str, Any]:
        """
        Say what this task would do. It reads and checks all that the task does, and sends and writes nothing.

        :param samples: how many of the first texts to return; they may be confidential.
        :return: as :meth:`~airflow_provider_rtisms.hooks.rtisms.RtiSmsHook.preview_sms`, where ``messages`` counts also
            those that are ``excluded``, and the other counts do not; and ``cost``, the parts times ``price``, a decimal
            string, or None without a price.
        :raises RtiSmsError: the task would fail before it sends.
        """
        from airflow_provider_rtisms.sending.messages import count_completed, describe, estimate
        from airflow_provider_rtisms.waiting import make_quota

        if not isinstance(self.is_dry_run, bool):
            raise RtiSmsInputError(f"dry_run is {shape(self.is_dry_run)}: use True or False. Nothing was sent.")
        self._check_wait()
        self._check_path()
        self._check_hours()
        if self.price is not None:
            estimate(0, self.price)
        with RtiSmsHook(self.rtisms_conn_id) as hook:
            outbox = self._open(hook, {})
        due = [message for message, known in outbox.outcomes() if known.outcome != "excluded"]
        texts, completed = [message.text for message in due], count_completed(due)
        found = describe(texts, samples, completed=completed, smart_encoding=self.smart_encoding)
        texted, count = found.pop("messages"), len(outbox.messages)
        if self.wait_for_delivery:
            make_quota(self.min_delivered, texted)
        cost = None if self.price is None else estimate(found["parts_total"], self.price)
        parts = plural(found["parts_total"], "part")
        self.log.info("%d of %s would go out, in %s", texted, plural(count, "message"), parts)
        return {"messages": count, "excluded": count - texted, **found, "cost": cost}

    def _check_path(self) -> StoragePath | None:
        return None if self.output_path is None else check_output_path(self.output_path)

    def _check_hours(self) -> AllowedHours | None:
        from airflow_provider_rtisms.sending.hours import check_hours

        check_choice("outside_hours", self.outside_hours, ("wait", "fail"))
        return check_hours(self.allowed_hours, self.timezone)

    def _check_wait(self) -> tuple[float, float]:
        """Check the arguments of the wait before anything is sent. Return ``poke_interval`` and ``timeout``."""
        from airflow_provider_rtisms.waiting import check_fail_on, check_min_delivered

        check_fail_on(self.fail_on)
        check_min_delivered(self.min_delivered)
        check_seconds("missing_ok_for", self.missing_ok_for)
        return check_seconds("poke_interval", self.poke_interval), check_seconds("timeout", self.timeout)

    def _wait(
        self, context: Context, outbox: Outbox, quota: Quota | None, poke_interval: float, timeout: float
    ) -> list[Record]:
        """Wait in this process and return the records of all submissions, or defer."""
        ids = [submission.submission_id for submission in outbox.submissions if submission.submission_id]
        if left_out := len(outbox.messages) - len(ids):
            self.log.info("The wait leaves out %s without a submission id", plural(left_out, "message"))
        polling = self._polling(ids, quota)

        def get_names() -> dict[str, str]:
            return {known.submission_id or "": message.name for message, known in outbox.outcomes()}

        with pushing_records_on_failure(context, lambda: polling), naming_messages(get_names), fail_without_retry():
            if self.deferrable and not polling.wait.is_over(missing_ok=True):
                end = execution_end(self, context)
                self.defer(**polling.deferral(poke_interval, timeout, execution_end=end, ids_in_event=True))
            return polling.poll_until_final(poke_interval, timeout)

    def _names_of_results(self, context: Context) -> dict[str, str]:
        """Return what errors call the message of each submission, from XCom. A file or a table of results has more."""
        from airflow_provider_rtisms.api.values.recipients import parse_recipients

        ti: Any = context["ti"]
        kept = ti.xcom_pull(task_ids=ti.task_id, key=SUBMISSIONS_KEY, map_indexes=ti.map_index)
        results = kept if isinstance(kept, list) else []
        names = {}
        masked: list[str] = []
        with suppress(RtiSmsError):  # national numbers of the Connection's region have no names here
            if self.recipients is not None:
                masked = [one.masked for one in parse_recipients(Redacted(self.recipients), self.default_region)]
        for position, result in enumerate(results):
            end = f"recipients[{position}] {masked[position]}" if len(masked) == len(results) else ""
            names[result["submission_id"]] = result.get("reference") or end
        return {submission_id: name for submission_id, name in names.items() if submission_id and name}

    def _polling(self, submission_ids: Sequence[str], quota: Quota | None) -> DeliveryPolling:
        return DeliveryPolling(
            self.rtisms_conn_id, submission_ids, self.fail_on, self.missing_ok_for, min_delivered=quota
        )

    def _result_of_wait(self, records: list[Record]) -> Any:
        """Return the records of the wait, or their counts where the results are in a file."""
        if self.output_path is None and len(records) <= MAX_RESULTS_IN_XCOM:
            return records
        kept = {"table": self.results_table} if self.output_path is None else {"path": str(self.output_path)}
        by_status = Counter(str(record["status"]) for record in records)
        return {**kept, "submitted": len(records), "by_status": dict(by_status)}


class PermanentStore:
    """The task state store, with values that do not expire while the DAG run exists."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default where there is none."""
        return self._store.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        from airflow.sdk import NEVER_EXPIRE  # type: ignore[attr-defined]

        self._store.set(key, value, retention=NEVER_EXPIRE)


@contextmanager
def naming_messages(get_names: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Let the error of a wait say which messages it is about: their references, or the last digits of the numbers."""
    from airflow_provider_rtisms.waiting import with_names

    try:
        yield
    except AirflowFailException as error:
        names: Mapping[str, str] = {}
        with suppress(Exception):  # the failure matters more than the names
            names = get_names()
        raise AirflowFailException(with_names(str(error), names)) from None


@contextmanager
def no_retry_after(outbox: Outbox | None, context: Context, sent_again: str) -> Iterator[None]:
    """
    Stop Airflow's retries once a message may have been sent, if Airflow does not remember what was sent.

    :param sent_again: what the next attempt would send, for the error.
    """
    try:
        yield
    except (AirflowFailException, AirflowSensorTimeout):
        raise
    except _STOPS as error:
        has_journal = context.get("task_state_store") is not None
        if has_journal or (outbox is not None and not outbox.may_have_sent):
            raise
        reason = str(error) or type(error).__name__
        raise AirflowFailException(
            f"{reason.removesuffix('.')}. The task is not retried, since a retry sends {sent_again} again."
        ) from None


def check_output_path(value: object) -> StoragePath:
    """Return the path to write results to."""
    from airflow_provider_rtisms.bulk.store import storage_path, suffix_of
    from airflow_provider_rtisms.tables import wrong_ending

    path = storage_path("output_path", value)
    if suffix_of(path.name)[0] not in (".csv", ".jsonl"):
        raise wrong_ending("output_path")
    return path


def write_results(path: StoragePath, records: Iterable[Mapping[str, Any]]) -> None:
    """Write results to a file, which appears under its name when it is complete."""
    from airflow_provider_rtisms.bulk.store import Output, write_rows

    Output(path, "results").commit(lambda file: write_rows(path.name, COLUMNS, records, file))


def counts_in(results: Any) -> dict[str, int]:
    """Return how many messages there are, and how many have each outcome."""
    from airflow_provider_rtisms.api.models import SendOutcome

    outcomes = [str(outcome) for outcome in SendOutcome]
    if isinstance(results, dict):
        return {name: results.get(name, 0) for name in ("messages", *outcomes)}  # older releases have fewer outcomes
    if not results:
        return {}
    counts = Counter(one["outcome"] for one in results)
    return {"messages": len(results), **{outcome: counts[outcome] for outcome in outcomes}}
