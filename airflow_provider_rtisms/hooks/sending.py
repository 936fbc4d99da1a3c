"""Private. What the hook does to send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from airflow_provider_rtisms.api import AsyncRtiSmsClient, RtiSmsClient, Submission
    from airflow_provider_rtisms.sending.journal import Store
    from airflow_provider_rtisms.sending.outbox import Outbox

T = TypeVar("T")


class SendMixin:
    """The methods of :class:`~airflow_provider_rtisms.hooks.rtisms.RtiSmsHook` that send."""

    rtisms_conn_id: str

    if TYPE_CHECKING:

        def get_conn(self) -> RtiSmsClient:
            """Return the blocking client."""

        async def _with_client(self, work: Callable[[AsyncRtiSmsClient], Awaitable[T]], **changes: Any) -> T:
            """Run work with a client."""

    def send_sms(
        self,
        *,
        recipients: Any = None,
        text: Any = None,
        messages: Any = None,
        sender: str | None = None,
        charset: int | None = None,
        max_parts: int | None = None,
        max_messages: int | None = None,
        max_parts_total: int | None = None,
        **options: Any,
    ) -> list[Submission]:
        """
        Send a text to one or many recipients, or many messages with a text each, each once (API: Send SMS).

        :param recipients: a phone number in international form, or a list of them.
        :param text: the message to all recipients.
        :param messages: instead of these two, dicts with ``recipient``, ``text`` and maybe ``reference``, a key of the
            caller that no other message has.
        :param sender: as allowed for the account; default the extra ``sender`` of the Connection.
        :param charset: 0, 1, 6 or 8; None picks by the text.
        :param max_parts: most parts that one SMS may take.
        :param max_messages: most messages.
        :param max_parts_total: most parts of all messages together.
        :param options: ``on_uncertain`` and ``chunk_size`` of
            :class:`~airflow_provider_rtisms.sending.outbox.Outbox`.
        :return: what is known of each message or distinct recipient, by position.
        :raises RtiSmsInputError: a value cannot be sent; nothing was sent. All bad messages are named by position.
        :raises RtiSmsUncertainError: a response was lost. The request is not repeated, since the server may have acted
            on it.
        :raises RtiSmsError: see :mod:`~airflow_provider_rtisms.api.errors`; ``submissions`` holds what is known.
        """
        limits = {"max_parts": max_parts, "max_messages": max_messages, "max_parts_total": max_parts_total}
        source = {"recipients": recipients, "text": text, "messages": messages, "charset": charset}
        outbox = self.get_outbox(sender=sender, **{**source, **limits, **options})
        return self.send(outbox)

    def get_outbox(self, *, sender: str | None = None, store: Store | None = None, **arguments: Any) -> Outbox:
        """
        Check the arguments of a send, and return it ready for :meth:`send`. Nothing is sent yet.

        :param sender: as for :meth:`send_sms`.
        :param store: where to record what is sent, so that a later attempt knows it; default in memory.
        :param arguments: the other ones of :meth:`send_sms`.
        :raises RtiSmsInputError: a value cannot be sent.
        """
        from airflow_provider_rtisms.sending.outbox import make_outbox

        settings = self.get_conn().settings
        return make_outbox(settings, self.rtisms_conn_id, sender=sender, store=store, **arguments)

    def preview_sms(
        self,
        *,
        text: Any = None,
        rows: Iterable[Mapping[str, Any]] | None = None,
        messages: Any = None,
        charset: int | None = None,
        max_parts: int | None = None,
        samples: int = 3,
    ) -> dict[str, Any]:
        """
        Say what a send would do: charsets, parts, and the characters that force UCS-2. It sends nothing, and asks
        nothing of the API.

        :param text: a text, in which ``{column}`` stands for a value of ``rows`` where those are given.
        :param rows: dicts of values by column; the text becomes a message for each.
        :param messages: instead of these two, messages as for :meth:`send_sms`.
        :param charset: 0, 1, 6 or 8; None picks by each text.
        :param max_parts: most parts that one SMS may take.
        :param samples: how many of the first texts to return.
        :return: see :func:`~airflow_provider_rtisms.sending.messages.preview`. ``samples`` holds texts as they
            would go out, so keep the result out of XCom and logs where they are confidential.
        :raises RtiSmsInputError: a value cannot be sent; names the rows.
        """
        from airflow_provider_rtisms.sending.messages import preview

        return preview(text=text, rows=rows, messages=messages, charset=charset, max_parts=max_parts, samples=samples)

    def send(self, outbox: Outbox) -> list[Submission]:
        """
        Send what an outbox holds.

        :param outbox: from :meth:`get_outbox`.
        :return: what is known of each message, by position.
        :raises RtiSmsError: as :meth:`send_sms`.
        """
        from airflow_provider_rtisms.api.transport.fetch import run

        return run(self._with_client(outbox.send))
