"""The operator that sends. Importing this module loads no HTTP library; that happens where the work happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from airflow_provider_rtisms.sensors.base import finish_wait
from airflow_provider_rtisms.sensors.delivery_polling import DeliveryPolling

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
    from airflow_provider_rtisms.sending.outbox import Outbox
    from airflow_provider_rtisms.waiting.delivery_wait import Record

try:
    from airflow.sdk.exceptions import AirflowTaskTerminated  # type: ignore[attr-defined,unused-ignore]
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowTaskTerminated  # type: ignore[attr-defined,no-redef,unused-ignore]

#: What can end a task while it sends: AirflowTaskTerminated is what Airflow 2 raises where the task gets SIGTERM.
_STOPS = (Exception, AirflowTaskTimeout, AirflowTaskTerminated)

#: The XCom that holds what is known of each recipient, also where the task fails.
SUBMISSIONS_KEY = "submissions"


class RtiSmsSendOperator(BaseOperator):
    """
    Send a text to one or many recipients, each at most once.

    A request whose response is lost is not repeated, unless ``on_uncertain`` says so. On Airflow 3.3 and later the task
    state store records each request before it goes out. So a later attempt of the task, after a retry, a killed worker
    or a clear, does not send to the same recipients again. Below 3.3 there is no such store. There, Airflow does not
    retry a task that fails after a request has gone out, but a killed worker or a cleared task sends to all recipients
    again. A new text does not change that: one task of one DAG run reaches each number once. See
    ``docs/sending-once.md``.

    The rendered recipients and the text are kept out of Airflow's database. XCom ``submissions`` holds what is known of
    each distinct recipient, by position, also if the task fails: ``{"outcome", "status", "submission_id"}``, see
    :class:`~airflow_provider_rtisms.api.models.Submission`.

    :param recipients: (templated) a phone number in international form, a list of them, or such a list as JSON. Spaces,
        hyphens, dots and parentheses are dropped. A number that stands there twice gets one SMS.
    :param text: (templated) the message.
    :param sender: (templated) as allowed for the account.
    :param rtisms_conn_id: (templated) the Connection.
    :param charset: 0, 1, 6 or 8 of the API; None picks GSM 7-bit where every character fits, else UCS-2.
    :param max_parts: refuse a text of more parts, before anything is sent.
    :param chunk_size: most recipients of one request, 1 to 500; a lost response leaves so many uncertain.
    :param on_uncertain: what to do with messages that may have been sent already. ``fail``: send the others, then fail
        and name the uncertain ones. ``resend``: send them again, once. ``skip``: do not send them again.
    :param wait_for_delivery: after the send, wait until every submission is final, as ``RtiSmsDeliverySensor`` does.
    :param deferrable: wait in the triggerer; default from ``[operators] default_deferrable``.
    :param fail_on: final states that fail the wait.
    :param missing_ok_for: seconds or timedelta from the start of the wait in which an unknown id is accepted.
    :param poke_interval: seconds or timedelta between two polls of the wait.
    :param timeout: seconds or timedelta that the wait may last.
    :return: the submissions as in XCom ``submissions``; with ``wait_for_delivery`` the records (dict) of those
        submitted, see :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`.
    :raises AirflowFailException: an argument is malformed, the API refused, recipients are uncertain, or a submission
        reached a state of ``fail_on``; below Airflow 3.3 also anything else that fails once a request has gone out.
    :raises AirflowSensorTimeout: ``timeout`` passed.
    :raises RtiSmsTransientError: recipients are left that a task retry can reach.
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
        poke_interval: timedelta | float = 60,
        timeout: timedelta | float = 7 * 24 * 3600,
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
        """Redact what Airflow assigns to ``recipients`` and ``text`` when it renders them, in mapped tasks too."""
        if name in ("recipients", "text") and self.__dict__.get("_is_made"):
            value = Redacted(value)
        super().__setattr__(name, value)

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Send, then wait if asked to, in this process or in the triggerer."""
        from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

        with fail_without_retry(), RtiSmsHook(self.rtisms_conn_id) as hook:
            wait = self._check_wait()
            outbox = self._open(hook, context)
            with self._no_retry_after(outbox, context):
                try:
                    hook.send(outbox)
                    outbox.check_submitted()
                finally:
                    submissions = [submission.to_record() for submission in outbox.submissions]
                    self._push(context, outbox, submissions)
                return self._wait(submissions, wait) if wait else submissions

    def execute_complete(self, context: Context, event: Any) -> list[Record]:
        """
        End the wait as the event of the trigger says. Nothing is sent here.

        :param event: of :class:`~airflow_provider_rtisms.triggers.rtisms.RtiSmsDeliveryTrigger`.
        """
        records = finish_wait(event, "records")
        submission_ids = records.get("submission_ids") or [record["submission_id"] for record in records["records"]]
        return self._polling(submission_ids).complete(event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after the deferral, which comes after the send."""
        with self._no_retry_after(None, context):
            return super().resume_execution(next_method, next_kwargs, context)

    def _check_wait(self) -> _Wait | None:
        """Check the arguments of the wait before anything is sent; None if there is no wait."""
        from airflow_provider_rtisms.api.values.durations import check_seconds
        from airflow_provider_rtisms.waiting.delivery_wait import check_fail_on

        check_fail_on(self.fail_on)
        check_seconds("missing_ok_for", self.missing_ok_for)
        wait = _Wait(check_seconds("poke_interval", self.poke_interval), check_seconds("timeout", self.timeout))
        return wait if self.wait_for_delivery else None

    def _open(self, hook: RtiSmsHook, context: Context) -> Outbox:
        store = context.get("task_state_store")
        if store is None:
            self.log.warning(
                "This Airflow has no task state store (it is new in 3.3). If this worker dies, or the task is cleared, "
                "the next attempt sends to all recipients again. Set retries=0 to prevent that after a death"
            )
        outbox = hook.get_outbox(
            recipients=self.recipients if isinstance(self.recipients, Redacted) else Redacted(self.recipients),
            text=self.text if isinstance(self.text, Redacted) else Redacted(self.text),
            sender=self.sender,
            charset=self.charset,
            max_parts=self.max_parts,
            store=None if store is None else _PermanentStore(store),
            on_uncertain=self.on_uncertain,
            chunk_size=self.chunk_size,
        )
        text = outbox.messages[0].text
        self.log.info(
            "Sending to %d recipients, %d parts each (charset %d)", len(outbox.messages), text.parts, text.charset
        )
        return outbox

    def _wait(self, submissions: list[dict[str, Any]], wait: _Wait) -> list[Record]:
        ids = [submission["submission_id"] for submission in submissions if submission["submission_id"]]
        polling = self._polling(ids)
        if self.deferrable:
            self.defer(**polling.deferral(wait.poke_interval, wait.timeout))
        return polling.poll_until_final(wait.poke_interval, wait.timeout)

    def _polling(self, submission_ids: Sequence[str]) -> DeliveryPolling:
        return DeliveryPolling(self.rtisms_conn_id, submission_ids, self.fail_on, self.missing_ok_for)

    @contextmanager
    def _no_retry_after(self, outbox: Outbox | None, context: Context) -> Iterator[None]:
        """
        Stop Airflow's retries once a message may have been sent, if nothing remembers what was sent.

        :param outbox: knows whether a message may have been sent; None if one has been.
        """
        try:
            yield
        except (AirflowFailException, AirflowSensorTimeout):
            raise
        except _STOPS as error:
            has_journal = context.get("task_state_store") is not None
            if has_journal or (outbox is not None and not outbox.may_have_sent):
                raise
            raise AirflowFailException(
                f"{error or type(error).__name__} The task is not retried, since a retry sends to all recipients again."
            ) from error

    def _push(self, context: Context, outbox: Outbox, submissions: list[dict[str, Any]]) -> None:
        ti = context.get("ti")
        if ti is None or not self.do_xcom_push:
            return
        if outbox.is_journal_lost:
            self.log.warning(
                "The task state store no longer accepts what this attempt writes, so another attempt may have taken "
                "over. This attempt does not push XCom '%s'",
                SUBMISSIONS_KEY,
            )
            return
        ti.xcom_push(key=SUBMISSIONS_KEY, value=submissions)


@dataclass(frozen=True)
class _Wait:
    """How to wait after the send: seconds between two polls, and seconds in all."""

    poke_interval: float
    timeout: float


class _PermanentStore:
    """
    The task state store, with values that do not expire while the DAG run exists.

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
