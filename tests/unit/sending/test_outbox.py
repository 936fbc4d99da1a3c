"""Sending over both transports: what is repeated, what never is, and what every recipient's fate is said to be."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import (
    RtiSmsAuthenticationError,
    RtiSmsConnectError,
    RtiSmsInputError,
    RtiSmsNoBalanceError,
    RtiSmsNotAcceptedError,
    RtiSmsRateLimitError,
    RtiSmsSenderRefusedError,
    RtiSmsUncertainError,
)
from airflow_provider_rtisms.api.models import Submission
from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import Call
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.transport.aio import AsyncRtiSmsClient
from airflow_provider_rtisms.api.transport.blocking import RtiSmsClient
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sending.journal import MemoryStore, SendJournal
from airflow_provider_rtisms.sending.outbox import Outbox
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
    return endpoints.send_sms(recipients=recipients or NUMBERS[:2], text=SmsText.of(TEXT), sender=sender)


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
            Fault("late_response", path="sms", seconds=5),
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
            perform(settings_of(rtisms_sandbox, timeout=0.5), send_call())
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
    def test_what_was_surely_not_accepted_is_repeated(
        self, perform: Any, rtisms_sandbox: Sandbox, fault: Fault
    ) -> None:
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

    def test_an_response_of_another_length_keeps_what_was_told(self, perform: Any) -> None:
        told = b'{"submissions": [{"status": "submitted", "submissionId": "42"}]}'
        with scripted_server(told) as url:
            settings = ApiSettings(client_id="a", client_secret="b", base_url=url)
            with pytest.raises(RtiSmsUncertainError, match="42") as caught:
                perform(settings, send_call())
        assert caught.value.submissions == [Submission("submitted", "42")]

    def test_errors_repeat_neither_numbers_nor_text(self, perform: Any) -> None:
        echo = f"no: {NUMBERS[0]} 56900000101 {TEXT}".encode()
        with scripted_server(echo, status=400) as url:
            settings = ApiSettings(client_id="a", client_secret="b", base_url=url)
            with pytest.raises(Exception, match=r"no: \*\*\*100 \*\*\*101 \*\*\*"):
                perform(settings, send_call())

    @pytest.mark.parametrize("sender", ["", None, 96000])
    def test_a_sender_that_is_no_text_is_refused(self, sender: Any) -> None:
        with pytest.raises(RtiSmsInputError, match="sender"):
            send_call(sender=sender)


class Desk:
    """Sends through one record, as the attempts of one task do."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.store = MemoryStore()
        self.pauses: list[float] = []

    def perform(self, call: Call[Any], **changes: Any) -> Any:
        return perform_blocking(settings_of(self.sandbox, **changes), call)

    def outbox(self, recipients: list[str] = NUMBERS, perform: Any = None, **options: Any) -> Outbox:
        record = SendJournal(self.store, self.sandbox.client_secret)
        options = {"chunk_size": 10, "pause": self.pauses.append, **options}
        return Outbox(perform or self.perform, recipients, SmsText.of(TEXT), "96000", record, **options)

    def received(self) -> list[str]:
        """Whom the sandbox took a message for, in the order of arrival."""
        return [one.recipient for one in self.sandbox.state().messages if one.status == "submitted"]


@pytest.fixture
def desk(rtisms_sandbox: Sandbox) -> Desk:
    return Desk(rtisms_sandbox)


class TestOutbox:
    def test_recipients_go_out_in_chunks_and_are_matched_by_position(self, desk: Desk) -> None:
        submissions = desk.outbox(chunk_size=20).send()
        messages = desk.sandbox.state().messages
        assert [one.recipient for one in messages] == NUMBERS
        assert [one.submission_id for one in messages] == [one.submission_id for one in submissions]
        assert desk.sandbox.state().requests["POST sms"] == 3

    def test_a_later_try_sends_nothing_again(self, desk: Desk) -> None:
        first = desk.outbox().send()
        again = desk.outbox()
        assert again.send() == first
        assert not again.may_have_sent
        assert desk.received() == NUMBERS

    def test_a_later_try_sends_to_those_who_are_new(self, desk: Desk) -> None:
        desk.outbox(NUMBERS[:3]).send()
        desk.outbox([NUMBERS[4], *NUMBERS[1:3]]).send()
        assert desk.received() == [*NUMBERS[:3], NUMBERS[4]]

    def test_a_lost_response_leaves_one_chunk_uncertain_and_the_rest_is_sent(self, desk: Desk) -> None:
        desk.sandbox.set_faults(Fault("lost_response", path="sms", times=1))
        with pytest.raises(RtiSmsUncertainError, match=r"10 uncertain \(recipients\[0\] \*\*\*100") as caught:
            desk.outbox().send()
        assert [one.status for one in caught.value.submissions] == ["uncertain"] * 10 + ["submitted"] * 40
        with pytest.raises(RtiSmsUncertainError):
            desk.outbox().send()
        assert desk.received() == NUMBERS

    def test_skip_leaves_them_and_goes_on(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        desk.sandbox.set_faults(Fault("lost_response", path="sms", times=1))
        submissions = desk.outbox(on_uncertain="skip").send()
        assert [one.status for one in submissions[9:11]] == ["uncertain", "submitted"]
        assert "skipped" in caplog.text
        assert desk.received() == NUMBERS

    def test_resend_repeats_what_is_uncertain_and_nothing_else(self, desk: Desk) -> None:
        desk.sandbox.set_faults(Fault("lost_response", path="sms", times=1))
        submissions = desk.outbox(on_uncertain="resend").send()
        assert all(one.is_submitted for one in submissions)
        assert desk.received() == NUMBERS + NUMBERS[:10]

    def test_every_uncertain_recipient_is_named(self, desk: Desk) -> None:
        desk.sandbox.set_faults(Fault("lost_response", path="sms", times=1))
        with pytest.raises(RtiSmsUncertainError) as caught:
            desk.outbox(chunk_size=50).send()
        assert all(f"recipients[{position}] ***1{position:02}" in str(caught.value) for position in range(50))

    def test_two_lost_responses_in_a_row_end_it(self, desk: Desk) -> None:
        desk.sandbox.set_faults(Fault("error", path="sms", statuses=(500,)))
        with pytest.raises(RtiSmsUncertainError, match=r"20 uncertain .* 30 not_sent"):
            desk.outbox().send()
        assert desk.sandbox.state().requests["POST sms"] == 2

    def test_a_refusal_leaves_the_rest_for_a_later_try(self, desk: Desk) -> None:
        desk.sandbox.set_faults(Fault("error", path="sms", statuses=(403,), times=1))
        with pytest.raises(Exception, match="HTTP 403"):
            desk.outbox(NUMBERS[:10]).send()
        desk.outbox(NUMBERS[:10]).send()
        assert desk.received() == NUMBERS[:10]

    def test_a_threshold_that_lasts_is_transient_and_says_who_was_sent_to(self, desk: Desk) -> None:
        def pass_the_threshold(call: Call[Any]) -> Any:
            submissions = desk.perform(call)
            desk.sandbox.set_faults(Fault("error", path="sms", statuses=(429,), retry_after=1))
            return submissions

        with pytest.raises(RtiSmsRateLimitError, match=r"10 submitted .* 40 not_sent") as caught:
            desk.outbox(perform=pass_the_threshold).send()
        assert caught.value.retry_after == 1
        assert sum(one.is_submitted for one in caught.value.submissions) == 10
        desk.sandbox.set_faults()
        desk.outbox().send()
        assert desk.received() == NUMBERS

    def test_no_connection_is_no_doubt(self, desk: Desk) -> None:
        outbox = desk.outbox(perform=partial(desk.perform, base_url="http://127.0.0.1:9", max_attempts=1))
        with pytest.raises(RtiSmsConnectError, match="50 not_sent"):
            outbox.send()
        assert not outbox.may_have_sent

    def test_unknown_errors_are_tried_again_and_only_those(self, desk: Desk) -> None:
        submissions = desk.outbox(["+56900000007", "+56900000100", "+56911111007"]).send()
        assert all(one.is_submitted for one in submissions)
        assert sorted(desk.received()) == ["+56900000007", "+56900000100", "+56911111007"]
        assert [one.recipient[-3:] for one in desk.sandbox.state().messages].count("100") == 1
        assert len(desk.pauses) == 2

    def test_unknown_errors_that_last_are_transient(self, desk: Desk) -> None:
        outbox = desk.outbox(["+56900000006", "+56900000100"])
        assert [one.status for one in outbox.send()] == ["unknown_error", "submitted"]
        with pytest.raises(RtiSmsNotAcceptedError, match=r"1 unknown_error \(recipients\[0\] \*\*\*006\)"):
            outbox.check_submitted()
        assert desk.sandbox.state().requests["POST sms"] == 4

    def test_no_balance_is_final(self, desk: Desk) -> None:
        outbox = desk.outbox(["+56900000005", "+56900000006", "+56900000100"])
        outbox.send()
        with pytest.raises(RtiSmsNoBalanceError, match=r"1 account_no_balance \(recipients\[0\] \*\*\*005\)"):
            outbox.check_submitted()
        assert [one.recipient[-3:] for one in desk.sandbox.state().messages].count("005") == 1

    def test_the_store_holds_neither_numbers_nor_text_nor_a_guessable_digest(self, desk: Desk) -> None:
        desk.outbox().send()
        kept = json.dumps(desk.store)
        salt = desk.store["rtisms_send"]["salt"]
        for number in NUMBERS:
            for guess in (number, hashlib.sha256((salt + number).encode()).hexdigest()[:32]):
                assert guess not in kept
        assert TEXT not in kept

    def test_under_another_secret_everyone_is_uncertain(self, desk: Desk) -> None:
        desk.outbox().send()
        desk.sandbox.rotate_secret("new")
        with pytest.raises(RtiSmsUncertainError, match="50 uncertain"):
            desk.outbox().send()
        assert desk.received() == NUMBERS

    def test_bad_credentials_leave_nothing_in_doubt(self, desk: Desk) -> None:
        outbox = desk.outbox(perform=partial(desk.perform, client_secret="wrong"))
        with pytest.raises(RtiSmsAuthenticationError, match="50 not_sent"):
            outbox.send()
        assert not outbox.may_have_sent

    def test_a_process_that_dies_leaves_its_request_uncertain(self, desk: Desk) -> None:
        def accept_and_die(call: Call[Any]) -> Any:
            desk.perform(call)
            raise KeyboardInterrupt

        outbox = desk.outbox(perform=accept_and_die)
        with pytest.raises(KeyboardInterrupt):
            outbox.send()
        assert outbox.may_have_sent
        with pytest.raises(RtiSmsUncertainError, match="10 uncertain"):
            desk.outbox().send()
        assert desk.received() == NUMBERS

    def test_logs_show_no_number_and_no_text(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        desk.sandbox.set_faults(Fault("lost_response", path="sms", times=1))
        with pytest.raises(RtiSmsUncertainError) as caught:
            desk.outbox(["+56900000007", *NUMBERS]).send()
        shown = caplog.text + str(caught.value) + repr(caught.value)
        assert "***111" in shown
        assert TEXT not in shown
        assert not any(number.removeprefix("+") in shown for number in NUMBERS)

    @pytest.mark.parametrize("options", [{"on_uncertain": "retry"}, {"chunk_size": 0}, {"chunk_size": 501}])
    def test_bad_options_are_refused(self, desk: Desk, options: dict[str, Any]) -> None:
        with pytest.raises(RtiSmsInputError, match=next(iter(options))):
            desk.outbox(**options)
