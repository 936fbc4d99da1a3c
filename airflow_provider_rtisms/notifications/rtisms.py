"""Alerts by SMS. Importing this module loads no HTTP library; running a task does."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import BaseNotifier

from airflow_provider_rtisms.hooks.templates import RendersAsWritten
from airflow_provider_rtisms.notifications.deduplication import AlertLimit, Turn

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from airflow.providers.common.compat.sdk import Context

#: Seconds; 30 days.
LONGEST_PERIOD = 30 * 24 * 3600


class RtiSmsNotifier(RendersAsWritten, BaseNotifier):
    """
    Send an SMS when something happens: ``on_failure_callback``, ``on_success_callback``, deadline alerts and so on.

    An alert that cannot be sent is logged, and does not fail the task or the DAG run. A request that may have been sent
    is not repeated. A text that is too long is cut to ``max_parts`` and ends with an ellipsis.

    With ``dedup_key`` and ``at_most_every``, one SMS stands for many alerts. The first alert is sent. Later alerts with
    the same key are counted, until ``at_most_every`` has passed since the last SMS. The next alert is sent then, and
    says how many were counted. If the count cannot be read or written, the alert is sent, and the log says why. All of
    this is best effort: in a storm, a second SMS may go out, and alerts of the same moment may count as one.

    :param recipients: (templated) a phone number in international form, a list of them, or a JSON list.
    :param text: (templated) the message; may be the name of a file, without spaces, that ends in ``.txt`` or ``.j2``.
        ``suppressed`` is the number of alerts since the last SMS that were not sent; 0 without ``dedup_key``.
    :param sender: (templated) as allowed for the account; default the extra ``sender`` of the Connection.
    :param rtisms_conn_id: (templated) the Connection.
    :param charset: 0, 1, 6 or 8 of the API; None picks by the text.
    :param max_parts: most parts that one SMS may take.
    :param dedup_key: (templated) what the alerts have in common that one SMS may stand for. Each key leaves one
        Variable in Airflow, so it must not contain the id or the date of a run.
    :param at_most_every: seconds or timedelta between two SMS with the same ``dedup_key``, at most 30 days; 0 to send
        each alert, and to say how many were counted before it.
    :param suppressed_suffix: (templated) follows the text if ``suppressed`` is not 0. It is never cut.
    :param kwargs: ``context``, if Airflow passes one.
    :raises RtiSmsInputError: ``at_most_every`` is out of bounds, or only one of ``dedup_key`` and ``at_most_every`` is
        given.
    """

    template_fields: Sequence[str] = (
        "recipients",
        "text",
        "sender",
        "rtisms_conn_id",
        "dedup_key",
        "suppressed_suffix",
    )
    template_ext: Sequence[str] = (".txt", ".j2")

    def __init__(
        self,
        *,
        recipients: Any,
        text: str,
        sender: str | None = None,
        rtisms_conn_id: str = "rtisms_default",
        charset: int | None = None,
        max_parts: int = 1,
        dedup_key: str | None = None,
        at_most_every: timedelta | float | None = None,
        suppressed_suffix: str = " (+{{ suppressed }} since the last SMS)",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.recipients = recipients
        self.text = text
        self.sender = sender
        self.rtisms_conn_id = rtisms_conn_id
        self.charset = charset
        self.max_parts = max_parts
        self.dedup_key = dedup_key
        self.at_most_every = _check_at_most_every(dedup_key, at_most_every)
        self.suppressed_suffix = suppressed_suffix

    def __call__(self, *args: Any) -> None:
        """Render the templates and send, on a copy: rendering replaces the templates, and the next alert needs them."""
        names = ("dag", "task_list", "blocking_task_list", "slas", "blocking_tis")  # sla_miss_callback of Airflow 2
        context = args[0] if len(args) == 1 else dict(zip(names, args, strict=False))
        copy.copy(self)._alert(context, is_rendered=False)

    def __await__(self) -> Generator[Any, None, None]:
        """
        Render the templates and send a deadline alert, in the triggerer (Airflow 3.1 and later).

        It runs in a thread, since Connections and Variables can only be read there.
        """
        from asgiref.sync import sync_to_async

        alert = sync_to_async(copy.copy(self)._alert)
        return alert(self.context, is_rendered=False, is_in_triggerer=True).__await__()

    def notify(self, context: Context) -> None:
        """
        Send the alert from blocking code.

        :param context: of the task or DAG run that the alert is about.
        """
        copy.copy(self)._alert(context, is_rendered=True)

    async def async_notify(self, context: Context) -> None:
        """
        Send the alert without blocking the event loop, in a thread, since Connections can only be read there.

        :param context: of the DAG run that the alert is about.
        """
        from asgiref.sync import sync_to_async

        await sync_to_async(copy.copy(self)._alert)(context, is_rendered=True, is_in_triggerer=True)

    def _alert(self, context: Any, *, is_rendered: bool, is_in_triggerer: bool = False) -> None:
        """Render the key, then decide whether the alert is due, then render the rest, since it may use the decision."""
        with self._logging_errors():
            if not is_rendered:
                context = self._complete(context)
            with self._turn(context, is_rendered=is_rendered, is_in_triggerer=is_in_triggerer) as turn:
                if not turn.is_due:
                    return
                if is_rendered:
                    context = {"dag": None}
                context["suppressed"] = turn.suppressed
                if not is_rendered:
                    self._render_fields(context, "recipients", "text", "sender", "rtisms_conn_id")
                self._render_fields(context, "suppressed_suffix")
                self._send(turn)

    def _complete(self, context: Any) -> Any:
        """Return the context with ``var``, which Airflow gives to no deadline alert, and with the arguments."""
        if "var" not in context:  # without it, the numbers would be in the arguments of the alert, which Airflow stores
            context = {**context, "var": {"value": _Variables(), "json": _Variables(deserialize_json=True)}}
        self._update_context(context)
        return context

    def _render_fields(self, context: Any, *names: str) -> None:
        """Render some arguments. ``render_template_fields`` of Airflow 2 leaves a template that renders to nothing."""
        environment = self.get_template_env(dag=context.get("dag"))
        for name in names:
            self.template_ext = type(self).template_ext if name == "text" else ()
            setattr(self, name, self.render_template(getattr(self, name), context, environment))

    def _turn(self, context: Any, *, is_rendered: bool, is_in_triggerer: bool) -> AbstractContextManager[Turn]:
        """Return whether the alert is due. Whatever goes wrong with the key, it is."""
        if self.at_most_every is None:
            return nullcontext(Turn())
        try:
            if not is_rendered:
                self._render_fields(context, "dedup_key")
            if self.dedup_key in (None, ""):
                raise ValueError("it is empty")
            limit = AlertLimit(_VariableStore(), str(self.dedup_key), self.at_most_every)
        except Exception as error:
            self.log.warning("dedup_key cannot be used, so this alert is sent: %s", error)
            return nullcontext(Turn())
        if not (is_in_triggerer or "dag" in context or "ti" in context):
            # There is no access in Airflow 3.2, and 3.3 refuses it, after 17 s on a busy machine.
            self.log.warning("A callback in an executor cannot use Variables, so this alert is sent despite dedup_key")
            return nullcontext(Turn())
        return limit.turn()

    @contextmanager
    def _logging_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # an alert must not fail the task that it is about
            self.log.error("The alert failed: %s", error)

    def _send(self, turn: Turn) -> None:
        from airflow_provider_rtisms.api.values.text import SmsText
        from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

        # Half a surrogate pair, such as a byte that is no UTF-8, fits no charset; the alert goes out with "?" there. A
        # template of a native DAG may give no text, such as a dict; the alert goes out as in other DAGs.
        own, suffix = (
            str(text).encode("utf-8", "replace").decode()
            for text in (self.text, self.suppressed_suffix if turn.suppressed else "")
        )
        whole = SmsText.of(f"{own}{suffix}", self.charset)
        text = SmsText.of(own, whole.charset).cut(self.max_parts, suffix)
        if text != whole:
            self.log.warning("The text takes %d parts. It is cut to max_parts=%d", whole.parts, self.max_parts)
        with RtiSmsHook(self.rtisms_conn_id) as hook:  # closed, since the DAG processor and the triggerer run for days
            outbox = hook.get_outbox(
                recipients=self.recipients, text=text.characters, sender=self.sender, charset=text.charset
            )
            try:
                hook.send(outbox)
            finally:
                turn.may_have_sent = any(one.is_submitted or one.is_uncertain for one in outbox.submissions)
            outbox.check_submitted()
        self.log.info("Alert sent. %s", outbox.summary())


def _check_at_most_every(dedup_key: Any, at_most_every: Any) -> float | None:
    """
    Return the seconds of ``at_most_every``, or None if the notifier sends each alert.

    :raises RtiSmsInputError: the two arguments do not fit.
    """
    from airflow_provider_rtisms.api.errors import RtiSmsInputError
    from airflow_provider_rtisms.api.values.arguments import check_seconds

    if (dedup_key is None) != (at_most_every is None):
        raise RtiSmsInputError(
            "dedup_key and at_most_every need each other: give both, so that one SMS stands for many alerts, or none."
        )
    if at_most_every is None:
        return None
    seconds = check_seconds("at_most_every", at_most_every)
    if seconds > LONGEST_PERIOD:
        raise RtiSmsInputError(
            f"at_most_every is {seconds:.0f} seconds: use at most {LONGEST_PERIOD}, which is 30 days."
        )
    return seconds


class _VariableStore:
    """Airflow's Variables, which tasks, the DAG processor and the triggerer can write on every version."""

    def get(self, name: str) -> str | None:
        """Return the value of a Variable, or None if there is none."""
        from airflow.providers.common.compat.sdk import Variable

        return cast("str | None", Variable.get(name, None))

    def set(self, name: str, text: str) -> None:
        """Write a Variable."""
        from airflow.providers.common.compat.sdk import Variable

        Variable.set(name, text, "Alerts of one dedup_key of RtiSmsNotifier. You can delete it: the next alert is sent")


class _Variables:
    """
    ``var.value`` and ``var.json`` of templates.

    :param deserialize_json: whether values are read as JSON.
    """

    def __init__(self, *, deserialize_json: bool = False) -> None:
        self._deserialize_json = deserialize_json

    def __getattr__(self, key: str) -> Any:
        from airflow.providers.common.compat.sdk import Variable

        return Variable.get(key, deserialize_json=self._deserialize_json)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a Variable, or the default if there is none."""
        from airflow.providers.common.compat.sdk import Variable

        return Variable.get(key, default, deserialize_json=self._deserialize_json)
