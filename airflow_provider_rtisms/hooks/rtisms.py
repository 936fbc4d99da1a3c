"""The hook: it calls the RTI SMS API with the credentials of an Airflow Connection."""

from __future__ import annotations

import copy
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, cast

from airflow_provider_rtisms.api.errors import (
    RtiSmsAuthenticationError,
    RtiSmsError,
    RtiSmsInputError,
    RtiSmsPermanentError,
    RtiSmsTransientError,
)
from airflow_provider_rtisms.compat import AirflowFailException, AirflowNotFoundException, BaseHook, mask_secret
from airflow_provider_rtisms.get_provider_info import UI_FIELD_BEHAVIOUR
from airflow_provider_rtisms.hooks.connection import (
    amask_secret,
    form_widgets,
    in_thread,
    reading_connection,
    settings_from_connection,
    single_flight_read,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

    from airflow_provider_rtisms.api import AsyncRtiSmsClient, RtiSmsClient, SmsDetails, Submission
    from airflow_provider_rtisms.api.auth import TokenCache
    from airflow_provider_rtisms.api.settings import ApiSettings
    from airflow_provider_rtisms.bulk.fetch import OnMissing
    from airflow_provider_rtisms.bulk.store import StoragePath
    from airflow_provider_rtisms.sending.journal import Store
    from airflow_provider_rtisms.sending.outbox import Outbox

    BulkResult: TypeAlias = dict[str, Any] | list[dict[str, Any]]

T = TypeVar("T")


@contextmanager
def fail_without_retry(hook: RtiSmsHook | None = None) -> Iterator[Any]:
    """
    Raise AirflowFailException for an error that a task retry cannot fix. It stops the retries of the task. Airflow's
    log shows it once, without the frames of the HTTP library.

    Transient errors and a missing Connection pass, as copies, so that Airflow can retry the task.

    :param hook: yielded, and closed at the end.
    """
    try:
        with nullcontext() if hook is None else hook:
            yield hook
    except RtiSmsPermanentError as error:
        raise AirflowFailException(str(error)) from None
    except (RtiSmsTransientError, AirflowNotFoundException) as error:
        raise copy.copy(error) from error.__cause__  # without its traceback


def run_of(context: Mapping[str, Any] | None = None) -> str | None:
    """
    Return what identifies a DAG run, the same in each attempt of its tasks; None outside of a DAG run.

    :param context: of a task. Default: that of the task that runs.
    """
    if not context:
        from airflow_provider_rtisms.compat import AirflowException, get_current_context

        try:
            context = cast("Mapping[str, Any]", get_current_context())
        except (RuntimeError, AirflowException):  # no task runs
            return None
    sources = [context.get("ti"), context.get("dag_run")]
    dag_ids = [getattr(source, "dag_id", None) for source in sources]
    run_ids = [context.get("run_id"), *(getattr(source, "run_id", None) for source in sources)]
    dag_id, run_id = (next((one for one in ids if isinstance(one, str)), "") for ids in (dag_ids, run_ids))
    return f"{dag_id}\n{run_id}" if run_id else None


class RtiSmsHook(BaseHook):
    """
    Call the RTI SMS API with the credentials of a Connection.

    A hook gets a token on first use, and every thread and task that uses the hook shares it. Close the hook, or use it
    as a context manager, to close its sockets::

        with RtiSmsHook() as hook:
            print(hook.get_sms("4193366853543393").status)

    :param rtisms_conn_id: Connection of type ``rtisms``: Login is the client id, Password the client secret, Host the
        base URL; see :class:`~airflow_provider_rtisms.api.settings.ApiSettings` for the fields of the extra.
    :param retry_args: arguments of tenacity that replace those of this package, by name: ``stop``, ``wait``, ``retry``
        and ``before_sleep``. A request on which the server may have acted is never repeated if that does harm,
        whatever ``retry`` says.
    :raises RtiSmsInputError: ``retry_args`` holds anything else.
    """

    conn_name_attr = "rtisms_conn_id"
    default_conn_name = "rtisms_default"
    conn_type = "rtisms"
    hook_name = "RealTime SMS"

    def __init__(
        self,
        rtisms_conn_id: str = default_conn_name,
        retry_args: Mapping[str, Callable[..., Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rtisms_conn_id = rtisms_conn_id
        if retry_args is not None:
            from airflow_provider_rtisms.api.retrying import check_retry_args

            retry_args = check_retry_args(retry_args)
        self.retry_args = retry_args
        self._lock = threading.RLock()
        #: What the clients of this hook share.
        self._settings_and_tokens: tuple[ApiSettings, TokenCache] | None = None
        self._client: RtiSmsClient | None = None

    def get_conn(self) -> RtiSmsClient:
        """
        Return the blocking client. The first call makes it.

        :raises RtiSmsConfigError: a field of the Connection is missing or malformed.
        """
        if self._client is not None:
            return self._client
        from airflow_provider_rtisms.api.client import RtiSmsClient
        from airflow_provider_rtisms.hooks.metrics import stats_for

        settings, tokens = self._account()
        client = RtiSmsClient(settings, tokens, mask_secret, stats_for(self.rtisms_conn_id), self.retry_args)
        with self._lock:
            self._client = self._client or client  # another thread may have made one meanwhile
            return self._client

    def _account(self) -> tuple[ApiSettings, TokenCache]:
        """Return what the clients of this hook share: the Connection, read once, and the token."""
        from airflow_provider_rtisms.api.auth import TokenCache

        with self._lock:
            if self._settings_and_tokens is None:
                settings = self.get_settings()
                if settings.needs_certificates:
                    settings.trusted_certificates()  # raises an error before anything is written or sent
                self._settings_and_tokens = settings, TokenCache()
            return self._settings_and_tokens

    def close(self) -> None:
        """Close all sockets, and forget the token and the Connection. A later call reads the Connection again."""
        with self._lock:
            client, self._client, self._settings_and_tokens = self._client, None, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_settings(self) -> ApiSettings:
        """Read the Connection, and return its fields, checked."""
        with reading_connection(self.rtisms_conn_id):
            connection = self.get_connection(self.rtisms_conn_id)
        return settings_from_connection(connection)

    def get_sms(self, submission_id: str | int) -> SmsDetails:
        """
        Fetch the details of one submission (API: Get SMS info).

        :param submission_id: ASCII decimal string or whole number; no float.
        :return: the submission.
        :raises RtiSmsInputError: the id is malformed; nothing was sent.
        :raises RtiSmsNotFoundError: there is no such submission.
        :raises RtiSmsError: any other failure, see :mod:`~airflow_provider_rtisms.api.errors`.
        """
        return self.get_conn().get_sms(submission_id)

    def get_balance(self) -> Decimal:
        """Fetch the account's balance (API: Get balance), exactly as the vendor returns it."""
        return self.get_conn().get_balance()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        idempotent: bool | None = None,
    ) -> Any:
        """
        Do a call that this package does not know, with the token, the retries and the errors of every other call.

        ::

            hook.request("GET", "/balance")  # {"balance": "457.00"}

        :param method: as for :func:`~airflow_provider_rtisms.api.calls.request`, like the other parameters.
        :return: the decoded JSON.
        :raises RtiSmsInputError: an argument has another form; nothing was sent.
        :raises RtiSmsUncertainError: the request is not idempotent, and its response was lost.
        :raises RtiSmsError: see :mod:`~airflow_provider_rtisms.api.errors`.
        """
        return self.get_conn().request(method, path, params=params, json=json, idempotent=idempotent)

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
        :param sender: as allowed for the account; default the field ``sender`` in the extra of the Connection.
        :param charset: 0, 1, 6 or 8; None picks by the text.
        :param max_parts: most parts that one SMS may take.
        :param max_messages: most messages.
        :param max_parts_total: most parts of all messages together.
        :param options: ``default_region``, ``smart_encoding``, ``on_uncertain`` and ``chunk_size``, as for
            :class:`~airflow_provider_rtisms.operators.rtisms.RtiSmsSendOperator`.
        :return: what is known of each message or distinct recipient, by position.
        :raises RtiSmsInputError: a value cannot be sent; nothing was sent. All bad messages are named by position.
        :raises RtiSmsUncertainError: a response was lost. The request is not repeated, since the server may have acted
            on it.
        :raises RtiSmsError: see :mod:`~airflow_provider_rtisms.api.errors`; ``submissions`` holds what is known.
        """
        outbox = self.get_outbox(
            recipients=recipients,
            text=text,
            messages=messages,
            sender=sender,
            charset=charset,
            max_parts=max_parts,
            max_messages=max_messages,
            max_parts_total=max_parts_total,
            **options,
        )
        return self.send(outbox)

    def get_outbox(self, *, sender: str | None = None, store: Store | None = None, **arguments: Any) -> Outbox:
        """
        Check the arguments of :meth:`send_sms`, and return a send that is ready for :meth:`send`. Nothing is sent yet.

        :param store: where to record what is sent, so that a later attempt knows it; default in memory.
        """
        from airflow_provider_rtisms.sending.outbox import make_outbox

        return make_outbox(self._account()[0], self.rtisms_conn_id, sender=sender, store=store, **arguments)

    def preview_sms(
        self,
        *,
        text: Any = None,
        rows: Iterable[Mapping[str, Any]] | None = None,
        recipients: Any = None,
        messages: Any = None,
        charset: int | None = None,
        max_parts: int | None = None,
        max_messages: int | None = None,
        max_parts_total: int | None = None,
        samples: int = 3,
        default_region: str | None = None,
        smart_encoding: bool = False,
        sender: str | None = None,
        on_uncertain: str = "fail",
        chunk_size: int | None = None,
    ) -> dict[str, Any]:
        """
        Say what a send would do: charsets, parts, and the characters that force UCS-2. It sends nothing, and asks
        nothing of the API.

        :param text: a text, in which ``{column}`` stands for a value of ``rows`` where those are given.
        :param rows: dicts of values by column; the text becomes a message for each.
        :param recipients: phone numbers that the text goes to, as for :meth:`send_sms`; instead of ``rows``.
        :param messages: instead of all these, messages as for :meth:`send_sms`.
        :param charset: 0, 1, 6 or 8; None picks by each text.
        :param max_parts: most parts that one SMS may take.
        :param max_messages: most messages.
        :param max_parts_total: most parts of all messages together.
        :param samples: how many of the first texts to return.
        :param default_region: of numbers in ``recipients`` or ``messages`` without +, as for :meth:`send_sms`; that of
            the Connection is not read. The result then has ``completed``, the count of these numbers.
        :param smart_encoding: as for :meth:`send_sms`. The result then has ``parts_saved``, and ``replaced``: messages
            by character that is replaced.
        :param sender: as for :meth:`send_sms`, so that both take the same arguments; changes nothing here.
        :param on_uncertain: likewise.
        :param chunk_size: likewise.
        :return: ``messages`` (count), ``parts_total``, ``max_parts`` (of the longest), ``charsets`` (messages by number
            of the charset), ``forces_ucs2`` (messages by character that GSM 7-bit does not have), and ``samples``: for
            each of the first texts ``text, charset, characters, parts, forces_ucs2``. These texts may be confidential,
            so keep the result out of XCom and logs.
        :raises RtiSmsInputError: a value cannot be sent; names the rows.
        """
        from airflow_provider_rtisms.sending.messages import preview

        return preview(
            text=text,
            rows=rows,
            recipients=recipients,
            messages=messages,
            charset=charset,
            max_parts=max_parts,
            max_messages=max_messages,
            max_parts_total=max_parts_total,
            samples=samples,
            default_region=default_region,
            smart_encoding=smart_encoding,
        )

    def send(self, outbox: Outbox) -> list[Submission]:
        """Send what :meth:`get_outbox` has returned; return what is known of each message, by position."""
        from airflow_provider_rtisms.hooks.metrics import span

        with span("rtisms.send", self.rtisms_conn_id) as note:
            try:
                return self.run_limited(outbox.send)
            finally:
                note(lambda: {f"rtisms.{name}": count for name, count in outbox.counts().items()})

    def run_async(self, work: Callable[[AsyncRtiSmsClient], Awaitable[T]]) -> T:
        """
        Run asynchronous work with an opened client to its end from blocking code.

        If the credentials are refused, the Connection is read again. If it has changed, the work is done again.
        """
        from airflow_provider_rtisms.api.aio import run
        from airflow_provider_rtisms.hooks.metrics import span
        from airflow_provider_rtisms.waiting import with_current_credentials

        with span("rtisms.wait", self.rtisms_conn_id):
            return run(with_current_credentials(self._connect, work))

    def bulk_get_sms(
        self,
        submission_ids: Any,
        *,
        output_path: str | StoragePath | None = None,
        max_concurrency: int | None = None,
        requests_per_second: float | None = None,
        on_missing: OnMissing = "fail",
        missing_path: str | StoragePath | None = None,
        raw: bool = False,
        run: str | None = None,
    ) -> BulkResult:
        """
        Fetch the details of thousands of submissions, each once, with many requests at once.

        :param submission_ids: :class:`~airflow_provider_rtisms.bulk.fetch.DistinctIds`, or what
            :func:`~airflow_provider_rtisms.api.values.arguments.iter_submission_ids` reads.
        :param output_path: a file to stream the records to, see
            :func:`~airflow_provider_rtisms.bulk.fetch.fetch_to_file`. None returns them, so all are in memory.
        :param max_concurrency: most requests at once. Default: that of the Connection.
        :param requests_per_second: most requests a second. Default: that of the Connection.
        :param on_missing: for ids that the API does not know: ``fail``, after the rest has been fetched, or ``skip``.
        :param missing_path: a file for these ids: ids and reasons if it ends in ``.csv`` or ``.jsonl``, else one id a
            line. It is written after the fetch, also if ``on_missing`` then fails.
        :param raw: add a column ``raw`` to the file: the JSON of each response as it came. Needs ``output_path``.
        :param run: what the records of an earlier attempt must belong to, so that this one goes on from them. Default:
            the DAG run of the task that runs; outside of a task, any records of the last 24 hours.
        :return: the summary (dict) with ``output_path``, else the records (list of dicts), in the order in
            which they were fetched.
        :raises RtiSmsInputError: an id or an argument is malformed; nothing was sent.
        :raises RtiSmsError: see :func:`~airflow_provider_rtisms.bulk.fetch.fetch_to_file`.
        """
        from airflow_provider_rtisms.api.values.arguments import iter_submission_ids
        from airflow_provider_rtisms.bulk.fetch import DistinctIds, fetch_to_file, fetch_to_memory
        from airflow_provider_rtisms.bulk.store import storage_path

        if raw and output_path is None:
            raise RtiSmsInputError("raw=True needs output_path: the JSON of the responses does not go to XCom.")
        run = run_of() if run is None else run
        path = None if output_path is None else storage_path("output_path", output_path)
        missing = None if missing_path is None else storage_path("missing_path", missing_path)

        is_read = isinstance(submission_ids, DistinctIds)
        ids = submission_ids if is_read else DistinctIds(iter_submission_ids(submission_ids))

        what: dict[str, Any] = {"ids": ids, "on_missing": on_missing, "missing_path": missing}
        limits = max_concurrency, requests_per_second
        if path is None:
            return self.run_bulk(len(ids), partial(fetch_to_memory, **what), *limits)
        return self.run_bulk(len(ids), partial(fetch_to_file, **what, path=path, raw=raw, run=run), *limits)

    def run_bulk(self, count: int, work: Callable[[AsyncRtiSmsClient], Awaitable[T]], *limits: Any) -> T:
        """Do what :meth:`run_limited` does, for a fetch of so many submissions."""
        from airflow_provider_rtisms.hooks.metrics import span

        with span("rtisms.bulk_get", self.rtisms_conn_id) as note:
            note(lambda: {"rtisms.submissions": count})
            return self.run_limited(work, *limits)

    def run_limited(
        self,
        work: Callable[[AsyncRtiSmsClient], Awaitable[T]],
        max_concurrency: int | None = None,
        requests_per_second: float | None = None,
    ) -> T:
        """Run asynchronous work to its end from blocking code, once, with other limits than those of the Connection."""
        from airflow_provider_rtisms.api.aio import run_with

        limits = {"max_concurrency": max_concurrency, "requests_per_second": requests_per_second}
        client = self._new_async_client({name: value for name, value in limits.items() if value is not None})
        try:
            return run_with(client, work)
        except RtiSmsAuthenticationError:
            self.close()  # so that the next call reads the Connection again
            raise

    def _new_async_client(self, limits: Mapping[str, Any] | None = None) -> AsyncRtiSmsClient:
        """Return a client with the token of this hook; the limits replace those of the Connection."""
        from dataclasses import replace

        from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
        from airflow_provider_rtisms.hooks.metrics import stats_for

        settings, tokens = self._account()
        settings = replace(settings, **limits) if limits else settings
        return AsyncRtiSmsClient(settings, tokens, mask_secret, stats_for(self.rtisms_conn_id), self.retry_args)

    @asynccontextmanager
    async def get_async_conn(self) -> AsyncIterator[AsyncRtiSmsClient]:
        """
        Read the Connection, and yield the client that all its triggers on this event loop share.

        :raises RtiSmsConfigError: a field of the Connection is missing or malformed.
        """
        from airflow_provider_rtisms.api.aio import shared_client
        from airflow_provider_rtisms.hooks.metrics import prepare, stats_for

        settings = await single_flight_read(self.rtisms_conn_id, self.get_settings)
        await prepare()
        new_stats = partial(stats_for, self.rtisms_conn_id)
        async with shared_client(settings, amask_secret, new_stats, self.retry_args) as client:
            yield client

    def test_connection(self) -> tuple[bool, str]:
        """
        Authenticate and read the balance, for the "Test connection" button.

        The message does not name the Connection: Airflow tests it under a name that it has made up.

        :return: whether it worked, and a message for the user.
        """
        from airflow_provider_rtisms.compat import AirflowException

        try:
            balance = self.get_balance()
        except AirflowNotFoundException:
            fields = "Port is a whole number, Extra is a JSON object, the other fields are strings"
            return False, f"There is no such Connection, or Airflow cannot read it: {fields}."
        except (RtiSmsError, AirflowException) as error:
            return False, str(error).replace(f"the Connection {self.rtisms_conn_id}", "the Connection")
        return True, f"Connected to {self._account()[0].base_url}; the balance is {balance}."

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extra fields of the form for Airflow below 3.2."""
        return form_widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the labels and placeholders of the form for Airflow below 3.2, made from ``UI_FIELD_BEHAVIOUR``."""
        return {name.replace("-", "_"): value for name, value in UI_FIELD_BEHAVIOUR.items()}

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[AsyncRtiSmsClient]:
        try:
            async with await in_thread(self._new_async_client) as client:
                yield client
        except RtiSmsAuthenticationError:
            self.close()
            raise


def hook_of_task(conn_id: str) -> AbstractContextManager[RtiSmsHook]:
    """Give a task its hook, and close it at the end. An error that a retry cannot fix stops the retries of the task."""
    return fail_without_retry(RtiSmsHook(conn_id))
