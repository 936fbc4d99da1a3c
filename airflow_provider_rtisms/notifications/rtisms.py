"""Alerts by SMS. Importing this module loads no HTTP library; running a task does."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseNotifier

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class RtiSmsNotifier(BaseNotifier):
    """
    Send an SMS when something happens: ``on_failure_callback``, ``on_success_callback``, deadline alerts and so on.

    An alert that cannot be sent is logged, and does not fail the task or the DAG run. A request that may have been sent
    is not repeated. A text that is too long is cut to ``max_parts`` and ends with an ellipsis.

    :param recipients: (templated) a phone number in international form, a list of them, or a JSON list.
    :param text: (templated) the message.
    :param sender: (templated) as allowed for the account; default the extra ``sender`` of the Connection.
    :param rtisms_conn_id: (templated) the Connection.
    :param charset: 0, 1, 6 or 8 of the API; None picks by the text.
    :param max_parts: most parts that one SMS may take.
    :param kwargs: ``context``, if Airflow passes one.
    """

    template_fields: Sequence[str] = ("recipients", "text", "sender", "rtisms_conn_id")

    def __init__(
        self,
        *,
        recipients: Any,
        text: str,
        sender: str | None = None,
        rtisms_conn_id: str = "rtisms_default",
        charset: int | None = None,
        max_parts: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.recipients = recipients
        self.text = text
        self.sender = sender
        self.rtisms_conn_id = rtisms_conn_id
        self.charset = charset
        self.max_parts = max_parts

    def __call__(self, *args: Any) -> None:
        """Render the templates and send, on a copy: rendering replaces the templates, and the next alert needs them."""
        with self._logging_errors():
            super(RtiSmsNotifier, copy.copy(self)).__call__(*args)

    def __await__(self) -> Generator[Any, None, None]:
        """
        Render the templates and send a deadline alert, in the triggerer (Airflow 3.1 and later).

        It runs in a thread, since Connections and Variables can only be read there. Airflow gives a deadline alert no
        ``var``, so this adds it. Without it, the numbers would be in the arguments of the alert, which Airflow stores.
        """
        from asgiref.sync import sync_to_async

        context = {"var": {"value": _Variables(), "json": _Variables(deserialize_json=True)}, **self.context}
        return sync_to_async(self)(context).__await__()

    def notify(self, context: Context) -> None:
        """
        Send the alert from blocking code.

        :param context: of the task or DAG run that the alert is about.
        """
        with self._logging_errors():
            self._send()

    async def async_notify(self, context: Context) -> None:
        """
        Send the alert without blocking the event loop, in a thread, since Connections can only be read there.

        :param context: of the DAG run that the alert is about.
        """
        from asgiref.sync import sync_to_async

        await sync_to_async(self.notify)(context)

    @contextmanager
    def _logging_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # an alert must not fail the task that it is about
            self.log.error("The alert failed: %s", error)

    def _send(self) -> None:
        from airflow_provider_rtisms.api.values.text import SmsText
        from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

        whole = SmsText.of(self.text, self.charset)
        text = whole.cut(self.max_parts)
        with RtiSmsHook(self.rtisms_conn_id) as hook:  # closed, since the DAG processor and the triggerer run for days
            outbox = hook.get_outbox(
                recipients=self.recipients, text=text.characters, sender=self.sender, charset=text.charset
            )
            hook.send(outbox)
            outbox.check_submitted()
        self.log.info("Alert sent. %s", outbox.summary())


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
