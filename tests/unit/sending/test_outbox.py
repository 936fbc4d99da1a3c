"""Sending over both transports: what is repeated, what never is, and what stays out of the store and the logs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.calls import Call
from airflow_provider_rtisms.api.client import RtiSmsClient
from airflow_provider_rtisms.api.errors import (
    RtiSmsAuthenticationError,
    RtiSmsConnectError,
    RtiSmsError,
    RtiSmsUncertainError,
)
from airflow_provider_rtisms.api.models import Submission
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sending.journal import MemoryStore, SendJournal
from airflow_provider_rtisms.sending.messages import check_messages
from airflow_provider_rtisms.sending.outbox import Outbox
from tests.patience import with_more_time
from tests.unit.api.servers import counting_relay

NUMBERS = [f"+569000001{position:02}" for position in range(50)]
TEXT = "Confidential: the nightly load is late"
SEND = endpoints.send_sms(recipients=NUMBERS[:2], text=TEXT, sender="96000")


def settings_of(sandbox: Sandbox, **changes: Any) -> ApiSettings:
    values = {"client_id": sandbox.client_id, "client_secret": sandbox.client_secret, "base_url": sandbox.url}
    return ApiSettings(**{**values, **changes})


def perform_blocking(settings: ApiSettings, *todo: Call[Any]) -> Any:
    with RtiSmsClient(settings) as client:
        return [client.perform(call) for call in todo][-1]


def perform_async(settings: ApiSettings, *todo: Call[Any]) -> Any:
    async def perform() -> Any:
        async with AsyncRtiSmsClient(settings) as client:
            return [await client.perform(call) for call in todo][-1]

    return asyncio.run(perform())


@pytest.mark.parametrize("perform", [perform_blocking, perform_async], ids=["requests", "aiohttp"])
class TestOneCall:
    @pytest.mark.parametrize(
        "fault",
        [
            Fault("lost_response", path="sms"),
            Fault("cut_off", path="sms"),
            Fault("reset", path="sms"),
            *(Fault("error", path="sms", statuses=(status,)) for status in (500, 502, 503, 302, 418)),
            Fault("late_response", path="sms", seconds=3600),
        ],
        ids=str,
    )
    def test_a_lost_response_is_uncertain_and_never_repeated(
        self, perform: Any, rtisms_sandbox: Sandbox, fault: Fault
    ) -> None:
        rtisms_sandbox.set_faults(fault)

        def attempt(timeout: float) -> RtiSmsError:
            with pytest.raises(RtiSmsError) as caught:
                perform(settings_of(rtisms_sandbox, timeout=timeout), SEND)
            return caught.value

        error = with_more_time(attempt, was_enough=lambda _: rtisms_sandbox.state().requests.get("POST sms"))
        assert isinstance(error, RtiSmsUncertainError)
        assert rtisms_sandbox.state().requests["POST sms"] == 1

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("error", path="sms", statuses=(429,), times=2, retry_after=0),
            Fault("error", path="sms", statuses=(401,), times=1),
            Fault("error", path="auth", statuses=(500,), times=2),
            Fault("lost_response", path="auth", times=1),
        ],
        ids=str,
    )
    def test_what_was_not_accepted_is_repeated(self, perform: Any, rtisms_sandbox: Sandbox, fault: Fault) -> None:
        rtisms_sandbox.set_faults(fault)
        assert all(one.is_submitted for one in perform(settings_of(rtisms_sandbox), SEND))
        assert len(rtisms_sandbox.state().messages) == 2

    def test_no_kept_connection_is_used(self, perform: Any, rtisms_sandbox: Sandbox) -> None:
        with counting_relay(rtisms_sandbox.url) as (url, connections):
            perform(settings_of(rtisms_sandbox, base_url=url), endpoints.get_balance(), SEND, SEND)
        # One that is kept for the token and the balance, and one for each send.
        assert len(connections) == 3
        assert len(rtisms_sandbox.state().messages) == 4


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def outbox(rtisms_sandbox: Sandbox, store: MemoryStore) -> Outbox:
    messages = check_messages(recipients=NUMBERS, text=TEXT)
    return Outbox(messages, "96000", SendJournal(store, Secret(rtisms_sandbox.client_secret)), chunk_size=20)


@pytest.fixture
def send(rtisms_sandbox: Sandbox, outbox: Outbox) -> Callable[..., list[Submission]]:
    async def send(**changes: Any) -> list[Submission]:
        async with AsyncRtiSmsClient(settings_of(rtisms_sandbox, **changes)) as client:
            return await outbox.send(client)

    return lambda **changes: asyncio.run(send(**changes))


class TestOutbox:
    def test_recipients_go_out_in_chunks_and_are_matched_by_position(self, send: Any, rtisms_sandbox: Sandbox) -> None:
        submissions = send()
        messages = rtisms_sandbox.state().messages
        assert [(one.recipient, one.sender, one.text) for one in messages] == [(to, "96000", TEXT) for to in NUMBERS]
        assert [one.submission_id for one in messages] == [one.submission_id for one in submissions]
        assert rtisms_sandbox.state().requests["POST sms"] == 3

    @pytest.mark.parametrize(
        ("changes", "kind"),
        [
            ({"base_url": "http://127.0.0.1:9", "max_attempts": 1}, RtiSmsConnectError),
            ({"client_secret": "wrong"}, RtiSmsAuthenticationError),
        ],
    )
    def test_what_never_reached_the_vendor_leaves_no_doubt(
        self, send: Any, outbox: Outbox, changes: dict[str, Any], kind: type[RtiSmsError]
    ) -> None:
        with pytest.raises(kind, match="50 not sent"):
            send(**changes)
        assert not outbox.may_have_sent

    def test_the_store_holds_neither_numbers_nor_text_nor_a_guessable_digest(
        self, send: Any, store: MemoryStore
    ) -> None:
        send()
        kept = json.dumps(store)
        salt = store["rtisms_send"]["salt"]
        guesses = [hashlib.sha256((salt + number).encode()).hexdigest()[:32] for number in NUMBERS]
        assert not [secret for secret in (TEXT, *NUMBERS, *guesses) if secret in kept]

    def test_logs_and_errors_show_no_number_and_no_text(
        self, send: Any, rtisms_sandbox: Sandbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
        with pytest.raises(RtiSmsUncertainError) as caught:
            send()
        shown = caplog.text + str(caught.value) + repr(caught.value)
        assert "***111" in shown
        assert not [secret for secret in (TEXT, *NUMBERS) if secret.removeprefix("+") in shown]
