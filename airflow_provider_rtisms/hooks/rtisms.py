"""The way from an Airflow Connection to a client of the RTI SMS API."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow.providers.common.compat.sdk import BaseHook, mask_secret

from airflow_provider_rtisms.get_provider_info import CONN_FIELDS, UI_FIELD_BEHAVIOUR
from airflow_provider_rtisms.hooks.connection import settings_from_connection, single_flight_read

if TYPE_CHECKING:
    from decimal import Decimal

    from airflow_provider_rtisms.api.models import SmsDetails, Submission
    from airflow_provider_rtisms.api.settings import ApiSettings
    from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
    from airflow_provider_rtisms.api.transport.blocking import RtiSmsClient
    from airflow_provider_rtisms.api.transport.fetch import Outcome
    from airflow_provider_rtisms.bulk.job import OnMissing
    from airflow_provider_rtisms.bulk.storage import StoragePath
    from airflow_provider_rtisms.sending.journal import Store
    from airflow_provider_rtisms.sending.outbox import Outbox

    BulkResult: TypeAlias = dict[str, Any] | list[dict[str, Any]]


class RtiSmsHook(BaseHook):
    """
    Talk to the RTI SMS API with the credentials of a Connection.

    One hook holds one token, got on first use and shared by every thread and task that uses the hook.

    :param rtisms_conn_id: Connection of type ``rtisms``: Login is the client id, Password the client secret, Host the
        base URL; see :class:`~airflow_provider_rtisms.api.settings.ApiSettings` for the extras.
    """

    conn_name_attr = "rtisms_conn_id"
    default_conn_name = "rtisms_default"
    conn_type = "rtisms"
    hook_name = "RealTime SMS"

    def __init__(self, rtisms_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rtisms_conn_id = rtisms_conn_id
        self._lock = threading.Lock()
        self._client: RtiSmsClient | None = None

    def get_conn(self) -> RtiSmsClient:
        """
        Return the blocking client, made on first use.

        :raises RtiSmsConfigError: a field of the Connection is missing or malformed.
        """
        from airflow_provider_rtisms.api.transport.blocking import RtiSmsClient

        with self._lock:
            if self._client is None:
                self._client = RtiSmsClient(self.get_settings(), on_secret=mask_secret)
            return self._client

    def reconnect(self) -> bool:
        """
        Read the Connection again, after its credentials were refused.

        :return: whether it has changed; if so, the next call uses a new client.
        """
        with self._lock:
            client, self._client = self._client, None
        if client is None:
            return True
        client.close()
        return client.settings != self.get_settings()

    def get_settings(self) -> ApiSettings:
        """
        Read the Connection.

        :return: its fields, checked.
        :raises RtiSmsConfigError: a field is missing or malformed.
        """
        return settings_from_connection(self.get_connection(self.rtisms_conn_id))

    def get_sms(self, submission_id: str | int) -> SmsDetails:
        """
        Fetch the details of one submission (API: Get SMS info).

        :param submission_id: ASCII decimal string or non-negative int.
        :return: the submission.
        :raises RtiSmsInputError: the id is malformed; nothing was sent.
        :raises RtiSmsNotFoundError: there is no such submission.
        :raises RtiSmsError: any other failure, see :mod:`~airflow_provider_rtisms.api.errors`.
        """
        from airflow_provider_rtisms.api.protocol import endpoints

        return self.get_conn().perform(endpoints.get_sms(submission_id))

    def get_balance(self) -> Decimal:
        """
        Fetch the account's balance (API: Get balance), exactly as the vendor tells it.

        :raises RtiSmsError: see :mod:`~airflow_provider_rtisms.api.errors`.
        """
        from airflow_provider_rtisms.api.protocol import endpoints

        return self.get_conn().perform(endpoints.get_balance())

    def send_sms(
        self,
        *,
        recipients: Any,
        text: str,
        sender: str,
        charset: int | None = None,
        max_parts: int | None = None,
        **options: Any,
    ) -> list[Submission]:
        """
        Send a text to one or many recipients, each once (API: Send SMS).

        :param recipients: a phone number in international form, or a list of them.
        :param text: the message.
        :param sender: as allowed for the account.
        :param charset: 0, 1, 6 or 8; None picks by the text.
        :param max_parts: most parts that one SMS may take.
        :param options: ``on_uncertain`` and ``chunk_size`` of :class:`~airflow_provider_rtisms.sending.outbox.Outbox`.
        :return: what the vendor said of each distinct recipient, by position: ``submitted``, ``account_no_balance``, or
            ``unknown_error`` where it said so to every one of a few attempts.
        :raises RtiSmsInputError: a value cannot be sent; nothing was.
        :raises RtiSmsUncertainError: an response was lost; it is not repeated, for it may have been acted on.
        :raises RtiSmsError: see :mod:`~airflow_provider_rtisms.api.errors`; ``submissions`` holds what was told before.
        """
        return self.get_outbox(
            recipients=recipients, text=text, sender=sender, charset=charset, max_parts=max_parts, **options
        ).send()

    def get_outbox(
        self,
        *,
        recipients: Any,
        text: str,
        sender: str,
        charset: int | None = None,
        max_parts: int | None = None,
        store: Store | None = None,
        **options: Any,
    ) -> Outbox:
        """
        Return a text on its way, checked; nothing is sent yet.

        :param recipients: as for :meth:`send_sms`, like the next four and ``options``.
        :param store: where to write down what is sent, so that a later try knows; default nowhere beyond this process.
        :raises RtiSmsInputError: a value cannot be sent.
        """
        from airflow_provider_rtisms.api.values.recipients import parse_recipients
        from airflow_provider_rtisms.api.values.text import SmsText
        from airflow_provider_rtisms.sending.journal import MemoryStore, SendJournal
        from airflow_provider_rtisms.sending.outbox import Outbox

        numbers = parse_recipients(recipients)
        sms_text = SmsText.of(text, charset, max_parts)
        client = self.get_conn()
        record = SendJournal(MemoryStore() if store is None else store, client.settings.client_secret)
        return Outbox(client.perform, numbers, sms_text, sender, record, **options)

    def fetch_many(self, submission_ids: Sequence[str]) -> list[Outcome]:
        """
        Fetch the details of some submissions, ``max_concurrency`` at a time.

        :param submission_ids: checked ids, see :func:`~airflow_provider_rtisms.api.values.ids.check_submission_id`.
        :return: pairs of an id and its details, or the error that came in their place, in the order of arrival.
        """
        from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
        from airflow_provider_rtisms.api.transport.fetch import fetch, run

        if not submission_ids:
            return []
        client = self.get_conn()

        async def main() -> list[Outcome]:
            async with AsyncRtiSmsClient(client.settings, client.tokens, on_secret=mask_secret) as aio_client:
                return [outcome async for outcome in fetch(aio_client, submission_ids)]

        return run(main())

    def bulk_get_sms(
        self,
        submission_ids: Any,
        *,
        output_path: str | StoragePath | None = None,
        max_concurrency: int | None = None,
        requests_per_second: float | None = None,
        on_missing: OnMissing = "fail",
        missing_path: str | StoragePath | None = None,
    ) -> BulkResult:
        """
        Fetch the details of thousands of submissions, each once, near the limit of the wire.

        :param submission_ids: :class:`~airflow_provider_rtisms.bulk.distinct_ids.DistinctIds`, or what
            :func:`~airflow_provider_rtisms.api.values.ids.iter_submission_ids` reads.
        :param output_path: a file to stream the records to, see
            :func:`~airflow_provider_rtisms.bulk.job.fetch_to_file`. None returns them, so all are in memory.
        :param max_concurrency: most requests under way at once. Default: what the Connection says.
        :param requests_per_second: most requests a second. Default: what the Connection says.
        :param on_missing: for ids that the API does not know: ``fail``, after having fetched the rest, or ``skip``.
        :param missing_path: a file for these ids: ids and reasons if it ends in ``.csv`` or ``.jsonl``, else one id a
            line. It is written once all is fetched, also if ``on_missing`` then fails.
        :return: the summary (dict) with ``output_path``, else the records (list of dicts), in the order of arrival.
        :raises RtiSmsInputError: an id or an argument is malformed; nothing was sent.
        :raises RtiSmsError: see :func:`~airflow_provider_rtisms.bulk.job.fetch_to_file`.
        """
        from dataclasses import replace

        from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
        from airflow_provider_rtisms.api.transport.fetch import run
        from airflow_provider_rtisms.api.values.ids import iter_submission_ids
        from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
        from airflow_provider_rtisms.bulk.job import check_on_missing, fetch_to_file, fetch_to_memory
        from airflow_provider_rtisms.bulk.storage import storage_path

        check_on_missing(on_missing)
        path = None if output_path is None else storage_path("output_path", output_path)
        missing = None if missing_path is None else storage_path("missing_path", missing_path)
        client = self.get_conn()
        settings = client.settings
        settings = replace(
            settings,
            max_concurrency=settings.max_concurrency if max_concurrency is None else max_concurrency,
            requests_per_second=settings.requests_per_second if requests_per_second is None else requests_per_second,
        )

        async def main(ids: DistinctIds) -> BulkResult:
            async with AsyncRtiSmsClient(settings, client.tokens, on_secret=mask_secret) as aio_client:
                if path is None:
                    return await fetch_to_memory(aio_client, ids, on_missing, missing)
                return await fetch_to_file(aio_client, ids, path, on_missing, missing)

        if isinstance(submission_ids, DistinctIds):
            return run(main(submission_ids))
        with DistinctIds(iter_submission_ids(submission_ids)) as ids:
            return run(main(ids))

    @asynccontextmanager
    async def get_async_conn(self) -> AsyncIterator[AsyncRtiSmsClient]:
        """
        Give the client that all triggers of this Connection share on this event loop, reading the Connection anew.

        :raises RtiSmsConfigError: a field of the Connection is missing or malformed.
        """
        from airflow_provider_rtisms.api.transport.aio import shared_client

        settings = await single_flight_read(self.rtisms_conn_id, self.get_settings)
        async with shared_client(settings, on_secret=_amask_secret) as client:
            yield client

    def test_connection(self) -> tuple[bool, str]:
        """
        Authenticate and read the balance, for the "Test connection" button.

        :return: whether it worked, and what to tell the person who asked.
        """
        from airflow_provider_rtisms.api.errors import RtiSmsError

        try:
            balance = self.get_balance()
        except RtiSmsError as error:
            return False, str(error)
        return True, f"Connected to {self.get_conn().settings.base_url}; the balance is {balance}."

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's extra fields for Airflow below 3.2, made from ``CONN_FIELDS``."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget  # type: ignore[import-not-found,unused-ignore]
        from wtforms import BooleanField, StringField  # type: ignore[import-untyped,unused-ignore]

        widgets: dict[str, Any] = {}
        for name, conn_field in CONN_FIELDS.items():
            label, help_text = conn_field["label"], conn_field["description"]
            if "boolean" in conn_field["schema"]["type"]:
                widgets[name] = BooleanField(label, description=help_text)
            else:
                widgets[name] = StringField(label, description=help_text, widget=BS3TextFieldWidget())
        return widgets

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's labels and placeholders for Airflow below 3.2, made from ``UI_FIELD_BEHAVIOUR``."""
        return {name.replace("-", "_"): value for name, value in UI_FIELD_BEHAVIOUR.items()}


async def _amask_secret(secret: str) -> None:
    try:
        from airflow.sdk.log import amask_secret
    except ImportError:  # before Airflow 3.3.2
        from asgiref.sync import sync_to_async

        await sync_to_async(mask_secret)(secret)
    else:
        await amask_secret(secret)
