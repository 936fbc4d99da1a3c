"""The operator that sends. Importing this module loads no HTTP library; that happens where the work happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowTaskTimeout,
    BaseOperator,
    conf,
)

from airflow_provider_rtisms.hooks.failures import fail_without_retry
from airflow_provider_rtisms.links.rtisms import RtiSmsPanelLink
from airflow_provider_rtisms.operators.redacted import Redacted
from airflow_provider_rtisms.sensors.base import parse_trigger_event
from airflow_provider_rtisms.sensors.polling import DeliveryPolling

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.sending.outbox import Outbox
    from airflow_provider_rtisms.waiting.delivery_wait import Record

#: The XCom that holds what is known of each recipient, also where the task fails.
SUBMISSIONS_KEY = "submissions"


class RtiSmsSendOperator(BaseOperator):
    """
    Send a text to one or many recipients, each once, whatever goes wrong on the way.

    An response that is lost is never repeated by itself; see ``on_uncertain``. On Airflow 3.3 and later each request is
    written down in the task state store before it goes out, so that no later try of the task, after a retry, a killed
    worker or a clear, sends again to those already sent to. Below 3.3 there is no such store: nothing that fails after
    a request has gone out is retried by Airflow, but a killed worker or a cleared task sends to all again. A new text
    does not change that: one task of one DAG run reaches each number once. See ``docs/sending-once.md``.

    The rendered recipients and text are kept out of Airflow's database. XCom ``submissions`` holds what is known of
    each distinct recipient, by position, also where the task fails: ``{"status", "submission_id"}``, see
    :class:`~airflow_provider_rtisms.api.models.Submission`.

    :param recipients: (templated) a phone number in international form, a list of them, or such a list as JSON. Spaces,
        hyphens, dots, slashes and parentheses are dropped; a number that comes twice is sent to once.
    :param text: (templated) the message.
    :param sender: (templated) as allowed for the account.
    :param rtisms_conn_id: (templated) the Connection.
    :param charset: 0, 1, 6 or 8 of the API; None picks GSM 7-bit where every character fits, else UCS-2.
    :param max_parts: refuse a text of more parts, before anything is sent.
    :param chunk_size: most recipients of one request, 1 to 500; a lost response leaves so many uncertain.
    :param on_uncertain: what becomes of recipients of whom it is not known whether they were sent to: ``fail`` sends to
        the others, then fails naming them; ``resend`` sends to them, maybe a second time; ``skip`` leaves them.
    :param wait_for_delivery: then wait until every submission is final, as ``RtiSmsDeliverySensor`` does.
    :param deferrable: wait in the triggerer; default from ``[operators] default_deferrable``.
    :param fail_on: final states that fail the wait.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id may still turn up.
    :param poke_interval: seconds between two polls of the wait.
    :param timeout: seconds that the wait may last.
    :return: the submissions as in XCom ``submissions``; with ``wait_for_delivery`` the records (dict) of those
        submitted, see :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`.
    :raises AirflowFailException: an argument is malformed, the API refused, recipients are uncertain, or one ended in a
        state of ``fail_on``; below Airflow 3.3 also anything else that fails once a request has gone out.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    :raises RtiSmsTransientError: recipients are left that a task retry may reach.
    """

    template_fields: Sequence[str] = ("recipients", "text", "sender", "rtisms_conn_id")
    operator_extra_links = (RtiSmsPanelLink(),)
    ui_color = "#fff2cc"

    def __init__(
        self,
        *,
        recipients: Any,
        text: str,
        sender: str,
        rtisms_conn_id: str = "rtisms_default",
        charset: int | None = None,
        max_parts: int | None = None,
        chunk_size: int = 50,
        on_uncertain: Literal["fail", "resend", "skip"] = "fail",
        wait_for_delivery: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        fail_on: Sequence[str] = ("REJECTED", "UNDELIVERED", "EXPIRED"),
        missing_ok_for: timedelta | float = 60,
        poke_interval: float = 60,
        timeout: float = 7 * 24 * 3600,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.recipients = recipients
        self.text = text
        self.sender = sender
        self.rtisms_conn_id = rtisms_conn_id
        self.charset = charset
        self.max_parts = max_parts
        self.chunk_size = chunk_size
        self.on_uncertain = on_uncertain
        self.wait_for_delivery = wait_for_delivery
        self.deferrable = deferrable
        self.fail_on = fail_on
        self.missing_ok_for = missing_ok_for
        self.poke_interval = poke_interval
        self.timeout = timeout
        self._is_made = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Hide what Airflow assigns to ``recipients`` and ``text`` when it renders them, mapped tasks included."""
        if name in ("recipients", "text") and self.__dict__.get("_is_made"):
            value = Redacted.hide(value)
        super().__setattr__(name, value)

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Send, then wait if asked to, in this process or in the triggerer."""
        outbox = self._open(context)
        with self._no_retry_after(outbox, context):
            try:
                with fail_without_retry():
                    outbox.send()
                    outbox.check_submitted()
            finally:
                submissions = [submission.to_record() for submission in outbox.submissions]
                self._push(context, submissions)
            if not self.wait_for_delivery:
                return submissions
            ids = [submission["submission_id"] for submission in submissions if submission["submission_id"]]
            polling = self._polling(ids)
            if self.deferrable:
                self.defer(**polling.deferral(self.poke_interval, self.timeout))
            return polling.poll_until_final(self.poke_interval, self.timeout)

    def execute_complete(self, context: Context, event: Any) -> list[Record]:
        """
        End the wait as the trigger says. Nothing is sent here.

        :param event: of :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger`.
        """
        finished = parse_trigger_event(event, "records")
        records = finished["records"]
        submission_ids = finished.get("submission_ids") or [record["submission_id"] for record in records]
        return self._polling(submission_ids).complete(records)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the deferral, which comes after the sending."""
        with self._no_retry_after(None, context):
            return super().resume_execution(next_method, next_kwargs, context)

    def _open(self, context: Context) -> Outbox:
        from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

        store = context.get("task_state_store")
        if store is None:
            self.log.warning(
                "There is no task state store (Airflow below 3.3): if this worker dies, or the task is cleared, the "
                "next try sends again to those already sent to. retries=0 keeps a dead worker from causing that"
            )
        with fail_without_retry():
            outbox = RtiSmsHook(self.rtisms_conn_id).get_outbox(
                recipients=Redacted.reveal(self.recipients),
                text=Redacted.reveal(self.text),
                sender=self.sender,
                charset=self.charset,
                max_parts=self.max_parts,
                store=None if store is None else _PermanentStore(store),
                on_uncertain=self.on_uncertain,
                chunk_size=self.chunk_size,
            )
        self.log.info(
            "Sending to %d recipients, %d parts each (charset %d)",
            len(outbox.recipients),
            outbox.text.parts,
            outbox.text.charset,
        )
        return outbox

    def _polling(self, submission_ids: Sequence[str]) -> DeliveryPolling:
        return DeliveryPolling(self.rtisms_conn_id, submission_ids, self.fail_on, self.missing_ok_for)

    @contextmanager
    def _no_retry_after(self, outbox: Outbox | None, context: Context) -> Iterator[None]:
        """
        Where nothing remembers what was sent, keep Airflow from retrying the task once something may have been.

        :param outbox: knows whether; None if it surely has been.
        """
        try:
            yield
        except (AirflowFailException, AirflowSensorTimeout):
            raise
        except (Exception, AirflowTaskTimeout) as error:
            has_record = context.get("task_state_store") is not None
            if has_record or (outbox is not None and not outbox.may_have_sent):
                raise
            raise AirflowFailException(f"{error} Not retried, since a retry would send to all again.") from error

    def _push(self, context: Context, submissions: list[dict[str, Any]]) -> None:
        if self.do_xcom_push and (ti := context.get("ti")) is not None:
            ti.xcom_push(key=SUBMISSIONS_KEY, value=submissions)


class _PermanentStore:
    """
    The task state store, with values that stay for as long as the DAG run does.

    :param store: of the context, Airflow 3.3 and later.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default where there is none."""
        return self._store.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        from airflow.sdk import NEVER_EXPIRE  # type: ignore[attr-defined]

        self._store.set(key, value, retention=NEVER_EXPIRE)
