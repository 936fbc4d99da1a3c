"""Sending over both transports: what is repeated, what never is, and what every recipient's fate is said to be."""

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
    RtiSmsSenderRefusedError,
    RtiSmsUncertainError,
)
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.recipients import parse_recipients
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sending.journal import MemoryStore, SendJournal
from airflow_provider_rtisms.sending.messages import check_messages
from airflow_provider_rtisms.sending.outbox import Outbox
from tests.patience import with_more_time
from tests.unit.api.servers import counting_relay, scripted_server

NUMBERS = [f"+569000001{position:02}" for position in range(50)]
TEXT = "Confidential: the nightly load is late"


def settings_of(sandbox: Sandbox, **changes: Any) -> ApiSettings:
    values = {"client_id": sandbox.client_id, "client_secret": sandbox.client_secret, "base_url": sandbox.url}
    return ApiSettings(**{**values, **changes})


async def perform_async(settings: ApiSettings, *todo: Call[Any]) -> Any:
    async with AsyncRtiSmsClient(settings) as client:
        return [await client.perform(call) for call in todo][-1]


def perform_blocking(settings: ApiSettings, *todo: Call[Any]) -> Any:
    with RtiSmsClient(settings) as client:
        return [client.perform(call) for call in todo][-1]


TRANSPORTS = {
    "requests": perform_blocking,
    "aiohttp": lambda settings, *todo: asyncio.run(perform_async(settings, *todo)),
}


@pytest.fixture(params=TRANSPORTS)
def perform(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return TRANSPORTS[request.param]


def send_call(*recipients: str, sender: str = "96000") -> Call[list[Submission]]:
    numbers = parse_recipients(recipients or NUMBERS[:2])
    return endpoints.send_sms(recipients=numbers, text=SmsText.of(TEXT), sender=sender)


class TestOneCall:
    def test_it_goes_out_as_the_api_wants_it(self, perform: Any, rtisms_sandbox: Sandbox) -> None:
        submissions = perform(settings_of(rtisms_sandbox), send_call())
        messages = rtisms_sandbox.state().messages
        assert [(one.recipient, one.sender, one.text, one.charset) for one in messages] == [
            (number, "96000", TEXT, 1) for number in NUMBERS[:2]
        ]
        assert [one.submission_id for one in submissions] == [one.submission_id for one in messages]

    @pytest.mark.parametrize(
        "fault",
        [
            Fault("lost_response", path="sms"),
            Fault("cut_off", path="sms"),
            Fault("error", path="sms", statuses=(500,)),
            Fault("error", path="sms", statuses=(502,)),
            Fault("error", path="sms", statuses=(503,)),
            Fault("error", path="sms", statuses=(302,)),
            Fault("error", path="sms", statuses=(418,)),
            Fault("reset", path="sms"),
        ],
        ids=str,
    )
    def test_a_lost_response_is_uncertain_and_never_repeated(
        self, perform: Any, rtisms_sandbox: Sandbox, fault: Fault
    ) -> None:
        rtisms_sandbox.set_faults(fault)
        with pytest.raises(RtiSmsUncertainError, match="not repeated"):
            perform(settings_of(rtisms_sandbox), send_call())
        assert rtisms_sandbox.state().requests["POST sms"] == 1

    def test_a_response_that_does_not_come_is_uncertain_and_never_repeated(
        self, perform: Any, rtisms_sandbox: Sandbox
    ) -> None:
        rtisms_sandbox.set_faults(Fault("late_response", path="sms", seconds=3600))

        def attempt(timeout: float) -> RtiSmsError:
            with pytest.raises(RtiSmsError) as caught:
                perform(settings_of(rtisms_sandbox, timeout=timeout), send_call())
            return caught.value

        error = with_more_time(attempt, was_enough=lambda _: rtisms_sandbox.state().requests.get("POST sms"))
        assert isinstance(error, RtiSmsUncertainError)
        assert "not repeated" in str(error)
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
        assert all(one.is_submitted for one in perform(settings_of(rtisms_sandbox), send_call()))
        assert len(rtisms_sandbox.state().messages) == 2

    def test_a_refused_sender_fails_at_once(self, perform: Any, rtisms_sandbox: Sandbox) -> None:
        with pytest.raises(RtiSmsSenderRefusedError):
            perform(settings_of(rtisms_sandbox), send_call(sender="blocked"))
        assert rtisms_sandbox.state().requests["POST sms"] == 1

    def test_no_kept_connection_is_used(self, perform: Any, rtisms_sandbox: Sandbox) -> None:
        with counting_relay(rtisms_sandbox.url) as (url, connections):
            perform(settings_of(rtisms_sandbox, base_url=url), endpoints.get_balance(), send_call(), send_call())
        # One that is kept for the token and the balance, and one for each send.
        assert len(connections) == 3
        assert len(rtisms_sandbox.state().messages) == 4

    def test_a_response_of_another_length_keeps_what_it_lists(self, perform: Any) -> None:
        with scripted_server(b'{"submissions": [{"status": "submitted", "submissionId": "42"}]}') as url:
            settings = ApiSettings(client_id="a", client_secret="b", base_url=url)
            with pytest.raises(RtiSmsUncertainError, match="1 submissions for 2 recipients") as caught:
                perform(settings, send_call())
        assert caught.value.submissions == [Submission(SendOutcome.SUBMITTED, "submitted", "42")]

    def test_an_id_means_submitted_whatever_the_status(self, perform: Any) -> None:
        body = {"submissions": [{"status": "queued", "submissionId": "42"}, {"status": "queued"}]}
        with scripted_server(json.dumps(body).encode()) as url:
            submissions = perform(ApiSettings(client_id="a", client_secret="b", base_url=url), send_call())
        assert [one.to_record() for one in submissions] == [
            {"outcome": "submitted", "status": "queued", "submission_id": "42"},
            {"outcome": "uncertain", "status": "queued", "submission_id": None},
        ]


class Desk:
    """Sends through one journal, as the attempts of one task do."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.store = MemoryStore()
        self.pauses: list[float] = []

    def outbox(self, recipients: list[str] = NUMBERS, **options: Any) -> Outbox:
        journal = SendJournal(self.store, Secret(self.sandbox.client_secret))
        messages = check_messages(recipients=recipients, text=TEXT)
        return Outbox(messages, "96000", journal, **{"chunk_size": 10, "pause": self._pause, **options})

    def send(self, recipients: list[str] = NUMBERS, **options: Any) -> list[Submission]:
        return self.send_with(self.outbox(recipients, **options))

    def send_with(self, outbox: Outbox, after: Callable[[], None] = lambda: None, **changes: Any) -> list[Submission]:
        """Send; do something after each request of a send."""

        class Client(AsyncRtiSmsClient):
            async def perform(self, call: Call[Any]) -> Any:
                result = await super().perform(call)
                after()
                return result

        async def main() -> list[Submission]:
            async with Client(settings_of(self.sandbox, **changes)) as client:
                return await outbox.send(client)

        return asyncio.run(main())

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def received(self) -> list[str]:
        """The recipients of the messages that the sandbox accepted, in their order."""
        return [one.recipient for one in self.sandbox.state().messages if one.status == "submitted"]


@pytest.fixture
def desk(rtisms_sandbox: Sandbox) -> Desk:
    return Desk(rtisms_sandbox)


class TestOutbox:
    def test_recipients_go_out_in_chunks_and_are_matched_by_position(self, desk: Desk) -> None:
        submissions = desk.send(chunk_size=20)
        messages = desk.sandbox.state().messages
        assert [one.recipient for one in messages] == NUMBERS
        assert [one.submission_id for one in messages] == [one.submission_id for one in submissions]
        assert desk.sandbox.state().requests["POST sms"] == 3

    def test_no_connection_is_no_doubt(self, desk: Desk) -> None:
        outbox = desk.outbox()
        with pytest.raises(RtiSmsConnectError, match="50 not_sent"):
            desk.send_with(outbox, base_url="http://127.0.0.1:9", max_attempts=1)
        assert not outbox.may_have_sent

    def test_the_store_holds_neither_numbers_nor_text_nor_a_guessable_digest(self, desk: Desk) -> None:
        desk.send()
        kept = json.dumps(desk.store)
        salt = desk.store["rtisms_send"]["salt"]
        for number in NUMBERS:
            for guess in (number, hashlib.sha256((salt + number).encode()).hexdigest()[:32]):
                assert guess not in kept
        assert TEXT not in kept

    def test_bad_credentials_leave_nothing_in_doubt(self, desk: Desk) -> None:
        outbox = desk.outbox()
        with pytest.raises(RtiSmsAuthenticationError, match="50 not_sent"):
            desk.send_with(outbox, client_secret="wrong")
        assert not outbox.may_have_sent

    def test_logs_show_no_number_and_no_text(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        desk.sandbox.set_faults(Fault("lost_response", path="sms", times=1))
        with pytest.raises(RtiSmsUncertainError) as caught:
            desk.send(["+56900000007", *NUMBERS])
        shown = caplog.text + str(caught.value) + repr(caught.value)
        assert "***111" in shown
        assert TEXT not in shown
        assert not any(number.removeprefix("+") in shown for number in NUMBERS)
