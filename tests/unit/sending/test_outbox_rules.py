"""Rules of the outbox, with a client that is none and in virtual time: what goes out, when, and how often."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.values.recipients import Recipient
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.api.values.text import SmsText
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
#: Replies in turn, after which all is submitted; or what comes of each position; or a function.
Replies = Sequence[Reply] | dict[int, str | Exception] | Behaviour


@pytest.fixture(autouse=True)
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pause be the longest that the jitter allows."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)


def number(position: int) -> str:
    return f"+5690000{position:04}"


def behaviour_of(replies: Replies) -> Behaviour:
    if callable(replies):
        return replies
    if isinstance(replies, dict):
        table = replies

        def by_position(positions: list[int]) -> Any:
            found = [table.get(position, "submitted") for position in positions]
            return next((one for one in found if isinstance(one, Exception)), found)

        return by_position
    script = iter(replies)
    return lambda positions: next(script, ["submitted"] * len(positions))


def delayed(seconds: Callable[[int], float], result: Callable[[int], Reply] = lambda _: ["submitted"]) -> Behaviour:
    """Reply to a request after some seconds, both by the position of its first message."""

    async def reply(positions: list[int]) -> Reply:
        await asyncio.sleep(seconds(positions[0]))
        found = result(positions[0])
        return found * len(positions) if isinstance(found, list) else found

    return reply


class Vendor:
    """Takes requests in place of a client."""

    def __init__(self, replies: Replies = ()) -> None:
        self.behaviour = behaviour_of(replies)
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

    @contextlib.contextmanager
    def store_refuses(self, refuses: Callable[[str, Any], bool] = lambda key, value: True) -> Iterator[None]:
        """Let some writes to the store fail."""

        def write(key: str, value: Any) -> None:
            if refuses(key, value):
                raise OSError("the API server is gone")
            MemoryStore.set(self.store, key, value)

        self.store.set = write  # type: ignore[method-assign]
        yield
        del self.store.set


def is_result(key: str, value: Any) -> bool:
    return value.get("results") is not None


def _letters(submissions: list[Submission]) -> str:
    return "".join(str(one.outcome)[0] for one in submissions)


@pytest.mark.parametrize(
    ("count", "replies", "attempts", "requests"),
    [
        pytest.param(
            3, [], [("fail", "sss"), ("resend", "sss"), ("skip", "sss")], [[0], [1], [2]], id="certain: sent once"
        ),
        pytest.param(2, [LOST], [("fail", "US")] * 3, [[0], [1]], id="fail: never again"),
        pytest.param(2, [LOST], [("skip", "us")] * 3, [[0], [1]], id="skip: never again"),
        pytest.param(2, [LOST], [("fail", "US"), ("resend", "ss")], [[0], [1], [0]], id="resend: in a later attempt"),
        pytest.param(2, {0: LOST}, [("resend", "US")] * 4, [[0], [1], [0]], id="resend: once in all attempts"),
        pytest.param(
            1,
            [LOST, REFUSED],
            [("fail", "U"), ("resend", "U"), ("resend", "s")],
            [[0], [0], [0]],
            id="resend: a request that the server did not act on is not the one",
        ),
        pytest.param(1, [LOST, ["unknown_error"]], [("resend", "U")], [[0], [0]], id="a refusal removes no doubt"),
        pytest.param(2, {0: "queued"}, [("fail", "US")], [[0], [1]], id="an undocumented status is uncertain"),
        pytest.param(1, {0: "account_no_balance"}, [("fail", "r")] * 2, [[0], [0]], id="no balance: later attempts"),
        pytest.param(4, [LOST, LOST], [("fail", "UUNN")], [[0], [1]], id="two losses in a row end the sending"),
        pytest.param(1, [LOST] * 3, [("resend", "U")], [[0], [0]], id="two losses in a row, across rounds"),
        pytest.param(5, {0: LOST, 2: LOST}, [("fail", "USUSS")], [[0], [1], [2], [3], [4]], id="not in a row"),
        pytest.param(
            3,
            [["submitted"], REFUSED],
            [("fail", "SNN"), ("fail", "sss")],
            [[0], [1], [1], [2]],
            id="a refusal ends it",
        ),
    ],
)
def test_what_attempts_send(
    count: int, replies: Replies, attempts: list[tuple[str, str]], requests: list[list[int]]
) -> None:
    task, vendor = Task(count), Vendor(replies)
    found = [(on_uncertain, task.send(vendor, on_uncertain=on_uncertain)) for on_uncertain, _ in attempts]
    assert (found, vendor.requests) == (attempts, requests)


def test_an_uncertain_message_is_named_by_the_error_or_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    task = Task(2)
    task.send(Vendor([LOST]))
    assert "lost" in [record.getMessage() for record in caplog.records], "a loss that does not end the sending"
    task.send(Vendor())
    assert "1 uncertain: recipients[0] ***000" in str(task.error)
    task.send(Vendor(), on_uncertain="skip")
    assert "1 uncertain: recipients[0] ***000" in caplog.text
    loss = errors.RtiSmsUncertainError("lost", submissions=[Submission(SendOutcome.SUBMITTED, "submitted", "77")])
    task = Task(1)
    assert task.send(Vendor([loss])) == "US", "what it lists is kept"
    assert "match no recipient: submitted 77" in str(task.error)


def test_resend_after_a_crash_sends_once_more() -> None:
    task, vendor = Task(1), Vendor()
    journal = SendJournal(task.store, task.secret)
    journal.begin([journal.digest(f"recipient {number(0)}")])
    assert task.send(vendor) == "U"
    assert vendor.requests == []
    assert task.send(vendor, on_uncertain="resend") == "s"


class TestHoles:
    """Keys of the journal get lost in the state store, after a send of 600 messages or in the middle of it."""

    @pytest.fixture
    def journal(self) -> MemoryStore:
        task = Task(600)
        assert task.send(Vendor(), chunk_size=50) == "s" * 600
        return task.store

    @pytest.mark.parametrize(
        ("lost", "on_uncertain"), [(1, "fail"), (1, "skip"), (2, "fail"), (3, "fail"), (5, "fail")]
    )
    def test_wherever_they_are_nobody_gets_a_second_message(
        self, journal: MemoryStore, lost: int, on_uncertain: str
    ) -> None:
        keys = sorted(journal)
        for start in range(len(keys) - lost + 1):
            task, vendor = Task(650, MemoryStore(journal)), Vendor()
            for key in keys[start : start + lost]:
                del task.store[key]
            for _ in range(2):
                outcomes = task.send(vendor, on_uncertain=on_uncertain, chunk_size=50).lower()
            assert not [one for request in vendor.requests for one in request if one < 600], keys[start]
            assert "u" in outcomes, keys[start]

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
        task = Task(600, MemoryStore(journal))
        head = dict(task.store["rtisms_send"])
        task.send(Vendor([REFUSED]), messages_to("700"))
        task.store["rtisms_send"] = head  # an old head came back, which knows fewer entries
        task.send(Vendor(), messages_to("701"), on_uncertain="resend")
        vendor = Vendor()
        task.send(vendor, messages_to("702"))
        assert vendor.requests == []

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
                task.send(vendor, window=2, on_uncertain="skip")
        del task.store.set
        outcomes = task.send(vendor, window=2, on_uncertain="skip")
        texted = [position for request in vendor.requests for position in request]
        assert len(texted) == len(set(texted))
        assert set(outcomes) <= {"s", "u"}
        assert outcomes.count("u") <= 3 * 2
        assert {position for position, one in enumerate(outcomes) if one == "s"} <= set(texted)
        assert not task.store["rtisms_send"]["has_hole"]


@pytest.mark.parametrize("requests", [1, 12])
class TestRotations:
    """The client secret has changed, and the journal holds 1 or 12 requests under the old one."""

    @pytest.mark.parametrize("on_uncertain", ["fail", "skip"])
    def test_nothing_is_sent(self, requests: int, on_uncertain: str, caplog: pytest.LogCaptureFixture) -> None:
        task, vendor = self._rotated(requests)
        for _ in range(3):
            assert task.send(vendor, on_uncertain=on_uncertain).lower() == "u" * (requests + 3)
        assert len(vendor.requests) == requests
        said = str(task.error) if on_uncertain == "fail" else caplog.text
        assert f"another client secret: {requests} submitted, 0 uncertain" in said

    def test_resend_sends_to_everybody_who_is_not_known_as_submitted_once(self, requests: int) -> None:
        task, vendor = self._rotated(requests)
        for _ in range(3):
            assert task.send(vendor, on_uncertain="resend") == "s" * (requests + 3)
        assert sorted(vendor.requests[requests:]) == [[position] for position in range(requests + 3)]

    def test_the_error_advises_what_is_not_set_yet(self, requests: int) -> None:
        task, vendor = self._rotated(requests)
        vendor.behaviour = behaviour_of({0: LOST})
        task.send(vendor)
        assert "set on_uncertain to 'resend'" in str(task.error)
        for _ in range(2):
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


def test_after_the_secret_changed_twice_nobody_gets_a_message_twice() -> None:
    task, vendor = Task(2), Vendor([REFUSED])
    assert task.send(vendor) == "NN"
    for secret in ("another", "client-secret", "another", "a third"):
        task.secret = Secret(secret)
        task.send(vendor)
    assert vendor.requests == [[0], [0], [1]]


def messages_to(words: str) -> list[Message]:
    """Return messages, such as with ``0 1 1b``: two without a reference, and one with the reference b1."""
    found = []
    for word in words.split():
        digits = word.rstrip("abcdz")
        reference = word.removeprefix(digits) + digits if word != digits else None
        found.append(Message(Recipient(number(int(digits))), TEXT, reference))
    return found


class TestReferences:
    """People change the references of messages, and clear the task."""

    @pytest.mark.parametrize(
        ("replies", "attempts", "requests"),
        [
            pytest.param([], [("0a 1a", "ss"), ("0b 1b", "UU"), ("0a 1a", "ss")], 2, id="new ones get nothing"),
            pytest.param([], [("0 1", "ss"), ("0b 1b", "UU"), ("0 1", "ss")], 2, id="where there was none"),
            pytest.param([], [("0a 1a", "ss"), ("0 1", "UU")], 2, id="none where there was one"),
            pytest.param([], [("0a 1a 2a", "sss"), ("0b 1a 2a 3b", "USSS")], 4, id="others are not concerned"),
            pytest.param([], [("0a 1a", "ss"), ("1a 2a", "ss"), ("5z 6z", "ss")], 5, id="others vanished"),
            pytest.param([], [("0a", "s"), ("0a 0b", "ss"), ("0b", "s")], 2, id="a second one beside the first"),
            pytest.param([REFUSED], [("0a", "N"), ("0b", "s")], 2, id="one that never went out"),
            pytest.param(
                [["submitted"], ["account_no_balance"]],
                [("0a 0b", "sr"), ("0b", "s")],
                3,
                id="one that was refused, though another one to its recipient vanished",
            ),
            pytest.param(
                [["submitted"], REFUSED],
                [("0a 1a 2a 0b 1b 2b", "SNNNNN"), ("1a 2a 0b 1b 2b", "sssss")],
                7,  # the one that was refused too
                id="the second row of a person, though the query leaves out the first one",
            ),
            pytest.param(
                [],
                [("0a 1a 0b 1b", "ssss"), ("0c 1c 0d 1d", "UUUU"), ("0a 1a 0d 1d", "SSUU")],
                4,
                id="two messages to a person under new ones",
            ),
        ],
    )
    def test_who_gets_a_message(self, replies: list[Reply], attempts: list[tuple[str, str]], requests: int) -> None:
        task, vendor = Task(0), Vendor(replies)
        assert [(words, task.send(vendor, messages_to(words))) for words, _ in attempts] == attempts
        assert len(vendor.requests) == requests

    @pytest.mark.parametrize("count", [1, 12])
    def test_resend_says_yes_again_and_once(self, count: int) -> None:
        old, new = (messages_to(" ".join(f"{position}{prefix}" for position in range(count))) for prefix in "ab")
        task, vendor = Task(0), Vendor()
        task.send(vendor, old)
        assert task.send(vendor, new) == "U" * count
        assert f"Messages with a new reference: {count}" in str(task.error)
        assert task.send(vendor, new, on_uncertain="skip") == "u" * count
        for on_uncertain in ("resend", "resend", "fail"):
            assert task.send(vendor, new, on_uncertain=on_uncertain) == "s" * count
        assert len(vendor.requests) == 2 * count


class TestRefusals:
    def test_requests_under_way_are_completed_and_no_further_one_leaves(self) -> None:
        seconds = {0: 0, 1: 1}
        vendor = Vendor(delayed(lambda one: seconds.get(one, 2), lambda one: REFUSED if one == 1 else ["submitted"]))
        assert Task(20).send(vendor, window=4) == "SNSSS" + "N" * 15
        assert vendor.requests == [[0], [1], [2], [3], [4]]

    def test_it_stops_requests_of_the_same_window_that_have_not_left(self) -> None:
        task, vendor = Task(5), Vendor([["submitted"], REFUSED])
        outbox = task.outbox(window=8)
        with pytest.raises(errors.RtiSmsForbiddenError, match=r"^HTTP 403 Of 5 messages") as caught:
            virtual_time.run(outbox.send(vendor))
        assert _letters(caught.value.submissions) == "snnnn"
        assert vendor.requests == [[0], [1]]
        assert outbox.may_have_sent
        assert _letters(virtual_time.run(outbox.send(vendor))) == "sssss", "the same outbox sends the rest"

    @pytest.mark.parametrize("reply", [LOST, ["submitted"], ["unknown_error"], ["account_no_balance"]])
    def test_after_any_other_reply_the_vendor_may_have_sent(self, reply: Reply) -> None:
        outbox = Task(1).outbox()
        with contextlib.suppress(errors.RtiSmsUncertainError):
            virtual_time.run(outbox.send(Vendor([reply])))
        assert outbox.may_have_sent

    def test_the_first_one_is_reported(self) -> None:
        task, refusal = Task(3), errors.RtiSmsForbiddenError
        vendor = Vendor(delayed(float, lambda one: refusal(f"HTTP 403 for {one}") if one else ["submitted"]))
        task.send(vendor, window=2)
        assert str(task.error).startswith("HTTP 403 for 1 ")


class TestRounds:
    def test_unknown_errors_are_sent_again_after_growing_pauses(self, caplog: pytest.LogCaptureFixture) -> None:
        task, vendor = Task(2), Vendor({0: "unknown_error"})
        assert task.send(vendor) == "rs"
        assert vendor.requests == [[0], [1], [0], [0], [0]]
        assert vendor.departures == pytest.approx([0, 0, 0.5, 1.5, 3.5])
        assert "Sending 1 message again in 0.5 s" in caplog.text

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
        self, table: dict[int, str | Exception], kind: type[errors.RtiSmsError] | None
    ) -> None:
        outbox = Task(3).outbox()
        virtual_time.run(outbox.send(Vendor(table)))
        with contextlib.nullcontext() if kind is None else pytest.raises(kind) as caught:
            outbox.check_submitted()
        if kind is not None:
            assert (caught.value.call, len(caught.value.submissions)) == ("send_sms", 3)


class TestWindows:
    def test_until_a_request_has_succeeded_one_goes_out_at_a_time(self) -> None:
        vendor = Vendor(delayed(lambda _: 1, lambda one: ["submitted"] if one else LOST))
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
            (1, None, 128, 128),
            (50, None, 2, 100),
            (65, None, 2, 130),
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

        task, vendor = Task(1000, CountingStore()), Vendor(delayed(lambda _: 1))
        assert task.send(vendor, chunk_size=chunk_size, window=window) == "s" * 1000
        assert [one for request in vendor.requests for one in request] == list(range(1000))
        assert (vendor.most_under_way, most) == (most_requests, most_messages)

    def test_two_windows_overlap_so_that_requests_do_not_wait_for_the_journal(self) -> None:
        async def in_thread(write: Any, *args: Any) -> Any:
            await asyncio.sleep(1)
            return write(*args)

        vendor = Vendor(delayed(lambda _: 1))
        Task(9).send(vendor, window=2, in_thread=in_thread)
        assert vendor.departures[:3] == [1, 4, 5]
        assert vendor.departures[-1] <= 16

    def test_messages_of_equal_text_share_requests(self) -> None:
        texts = [SmsText.of(text) for text in "ababa"]
        messages = [Message(Recipient(number(position)), text) for position, text in enumerate(texts)]
        vendor = Vendor()
        assert Task(5).send(vendor, messages, chunk_size=2) == "sssss"
        assert vendor.requests == [[0, 2], [4], [1, 3]]
        assert vendor.texts == ["a", "a", "b"]


class TestJournal:
    def test_a_request_leaves_after_it_was_recorded(self) -> None:
        task = Task(3)
        journal = SendJournal(task.store, task.secret)

        def reply(positions: list[int]) -> Reply:
            begun = task.store["rtisms_send"]["begun"].values()
            assert journal.digest(f"recipient {number(positions[0])}") in [
                one for entry in begun for one in entry["to"]
            ]
            return ["submitted"] * len(positions)

        assert task.send(Vendor(reply)) == "sss"

    @pytest.mark.parametrize(
        ("refuses", "requests", "later"),
        [
            pytest.param(lambda key, value: True, [], "sssss", id="a request: nothing leaves"),
            pytest.param(is_result, [[0]], "USSSS", id="a result: the sending ends"),
        ],
    )
    def test_a_journal_that_refuses_a_write(self, refuses: Any, requests: list[list[int]], later: str) -> None:
        task, vendor = Task(5), Vendor()
        outbox = task.outbox()
        with task.store_refuses(refuses), pytest.raises(OSError, match="gone"):
            virtual_time.run(outbox.send(vendor))
        assert vendor.requests == requests
        assert outbox.is_journal_lost
        assert outbox.may_have_sent is bool(requests)
        assert task.send(Vendor()) == later

    def test_a_journal_that_refuses_a_result_stops_the_other_window_at_once(self) -> None:
        async def main() -> None:
            with pytest.raises(OSError, match="gone"):
                await outbox.send(vendor)
            assert now() < virtual_time.START + 10
            assert vendor.under_way == 0

        task, vendor = Task(9), Vendor(delayed(lambda one: 3600 if one == 2 else 1))
        outbox = task.outbox(window=2)
        with task.store_refuses(lambda key, value: key == "rtisms_send_1" and is_result(key, value)):
            virtual_time.run(main())
        assert vendor.requests == [[0], [1], [2]]

    @pytest.mark.parametrize(
        ("slow", "is_refused", "later"),
        [
            pytest.param(3, False, "SSSUS", id="what is known is recorded"),
            pytest.param(0, False, "USSSS", id="nothing is known, and nothing is written"),
            pytest.param(3, True, "SUUUU", id="a journal that refuses the last word does not hide the cancellation"),
        ],
    )
    def test_a_cancelled_sending_leaves_the_rest_uncertain(self, slow: int, is_refused: bool, later: str) -> None:
        task = Task(5)
        vendor = Vendor(delayed(lambda one: 3600 if one == slow else 0))

        async def main() -> None:
            sending = asyncio.create_task(task.outbox(window=8).send(vendor))
            await asyncio.sleep(10)
            before = dict(task.store)
            with task.store_refuses() if is_refused else contextlib.nullcontext():
                sending.cancel()
                await settle()
            assert sending.cancelled()
            assert vendor.under_way == 0
            assert (task.store == before) is (slow == 0 or is_refused)

        virtual_time.run(main())
        assert task.send(Vendor()) == later


class TestWords:
    def test_sent_messages_are_logged_with_reference_or_masked_number(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        messages = [
            Message(Recipient(number(0)), TEXT, position="recipients[0]"),
            Message(Recipient(number(1)), TEXT, reference="order 7"),
        ]
        assert "56900" not in repr(messages)
        assert "hola" not in repr(messages)
        Task(2).send(Vendor(), messages, chunk_size=2)
        assert "recipients[0] ***000 (submitted 0), order 7 (submitted 1)" in caplog.text

    def test_the_summary_groups_by_outcome_and_status(self) -> None:
        outbox = Task(4).outbox()
        virtual_time.run(outbox.send(Vendor({1: "unknown_error", 2: "account_no_balance", 3: "unknown_error"})))
        assert outbox.summary() == (
            "Of 4 messages: 1 submitted: 0; 2 refused (unknown_error): recipients[1] ***001, recipients[3] ***003; "
            "1 refused (account_no_balance): recipients[2] ***002."
        )
        assert [message.recipient for message in outbox.messages] == [Recipient(number(one)) for one in range(4)]
        assert _letters(outbox.submissions) == "srrr"

    def test_a_thousand_messages_of_each_outcome_are_named(self) -> None:
        task = Task(1003)
        task.send(Vendor([LOST, LOST]))
        assert "recipients[1001] ***001 and 1 more" in str(task.error)

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
            found = [message for message in caplog.messages if "messages done" in message]
            caplog.clear()
            return found

        task = Task(12)
        task.send(Vendor(reply), window=1)
        assert lines() == [
            "5 of 12 messages done (41%), 1 a second, about 7 s left",
            "10 of 12 messages done (83%), 1 a second, about 2 s left",
        ]
        task.count = 18  # those of the earlier attempt are done
        task.send(Vendor(reply), window=1)
        assert lines() == ["17 of 18 messages done (94%), 1 a second, about 1 s left"]


@pytest.mark.parametrize(
    ("option", "value"),
    [*(("chunk_size", value) for value in (0, 501, True, None, "50")), ("on_uncertain", "retry")],
)
def test_an_option_that_is_wrong_is_named(option: str, value: Any) -> None:
    with pytest.raises(errors.RtiSmsInputError, match=rf"^{option} is "):
        Task(1).outbox(**{option: value})
