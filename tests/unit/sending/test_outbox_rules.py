"""Rules of the outbox, with a client that is none and in virtual time: what goes out, when, and how often."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.values.recipients import Recipient
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.api.values.text import SmsText
from airflow_provider_rtisms.sending import journal as journal_module
from airflow_provider_rtisms.sending.journal import MemoryStore, SendJournal
from airflow_provider_rtisms.sending.messages import Message
from airflow_provider_rtisms.sending.outbox import Outbox
from tests import virtual_time
from tests.virtual_time import now, settle

TEXT = SmsText.of("hola")
LOST = errors.RtiSmsUncertainError("lost", call="send_sms")
REFUSED = errors.RtiSmsForbiddenError("HTTP 403", call="send_sms", status=403)

#: What the vendor does with one request: statuses by position, or an error; may be awaited.
Reply = list[str] | Exception
Behaviour = Callable[[list[int]], Reply | Awaitable[Reply]]


@pytest.fixture(autouse=True)
def quick_and_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys in little time, and let each pause be the longest that the jitter allows."""
    monkeypatch.setattr(journal_module, "_DERIVATION_ROUNDS", 1)
    monkeypatch.setattr("random.uniform", lambda low, high: high)


def number(position: int) -> str:
    return f"+5690000{position:04}"


class Vendor:
    """
    Takes requests in place of a client.

    :param behaviour: what each request gets; default: every message is submitted.
    """

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or (lambda positions: ["submitted"] * len(positions))
        #: The positions of the messages of each request, in the order in which they were sent.
        self.requests: list[list[int]] = []
        self.texts: list[str] = []
        self.departures: list[float] = []
        self.under_way = self.most_under_way = 0

    async def perform(self, call: Any) -> Any:
        body = json.loads(call.request(Secret("token")).body)  # as a client does when the request leaves
        positions = [int(one[-4:]) for one in body["recipients"]]
        self.requests.append(positions)
        self.texts.append(body["message"]["text"])
        self.departures.append(now() - virtual_time.START)
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            reply = self.behaviour(positions)
            if not isinstance(reply, list | Exception):
                reply = await reply
        finally:
            self.under_way -= 1
        if isinstance(reply, Exception):
            raise reply
        return [_submission(status, position) for status, position in zip(reply, positions, strict=True)]


def _submission(status: str, position: int) -> Submission:
    if status == "submitted":
        return Submission(SendOutcome.SUBMITTED, status, str(position))
    is_refused = status in ("unknown_error", "account_no_balance")
    return Submission(SendOutcome.REFUSED if is_refused else SendOutcome.UNCERTAIN, status)


class Task:
    """The attempts of one task: they share the store of the journal."""

    def __init__(self, count: int, store: MemoryStore | None = None) -> None:
        self.count = count
        self.store = MemoryStore() if store is None else store
        self.secret = Secret("client-secret")

    def outbox(self, messages: list[Message] | None = None, **options: Any) -> Outbox:
        if messages is None:
            places = range(self.count)
            messages = [Message(Recipient(number(one)), TEXT, position=f"recipients[{one}]") for one in places]
        return Outbox(messages, "96000", SendJournal(self.store, self.secret), **{"chunk_size": 1, **options})

    def send(self, vendor: Vendor, messages: list[Message] | None = None, **options: Any) -> str:
        """Do one attempt; return the outcomes by their first letters, in upper case if the attempt raised."""
        try:
            submissions = virtual_time.run(self.outbox(messages, **options).send(vendor))
        except errors.RtiSmsError as error:
            self.error = error
            return _letters(error.submissions).upper()
        return _letters(submissions)


def _letters(submissions: list[Submission]) -> str:
    return "".join(str(one.outcome)[0] for one in submissions)


def in_turn(*replies: Reply) -> Behaviour:
    """Give each request the next reply; then all is submitted."""
    script = iter(replies)
    return lambda positions: next(script, ["submitted"] * len(positions))


def by_position(table: dict[int, str]) -> Behaviour:
    return lambda positions: [table.get(position, "submitted") for position in positions]


def slowly(seconds: float = 1.0) -> Behaviour:
    async def reply(positions: list[int]) -> Reply:
        await asyncio.sleep(seconds)
        return ["submitted"] * len(positions)

    return reply


class TestOnUncertain:
    @pytest.mark.parametrize("on_uncertain", ["fail", "resend", "skip"])
    def test_what_is_certain_is_sent_once(self, on_uncertain: str) -> None:
        task, vendor = Task(3), Vendor()
        for _ in range(3):
            assert task.send(vendor, on_uncertain=on_uncertain) == "sss"
        assert vendor.requests == [[0], [1], [2]]

    @pytest.mark.parametrize(("on_uncertain", "outcomes"), [("fail", "US"), ("skip", "us")])
    def test_fail_and_skip_never_send_again(self, on_uncertain: str, outcomes: str) -> None:
        task, vendor = Task(2), Vendor(in_turn(LOST))
        for _ in range(3):
            assert task.send(vendor, on_uncertain=on_uncertain) == outcomes
        assert vendor.requests == [[0], [1]]

    @pytest.mark.parametrize("on_uncertain", ["fail", "skip"])
    def test_the_error_or_the_warning_says_what_is_uncertain_and_why(
        self, caplog: pytest.LogCaptureFixture, on_uncertain: str
    ) -> None:
        task = Task(1)
        task.send(Vendor(in_turn(LOST)), on_uncertain=on_uncertain)
        task.send(Vendor(), on_uncertain=on_uncertain)
        said = str(task.error) if on_uncertain == "fail" else caplog.text
        assert "The response to a request was lost" in said
        assert "Of 1 messages: 1 uncertain: recipients[0] ***000." in said
        assert ("on_uncertain is 'skip'. Of 1 messages" in caplog.text) is (on_uncertain == "skip")
        assert ("have been sent. on_uncertain is" in caplog.text) is (on_uncertain == "skip")

    def test_a_loss_that_does_not_end_the_sending_is_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        Task(2).send(Vendor(in_turn(LOST)))
        assert "lost" in [record.getMessage() for record in caplog.records]

    def test_resend_sends_once_more_in_a_later_attempt(self) -> None:
        task, vendor = Task(2), Vendor(in_turn(LOST))
        assert task.send(vendor) == "US"
        assert task.send(vendor, on_uncertain="resend") == "ss"
        assert vendor.requests == [[0], [1], [0]]

    def test_resend_sends_at_most_once_more_in_all_attempts(self) -> None:
        task = Task(2)
        vendor = Vendor(lambda positions: LOST if positions == [0] else ["submitted"] * len(positions))
        for _ in range(4):
            assert task.send(vendor, on_uncertain="resend") == "US"
        assert vendor.requests == [[0], [1], [0]]

    def test_resend_after_a_crash_sends_once_more(self) -> None:
        task, vendor = Task(1), Vendor()
        journal = SendJournal(task.store, task.secret)
        journal.begin([journal.digest(people(1)[0].keys[0])])
        assert task.send(vendor) == "U"
        assert vendor.requests == []
        assert task.send(vendor, on_uncertain="resend") == "s"

    def test_a_refusal_after_a_loss_leaves_the_message_uncertain(self) -> None:
        task, vendor = Task(1), Vendor(in_turn(LOST, ["unknown_error"]))
        assert task.send(vendor, on_uncertain="resend") == "U"
        assert len(vendor.requests) == 2

    def test_a_status_that_is_not_documented_is_uncertain(self) -> None:
        task, vendor = Task(2), Vendor(by_position({0: "queued"}))
        assert task.send(vendor) == "US"

    def test_after_the_secret_changed_twice_nobody_gets_a_message_twice(self) -> None:
        task, vendor = Task(2), Vendor(in_turn(REFUSED))
        assert task.send(vendor) == "NN"
        for secret in ("another", "client-secret", "another", "a third"):
            task.secret = Secret(secret)
            task.send(vendor)
        assert vendor.requests == [[0], [0], [1]]


def people(count: int, reference: str = "", first: int = 0) -> list[Message]:
    """Return a message for each number; with a reference each, if there is a prefix for them."""
    positions = range(first, first + count)
    return [Message(Recipient(number(one)), TEXT, f"{reference}{one}" if reference else None) for one in positions]


class TestHoles:
    """Keys of the journal get lost in the state store, after a send of 600 messages or in the middle of it."""

    @pytest.fixture
    def journal(self) -> MemoryStore:
        task = Task(600)
        assert task.send(Vendor(), chunk_size=50) == "s" * 600
        return task.store

    @pytest.mark.parametrize("on_uncertain", ["fail", "skip"])
    def test_wherever_one_is_nobody_gets_a_second_message(self, journal: MemoryStore, on_uncertain: str) -> None:
        for lost in journal:
            task, vendor = Task(650, MemoryStore(journal)), Vendor()
            del task.store[lost]
            for _ in range(2):
                outcomes = task.send(vendor, on_uncertain=on_uncertain, chunk_size=50).lower()
            again = {position for request in vendor.requests for position in request if position < 600}
            assert again == set(), lost
            assert "u" in outcomes, lost

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_many_at_once_let_nobody_get_a_second_message(self, journal: MemoryStore, count: int) -> None:
        keys = sorted(journal)
        for start in range(len(keys) - count):
            task, vendor = Task(600, MemoryStore(journal)), Vendor()
            for lost in keys[start : start + count]:
                del task.store[lost]
            task.send(vendor, chunk_size=50)
            task.send(vendor, chunk_size=50)
            assert vendor.requests == [], keys[start]

    def test_resend_sends_to_those_who_are_not_known_as_submitted_and_once(self, journal: MemoryStore) -> None:
        task, vendor = Task(650, MemoryStore(journal)), Vendor()
        lost = set(task.store.pop("rtisms_send_3")["to"])
        known = SendJournal(journal, task.secret)
        due = {one for one in range(600) if known.digest(f"recipient {number(one)}") in lost} | set(range(600, 650))
        for _ in range(3):
            assert task.send(vendor, on_uncertain="resend", chunk_size=50) == "s" * 650
        assert sorted(position for request in vendor.requests for position in request) == sorted(due)

    def test_a_hole_is_remembered_after_others_were_sent(self, journal: MemoryStore) -> None:
        """Two keys at the end may be overwritten later. It stays known that they were there."""
        task, vendor = Task(600, MemoryStore(journal)), Vendor(in_turn(REFUSED))
        head = dict(task.store["rtisms_send"])
        task.send(vendor, people(1, first=700))
        task.store["rtisms_send"] = head  # an old head came back, which knows fewer entries
        task.send(Vendor(), people(1, first=701), on_uncertain="resend")
        vendor = Vendor()
        task.send(vendor, people(1, first=702))
        assert vendor.requests == []

    def test_the_error_says_what_is_lost_and_what_to_do(self, journal: MemoryStore) -> None:
        task = Task(600, MemoryStore(journal))
        del task.store["rtisms_send_3"]
        task.send(Vendor())
        assert "A part of the journal of this task is missing in the task state store" in str(task.error)
        assert "set on_uncertain to 'resend'" in str(task.error)

    @pytest.mark.parametrize("is_late", [False, True])
    @pytest.mark.parametrize("writes", range(1, 9))
    def test_a_kill_is_no_hole(self, writes: int, is_late: bool) -> None:
        """A process dies before or after any of its writes: one window is uncertain, and all others get their text."""

        class Killed(BaseException):
            pass

        def write(key: str, value: Any) -> None:
            left[0] -= 1
            if left[0] > 0 or (left[0] == 0 and is_late):
                MemoryStore.set(task.store, key, json.loads(json.dumps(value)))
            if left[0] <= 0:
                raise Killed

        left = [writes]
        task, vendor = Task(12), Vendor()
        task.store.set = write  # type: ignore[method-assign]
        for _ in range(3):
            left[0] = writes
            with contextlib.suppress(Killed):
                task.send(vendor, chunk_size=1, window=2, on_uncertain="skip")
        del task.store.set
        outcomes = task.send(vendor, chunk_size=1, window=2, on_uncertain="skip")
        texted = [position for request in vendor.requests for position in request]
        assert len(texted) == len(set(texted))
        assert set(outcomes) <= {"s", "u"}
        assert outcomes.count("u") <= 3 * 2
        assert {position for position, one in enumerate(outcomes) if one == "s"} <= set(texted)
        assert not task.store["rtisms_send"]["has_hole"]


class TestRotations:
    """The client secret has changed, and the journal holds 1, 2 or 12 requests under the old one."""

    @pytest.mark.parametrize("requests", [1, 2, 12])
    @pytest.mark.parametrize("on_uncertain", ["fail", "skip"])
    def test_nothing_is_sent(self, requests: int, on_uncertain: str) -> None:
        task, vendor = self._rotated(requests)
        for _ in range(3):
            assert task.send(vendor, on_uncertain=on_uncertain).lower() == "u" * (requests + 3)
        assert len(vendor.requests) == requests

    @pytest.mark.parametrize("requests", [1, 2, 12])
    def test_resend_sends_to_everybody_who_is_not_known_as_submitted_once(self, requests: int) -> None:
        task, vendor = self._rotated(requests)
        for _ in range(3):
            assert task.send(vendor, on_uncertain="resend") == "s" * (requests + 3)
        assert sorted(vendor.requests[requests:]) == [[position] for position in range(requests + 3)]

    @pytest.mark.parametrize("requests", [1, 2, 12])
    def test_the_error_says_how_much_was_recorded_and_what_to_do(self, requests: int) -> None:
        task, vendor = self._rotated(requests)
        task.send(vendor)
        assert f"another client secret: {requests} submitted, 0 uncertain" in str(task.error)
        assert "set on_uncertain to 'resend'" in str(task.error)

    @pytest.mark.parametrize("requests", [1, 2, 12])
    def test_the_error_does_not_advise_the_setting_that_is_set(self, requests: int) -> None:
        task, vendor = self._rotated(requests)
        vendor.behaviour = lambda positions: LOST if positions == [0] else ["submitted"]
        assert task.send(vendor, on_uncertain="resend") == "U" + "S" * (requests + 2)
        assert task.send(vendor, on_uncertain="resend") == "U" + "S" * (requests + 2)
        assert vendor.requests.count([0]) == 2
        assert "to 'resend'" not in str(task.error)
        assert "Set on_uncertain to 'skip'" in str(task.error)
        assert "delete the journal" in str(task.error)

    @staticmethod
    def _rotated(requests: int) -> tuple[Task, Vendor]:
        """Return a task that has done some requests with an old secret, and now has three messages more."""
        task, vendor = Task(requests), Vendor()
        task.send(vendor)
        task.secret, task.count = Secret("another"), requests + 3
        return task, vendor


class TestReferences:
    """People change the references of messages, and clear the task."""

    @pytest.mark.parametrize("count", [1, 2, 12])
    @pytest.mark.parametrize(("old", "new"), [("a", "b"), ("", "b"), ("a", "")])
    def test_recipients_under_new_ones_get_nothing(self, count: int, old: str, new: str) -> None:
        task, vendor = Task(count), Vendor()
        task.send(vendor, people(count, old))
        for on_uncertain in ("fail", "skip", "fail"):
            outcomes = task.send(vendor, people(count, new), on_uncertain=on_uncertain)
            assert outcomes.lower() == "u" * count
        assert len(vendor.requests) == count
        assert f"Messages with a new reference: {count}. Another message to the same recipient" in str(task.error)
        assert "set on_uncertain to 'resend'" in str(task.error)
        assert task.send(vendor, people(count, old)) == "s" * count  # the old references are back

    @pytest.mark.parametrize("count", [1, 2, 12])
    def test_resend_says_yes_again_and_once(self, count: int) -> None:
        task, vendor = Task(count), Vendor()
        task.send(vendor, people(count, "a"))
        for _ in range(3):
            assert task.send(vendor, people(count, "b"), on_uncertain="resend") == "s" * count
        assert task.send(vendor, people(count, "b")) == "s" * count
        assert len(vendor.requests) == 2 * count

    @pytest.mark.parametrize("renamed", [1, 6, 11])
    def test_if_some_changed_the_others_and_new_people_are_not_concerned(self, renamed: int) -> None:
        task, vendor = Task(12), Vendor()
        task.send(vendor, people(12, "a"))
        messages = [*people(renamed, "b"), *people(12 - renamed, "a", first=renamed), *people(3, "b", first=12)]
        assert task.send(vendor, messages) == "U" * renamed + "S" * (12 - renamed) + "SSS"
        assert sorted(vendor.requests) == [[position] for position in range(15)]

    def test_people_who_are_new_get_their_message_though_others_vanished(self) -> None:
        task, vendor = Task(12), Vendor()
        task.send(vendor, people(12, "a"))
        assert task.send(vendor, people(12, "a", first=6)) == "s" * 12
        assert task.send(vendor, people(12, "z", first=20)) == "s" * 12
        assert sorted(vendor.requests) == [[position] for position in [*range(18), *range(20, 32)]]

    def test_a_second_message_to_a_person_is_sent_while_the_first_one_is_still_there(self) -> None:
        task, vendor = Task(1), Vendor()
        task.send(vendor, people(1, "a"))
        assert task.send(vendor, people(1, "a") + people(1, "b")) == "ss"
        assert task.send(vendor, people(1, "b")) == "s"
        assert vendor.requests == [[0], [0]]

    def test_a_message_that_was_refused_is_sent_though_another_one_to_its_recipient_vanished(self) -> None:
        task, vendor = Task(1), Vendor(in_turn(["submitted"], ["account_no_balance"]))
        task.send(vendor, people(1, "a") + people(1, "b"))
        assert task.send(vendor, people(1, "b")) == "s"
        assert len(vendor.requests) == 3

    def test_the_second_row_for_a_person_is_sent_though_the_query_leaves_out_the_first_one(self) -> None:
        task, vendor = Task(3), Vendor(in_turn(["submitted"], REFUSED))
        assert task.send(vendor, people(3, "a") + people(3, "b"), window=1) == "SNNNNN"
        assert task.send(vendor, people(2, "a", first=1) + people(3, "b")) == "s" * 5
        assert sorted(vendor.requests) == [[0], [0], [1], [1], [1], [2], [2]]  # the request that was refused too

    @pytest.mark.parametrize("count", [1, 2, 12])
    def test_two_messages_to_a_person_under_new_ones_are_recognized(self, count: int) -> None:
        task, vendor = Task(count), Vendor()
        task.send(vendor, people(count, "a") + people(count, "b"))
        assert task.send(vendor, people(count, "c") + people(count, "d")) == "U" * 2 * count
        assert task.send(vendor, people(count, "a") + people(count, "d")) == "S" * count + "U" * count

    def test_a_message_that_never_went_out_may_get_another_reference(self) -> None:
        task, vendor = Task(1), Vendor(in_turn(REFUSED))
        assert task.send(vendor, people(1, "a")) == "N"
        assert task.send(vendor, people(1, "b")) == "s"


class TestLosses:
    def test_two_in_a_row_end_the_sending(self) -> None:
        task, vendor = Task(4), Vendor(in_turn(LOST, LOST))
        assert task.send(vendor) == "UUNN"
        assert "lost Of 4 messages: 2 uncertain" in str(task.error)

    def test_two_in_a_row_across_rounds_end_the_sending(self) -> None:
        task, vendor = Task(1), Vendor(in_turn(LOST, LOST, LOST))
        assert task.send(vendor, on_uncertain="resend") == "U"
        assert str(task.error).startswith("lost ")
        assert vendor.requests == [[0], [0]]

    def test_two_that_are_not_in_a_row_do_not(self) -> None:
        task = Task(5)
        vendor = Vendor(lambda positions: LOST if positions[0] in (0, 2) else ["submitted"])
        assert task.send(vendor, window=1) == "USUSS"

    def test_submissions_that_match_no_recipient_are_kept(self) -> None:
        loss = errors.RtiSmsUncertainError("lost", submissions=[Submission(SendOutcome.SUBMITTED, "submitted", "77")])
        task = Task(2)
        assert task.send(Vendor(in_turn(loss))) == "USS"
        assert "1 listed in responses that match no recipient: submitted 77" in str(task.error)


class TestRefusals:
    def test_a_refusal_ends_the_sending_and_the_rest_is_sent_later(self) -> None:
        task, vendor = Task(3), Vendor(in_turn(["submitted"], REFUSED))
        assert task.send(vendor, window=1) == "SNN"
        assert isinstance(task.error, errors.RtiSmsForbiddenError)
        assert (
            str(task.error)
            == "HTTP 403 Of 3 messages: 1 submitted: 0; 2 not_sent: recipients[1] ***001, recipients[2] ***002."
        )
        assert task.send(vendor) == "sss"

    def test_requests_under_way_are_completed_and_no_further_one_leaves(self) -> None:
        async def reply(positions: list[int]) -> Reply:
            await asyncio.sleep(0 if positions == [0] else 1 if positions == [1] else 2)
            return REFUSED if positions == [1] else ["submitted"]

        task, vendor = Task(20), Vendor(reply)
        assert task.send(vendor, window=4) == "SNSSS" + "N" * 15
        assert vendor.requests == [[0], [1], [2], [3], [4]]

    def test_a_refusal_stops_requests_of_the_same_window_that_have_not_left(self) -> None:
        task, vendor = Task(5), Vendor(in_turn(["submitted"], REFUSED))
        outbox = task.outbox(window=8)
        with pytest.raises(errors.RtiSmsForbiddenError) as caught:
            virtual_time.run(outbox.send(vendor))
        assert _letters(caught.value.submissions) == "snnnn"
        assert vendor.requests == [[0], [1]]
        assert outbox.may_have_sent

    @pytest.mark.parametrize("reply", [LOST, ["submitted"], ["unknown_error"], ["account_no_balance"]])
    def test_anything_else_is_one(self, reply: Reply) -> None:
        outbox = Task(1).outbox()
        with contextlib.suppress(errors.RtiSmsUncertainError):
            virtual_time.run(outbox.send(Vendor(in_turn(reply))))
        assert outbox.may_have_sent

    def test_the_same_outbox_sends_the_rest_when_it_is_asked_again(self) -> None:
        outbox, vendor = Task(3).outbox(), Vendor(in_turn(["submitted"], REFUSED))
        with pytest.raises(errors.RtiSmsForbiddenError):
            virtual_time.run(outbox.send(vendor))
        assert _letters(virtual_time.run(outbox.send(vendor))) == "sss"

    def test_the_first_refusal_is_reported(self) -> None:
        async def reply(positions: list[int]) -> Reply:
            await asyncio.sleep(positions[0])
            return ["submitted"] if positions == [0] else errors.RtiSmsForbiddenError(f"HTTP 403 for {positions[0]}")

        task = Task(3)
        task.send(Vendor(reply), window=2)
        assert str(task.error).startswith("HTTP 403 for 1 ")


class TestRounds:
    def test_unknown_errors_are_sent_again_after_growing_pauses(self, caplog: pytest.LogCaptureFixture) -> None:
        task, vendor = Task(2), Vendor(by_position({0: "unknown_error"}))
        assert task.send(vendor) == "rs"
        assert vendor.requests == [[0], [1], [0], [0], [0]]
        assert len(vendor.requests) == 1 + 4
        assert vendor.departures == pytest.approx([0, 0, 0.5, 1.5, 3.5])
        assert "Sending 1 messages again in 0.5 s" in caplog.text

    def test_a_message_without_balance_is_not_sent_again_in_this_attempt(self) -> None:
        task, vendor = Task(1), Vendor(by_position({0: "account_no_balance"}))
        assert task.send(vendor) == "r"
        assert task.send(vendor) == "r"
        assert vendor.requests == [[0], [0]]

    @pytest.mark.parametrize(
        ("table", "kind"),
        [
            ({}, None),
            ({0: "unknown_error"}, errors.RtiSmsNotAcceptedError),
            ({0: "account_no_balance"}, errors.RtiSmsNoBalanceError),
            ({0: "account_no_balance", 1: "unknown_error"}, errors.RtiSmsNoBalanceError),
        ],
    )
    def test_check_submitted_raises_for_what_was_refused(
        self, table: dict[int, str], kind: type[errors.RtiSmsError] | None
    ) -> None:
        outbox = Task(3).outbox()
        virtual_time.run(outbox.send(Vendor(by_position(table))))
        if kind is None:
            outbox.check_submitted()
            return
        with pytest.raises(kind, match="Of 3 messages") as caught:
            outbox.check_submitted()
        assert caught.value.call == "send_sms"
        assert len(caught.value.submissions) == 3


class TestWindows:
    def test_until_a_request_has_succeeded_one_goes_out_at_a_time(self) -> None:
        async def reply(positions: list[int]) -> Reply:
            await asyncio.sleep(1)
            return ["unknown_error"] if positions[0] < 0 else LOST if positions == [0] else ["submitted"]

        vendor = Vendor(reply)
        Task(5).send(vendor, window=4)
        assert vendor.departures == [0, 1, 2, 2, 2]

    @pytest.mark.parametrize(
        ("chunk_size", "window", "most_requests", "most_messages"),
        [
            (1, 10, 10, 10),
            (5, 10, 2, 10),
            (5, 9, 1, 5),
            (5, 5, 1, 5),
            (10, 100, 10, 100),
            (50, None, 2, 100),
            (500, 500, 1, 500),
        ],
    )
    def test_no_more_messages_than_the_window_are_begun_and_not_committed(
        self, chunk_size: int, window: int | None, most_requests: int, most_messages: int
    ) -> None:
        most = 0

        class CountingStore(MemoryStore):
            def set(self, key: str, value: Any) -> None:
                nonlocal most
                super().set(key, value)
                begun = self["rtisms_send"]["begun"].items()
                under_way = [entry["to"] for number, entry in begun if f"rtisms_send_{number}" not in self]
                most = max(most, sum(map(len, under_way)))

        task, vendor = Task(1000, CountingStore()), Vendor(slowly())
        assert task.send(vendor, chunk_size=chunk_size, window=window) == "s" * 1000
        assert [one for request in vendor.requests for one in request] == list(range(1000))
        assert vendor.most_under_way == most_requests
        assert most == most_messages

    def test_two_windows_overlap_so_that_requests_do_not_wait_for_the_journal(self) -> None:
        async def in_thread(write: Any, *args: Any) -> Any:
            await asyncio.sleep(1)
            return write(*args)

        vendor = Vendor(slowly(1.0))
        Task(9).send(vendor, chunk_size=1, window=2, in_thread=in_thread)
        assert vendor.departures[:3] == [1, 4, 5]
        assert vendor.departures[-1] <= 16

    def test_messages_of_equal_text_share_requests(self) -> None:
        texts = [SmsText.of(text) for text in ("a", "b", "a", "b", "a")]
        messages = [Message(Recipient(number(position)), text) for position, text in enumerate(texts)]
        vendor = Vendor()
        assert Task(5).send(vendor, messages, chunk_size=2) == "sssss"
        assert vendor.requests == [[0, 2], [4], [1, 3]]
        assert vendor.texts == ["a", "a", "b"]


class TestJournal:
    def test_a_request_leaves_after_it_was_recorded(self) -> None:
        task = Task(3)
        store, journal = task.store, SendJournal(task.store, task.secret)

        def reply(positions: list[int]) -> Reply:
            key = f"recipient {number(positions[0])}"
            assert journal.digest(key) in [
                one for entry in store["rtisms_send"]["begun"].values() for one in entry["to"]
            ]
            return ["submitted"] * len(positions)

        assert task.send(Vendor(reply)) == "sss"

    def test_a_journal_that_refuses_a_request_lets_nothing_leave(self) -> None:
        task, vendor = Task(2), Vendor()
        outbox = task.outbox()
        task.store.set = _refuse  # type: ignore[method-assign]
        with pytest.raises(OSError, match="gone"):
            virtual_time.run(outbox.send(vendor))
        assert vendor.requests == []
        assert outbox.is_journal_lost
        assert not outbox.may_have_sent

    def test_a_journal_that_refuses_a_result_ends_the_sending(self) -> None:
        task, vendor = Task(5), Vendor()
        outbox = task.outbox()
        store_set = task.store.set

        def refuse_results(key: str, value: Any) -> None:
            if value.get("results") is not None:
                _refuse(key, value)
            store_set(key, value)

        task.store.set = refuse_results  # type: ignore[method-assign]
        with pytest.raises(OSError, match="gone"):
            virtual_time.run(outbox.send(vendor))
        assert vendor.requests == [[0]]
        assert outbox.is_journal_lost
        assert outbox.may_have_sent
        del task.store.set
        assert task.send(vendor) == "USSSS"

    def test_a_journal_that_refuses_a_result_stops_the_other_window_at_once(self) -> None:
        async def reply(positions: list[int]) -> Reply:
            await asyncio.sleep(3600 if positions[0] == 2 else 1)
            return ["submitted"]

        async def main() -> None:
            with pytest.raises(OSError, match="gone"):
                await outbox.send(vendor)
            assert now() < virtual_time.START + 10
            assert vendor.under_way == 0

        task, vendor = Task(9), Vendor(reply)
        outbox = task.outbox(window=2)
        store_set = task.store.set

        def refuse_results_of_the_second_window(key: str, value: Any) -> None:
            if key == "rtisms_send_1" and value["results"] is not None:
                _refuse(key, value)
            store_set(key, value)

        task.store.set = refuse_results_of_the_second_window  # type: ignore[method-assign]
        virtual_time.run(main())
        assert vendor.requests[:3] == [[0], [1], [2]]
        assert len(vendor.requests) == 3

    def test_a_cancelled_sending_records_what_is_known_and_leaves_the_rest_uncertain(self) -> None:
        async def reply(positions: list[int]) -> Reply:
            await asyncio.sleep(3600 if positions[0] == 3 else 0)
            return ["submitted"]

        async def main() -> None:
            sending = asyncio.create_task(task.outbox(window=8).send(vendor))
            await asyncio.sleep(10)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert vendor.under_way == 0

        task, vendor = Task(5), Vendor(reply)
        virtual_time.run(main())
        assert task.send(Vendor()) == "SSSUS"

    def test_a_cancelled_sending_without_any_result_writes_nothing(self) -> None:
        async def main() -> None:
            sending = asyncio.create_task(task.outbox().send(Vendor(slowly(3600))))
            await asyncio.sleep(10)
            before = dict(task.store)
            sending.cancel()
            await settle()
            assert sending.cancelled()
            assert task.store == before

        task = Task(2)
        virtual_time.run(main())

    def test_a_journal_that_refuses_the_last_word_of_a_cancelled_sending_does_not_hide_the_cancellation(self) -> None:
        async def reply(positions: list[int]) -> Reply:
            await asyncio.sleep(3600 if positions[0] == 2 else 0)
            return ["submitted"]

        async def main() -> None:
            sending = asyncio.create_task(task.outbox(window=8).send(Vendor(reply)))
            await asyncio.sleep(10)
            task.store.set = _refuse  # type: ignore[method-assign]
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

        task = Task(4)
        virtual_time.run(main())


def _refuse(key: str, value: Any) -> None:
    raise OSError("the API server is gone")


class TestWords:
    def test_sent_messages_are_logged_with_reference_or_masked_number(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        messages = [
            Message(Recipient(number(0)), TEXT, position="recipients[0]"),
            Message(Recipient(number(1)), TEXT, reference="order 7"),
        ]
        Task(2).send(Vendor(), messages, chunk_size=2)
        assert "Sent 2 messages: recipients[0] ***000 submitted 0, order 7 submitted 1" in caplog.text
        caplog.clear()

    def test_the_summary_groups_by_outcome_and_status(self) -> None:
        outbox = Task(4).outbox()
        virtual_time.run(
            outbox.send(Vendor(by_position({1: "unknown_error", 2: "account_no_balance", 3: "unknown_error"})))
        )
        assert outbox.summary() == (
            "Of 4 messages: 1 submitted: 0; 2 refused (unknown_error): recipients[1] ***001, recipients[3] ***003; "
            "1 refused (account_no_balance): recipients[2] ***002."
        )
        assert [message.recipient for message in outbox.messages] == [Recipient(number(one)) for one in range(4)]
        assert _letters(outbox.submissions) == "srrr"

    def test_progress_is_reported_every_five_seconds(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level(logging.INFO)
        clock = [100.0]
        monkeypatch.setattr("time.monotonic", lambda: clock[0])

        def reply(positions: list[int]) -> Reply:
            clock[0] += 1
            return ["submitted"]

        def lines() -> list[str]:
            return [one.getMessage() for one in caplog.records if "messages done" in one.getMessage()]

        task = Task(12)
        task.send(Vendor(reply), window=1)
        assert lines() == [
            "5 of 12 messages done (42%), 1 a second, about 7 s left",
            "10 of 12 messages done (83%), 1 a second, about 2 s left",
        ]
        caplog.clear()
        task.count = 18  # those of the earlier attempt are done
        task.send(Vendor(reply), window=1)
        assert lines() == ["17 of 18 messages done (94%), 1 a second, about 1 s left"]


class TestOptions:
    @pytest.mark.parametrize(("chunk_size", "most"), [(1, 64), (64, 64), (65, 65), (250, 250), (500, 500)])
    def test_half_of_the_window_is_under_way_and_holds_a_request(self, chunk_size: int, most: int) -> None:
        task = Task(1100)
        task.send(Vendor(), chunk_size=chunk_size)
        sizes = [len(entry["to"]) for key, entry in task.store.items() if key != "rtisms_send"]
        assert max(sizes) == most

    @pytest.mark.parametrize("value", [0, 501, True, None, "50"])
    def test_a_chunk_size_is_a_whole_number(self, value: Any) -> None:
        with pytest.raises(errors.RtiSmsInputError, match=r"^chunk_size is .* from 1 to 500\.$"):
            Task(1).outbox(chunk_size=value)

    def test_on_uncertain_is_one_of_three(self) -> None:
        with pytest.raises(errors.RtiSmsInputError, match=r"^on_uncertain is .*'fail', 'resend' or 'skip'"):
            Task(1).outbox(on_uncertain="retry")


class TestDefaults:
    def test_a_thousand_messages_of_each_outcome_are_named(self) -> None:
        task = Task(1003)
        task.send(Vendor(in_turn(LOST, LOST)), chunk_size=1)
        assert "recipients[1001] ***001 and 1 more" in str(task.error)


class TestMessages:
    def test_a_repr_shows_neither_number_nor_text(self) -> None:
        shown = repr(Message(Recipient("+56900000000"), TEXT))
        assert "56900" not in shown
        assert "hola" not in shown
