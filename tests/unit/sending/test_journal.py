"""The write-ahead journal of a send: each transition, and what later attempts know."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.sending.journal import NOT_SENT, UNCERTAIN, MemoryStore, SendJournal
from tests.patience import PATIENCE

A, B, C = (Secret(f"client-secret-{one}") for one in "abc")
SUBMITTED = Submission(SendOutcome.SUBMITTED, "submitted", "42")
REFUSED = Submission(SendOutcome.REFUSED, "unknown_error")
NO_BALANCE = Submission(SendOutcome.REFUSED, "account_no_balance")
DOUBTFUL = Submission(SendOutcome.UNCERTAIN, "queued")
#: Heads and entries of these versions are in the stores of users.
HEAD_VERSION = 2
VERSION = 1
HEAD = {"version": HEAD_VERSION, "salt": "00" * 16, "size": 0, "begun": {}, "has_hole": False}
#: What an entry can say of a message; None: the response was lost.
RESULTS = [SUBMITTED, REFUSED, NO_BALANCE, DOUBTFUL, NOT_SENT, None]


class WatchedStore(MemoryStore):
    """A store that calls a function before it keeps a value."""

    watch: Callable[[str, Any], Any] = staticmethod(lambda key, value: None)

    def set(self, key: str, value: Any) -> None:
        self.watch(key, value)
        super().set(key, value)


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


def write(journal: SendJournal, *results: Submission | None, keys: str = "xyz") -> None:
    """Record a request and its results, the first one for key x."""
    digests = [journal.digest(key) for key in keys[: len(results)]]
    journal.commit(journal.begin(digests), dict(zip(digests, results, strict=True)))


def begin(journal: SendJournal, keys: str) -> int:
    return journal.begin([journal.digest(key) for key in keys])


def statuses(journal: SendJournal, keys: str = "x") -> list[Submission]:
    return [journal.status_of(journal.digest(key)) for key in keys]


def in_doubt(journal: SendJournal, keys: str = "x") -> list[int]:
    return [journal.requests_in_doubt(journal.digest(key)) for key in keys]


class TestTransitions:
    def test_a_message_is_uncertain_from_begin_to_commit_and_after_a_kill_between_them(
        self, store: WatchedStore
    ) -> None:
        journal = SendJournal(store, A)
        number = begin(journal, "x")
        for known in (journal, SendJournal(store, A)):
            assert (statuses(known, "xy"), in_doubt(known, "xy")) == ([UNCERTAIN, NOT_SENT], [1, 0])
        journal.commit(number, {journal.digest("x"): SUBMITTED})
        assert (statuses(journal), in_doubt(journal)) == ([SUBMITTED], [0])

    @pytest.mark.parametrize(("first", "later"), list(product(RESULTS, RESULTS)))
    def test_submitted_counts_most_then_a_doubt_then_what_came_last(
        self, store: WatchedStore, first: Submission | None, later: Submission | None
    ) -> None:
        write(SendJournal(store, A), first)
        journal = SendJournal(store, A)
        write(journal, later, NO_BALANCE)
        is_doubtful = {first, later} & {None, DOUBTFUL}
        expected = SUBMITTED if SUBMITTED in (first, later) else UNCERTAIN if is_doubtful else later
        for known in (journal, SendJournal(store, A)):
            assert statuses(known, "xyz") == [expected, NO_BALANCE, NOT_SENT]

    def test_entries_have_consecutive_numbers_across_attempts(self, store: WatchedStore) -> None:
        first = SendJournal(store, A)
        assert [begin(first, "x"), begin(first, "y")] == [0, 1]
        assert begin(SendJournal(store, A), "z") == 2
        assert sorted(store) == ["rtisms_send", "rtisms_send_0", "rtisms_send_1"]
        assert (store["rtisms_send"]["size"], list(store["rtisms_send"]["begun"])) == (3, ["2"])

    def test_a_write_that_fails_changes_nothing(self, store: WatchedStore) -> None:
        journal = SendJournal(store, A)
        store.watch = lambda key, value: 1 / 0
        with pytest.raises(ZeroDivisionError):
            begin(journal, "x")
        del store.watch
        assert statuses(journal) == [NOT_SENT]
        assert begin(journal, "x") == 0

    def test_writes_of_two_threads_do_not_mix(self, store: WatchedStore) -> None:
        order: list[str] = []
        inside, other_began = threading.Event(), threading.Event()
        journal = SendJournal(store, A)
        number = begin(journal, "x")

        def write_slowly(key: str, value: Any) -> None:
            order.append(f"{key} begins")
            if key == "rtisms_send_0":
                inside.set()
                other_began.wait(0.2)
            order.append(f"{key} ends")

        store.watch = write_slowly
        commit = threading.Thread(target=journal.commit, args=(number, {journal.digest("x"): SUBMITTED}))
        commit.start()
        assert inside.wait(PATIENCE)
        begin(journal, "y")
        commit.join(PATIENCE)
        assert order == ["rtisms_send_0 begins", "rtisms_send_0 ends", "rtisms_send begins", "rtisms_send ends"]


class TestRequestsInDoubt:
    def test_count_from_the_first_lost_response_on(self, store: WatchedStore) -> None:
        journal = SendJournal(store, A)
        counts = []
        for result in (REFUSED, NOT_SENT, None, REFUSED, None):
            write(journal, result)
            counts += in_doubt(journal)
        assert counts == [0, 0, 1, 2, 3]

    def test_count_as_many_with_another_secret_as_any_message_got(self, store: WatchedStore) -> None:
        for key in "wxyz":
            write(SendJournal(store, A), SUBMITTED, keys=key)
        assert in_doubt(SendJournal(store, B)) == [1]
        write(SendJournal(store, A), None, REFUSED, keys="ab")
        write(SendJournal(store, A), SUBMITTED, NOT_SENT, keys="ab")
        other = SendJournal(store, B)
        assert in_doubt(other, "xab") == [2, 2, 2]
        write(other, None)
        assert in_doubt(other, "xab") == [3, 2, 2]
        assert in_doubt(SendJournal(store, C)) == [3], "one may have got two with a, and x one with b"


class TestRotation:
    """The client secret changes between attempts. With on_uncertain="fail" only messages with another status go out."""

    @pytest.mark.parametrize("result", RESULTS)
    def test_every_message_is_uncertain_after_a_request_that_may_have_sent(
        self, store: WatchedStore, result: Submission | None
    ) -> None:
        write(SendJournal(store, A), NOT_SENT, result)
        other = SendJournal(store, B)
        submitted, uncertain = int(result is SUBMITTED), int(result in (None, DOUBTFUL))
        assert statuses(other, "xyz") == [UNCERTAIN if submitted or uncertain else NOT_SENT] * 3
        counts = f"with another client secret: {submitted} submitted, {uncertain} uncertain. It is"
        assert (counts in other.reasons_for_doubt()) is (submitted + uncertain > 0)
        if result is not None:
            expected = UNCERTAIN if result is DOUBTFUL else result
            assert statuses(SendJournal(store, A), "xy") == [NOT_SENT, expected], "known again when a is back"

    def test_what_was_begun_with_another_secret_stays_so(self, store: WatchedStore) -> None:
        begin(SendJournal(store, A), "x")
        write(SendJournal(store, B), SUBMITTED, keys="y")
        assert statuses(SendJournal(store, A), "xy") == [UNCERTAIN] * 2
        assert statuses(SendJournal(store, B), "xy") == [UNCERTAIN, SUBMITTED]


class TestHoles:
    def test_the_head_holds_what_is_under_way_alone(self, store: WatchedStore) -> None:
        """What an attempt that died has begun gets keys of its own, so that the head stays small."""
        for number in range(5):
            begin(SendJournal(store, A), "abcde"[number])
            assert list(store["rtisms_send"]["begun"]) == [str(number)]
        assert statuses(SendJournal(store, A), "abcdex") == [UNCERTAIN] * 5 + [NOT_SENT]

    @pytest.mark.parametrize("size", [-1, 0, 2, 900])
    def test_a_count_that_does_not_fit_makes_all_uncertain_that_are_not_known(
        self, store: WatchedStore, size: int
    ) -> None:
        write(SendJournal(store, A), SUBMITTED, REFUSED)
        store["rtisms_send"] = {**store["rtisms_send"], "size": size, "begun": {}}
        for _ in range(2):
            journal = SendJournal(store, A)
            assert statuses(journal, "xyz") == [SUBMITTED, UNCERTAIN, UNCERTAIN]
            assert "part of the journal of this task is missing" in journal.reasons_for_doubt()
            write(journal, SUBMITTED, keys="w")

    @pytest.mark.parametrize("place", range(4))
    @pytest.mark.parametrize("what", ["another's entry", "fewer messages", "no messages", "another result"])
    def test_an_entry_that_is_not_what_was_written_is_a_hole(self, store: WatchedStore, place: int, what: str) -> None:
        for keys in ("ab", "cd", "ef", "gh"):
            write(SendJournal(store, A), SUBMITTED, SUBMITTED, keys=keys)
        key = f"rtisms_send_{place}"
        to, results = store[key]["to"], store[key]["results"]
        store[key] = {
            "another's entry": store[f"rtisms_send_{(place + 1) % 4}"],
            "fewer messages": {**store[key], "to": to[:1], "results": results[:1]},
            "no messages": {**store[key], "to": [], "results": []},
            "another result": {**store[key], "results": [REFUSED.to_record()] * 2},
        }[what]
        lost = "abcdefgh"[2 * place : 2 * place + 2]
        for _ in range(2):
            journal = SendJournal(store, A)
            assert statuses(journal, "abcdefghx") == [
                UNCERTAIN if one in f"{lost}x" else SUBMITTED for one in "abcdefghx"
            ]
            assert "part of the journal of this task is missing" in journal.reasons_for_doubt()
            write(journal, SUBMITTED, keys="w")

    def test_an_entry_without_a_check_is_of_an_older_release(self, store: WatchedStore) -> None:
        write(SendJournal(store, A), SUBMITTED)
        del store["rtisms_send_0"]["check"]
        assert statuses(SendJournal(store, A), "xy") == [SUBMITTED, NOT_SENT]

    def test_a_journal_of_an_older_release_is_continued_and_then_has_no_unseen_hole(self, store: WatchedStore) -> None:
        write(SendJournal(store, A), SUBMITTED)
        store["rtisms_send"] = {"version": 1, "salt": store["rtisms_send"]["salt"]}
        journal = SendJournal(store, A)
        assert statuses(journal, "xy") == [SUBMITTED, NOT_SENT]
        write(journal, SUBMITTED, keys="y")
        assert statuses(SendJournal(store, A), "xyz") == [SUBMITTED, SUBMITTED, NOT_SENT]
        del store["rtisms_send_0"]
        assert statuses(SendJournal(store, A), "xyz") == [UNCERTAIN, SUBMITTED, UNCERTAIN]

    def test_a_window_takes_two_writes_whose_values_stay_below_the_size_at_which_airflow_warns(
        self, store: WatchedStore
    ) -> None:
        journal = SendJournal(store, A)
        written: list[tuple[str, int]] = []
        store.watch = lambda key, value: written.append((key, len(json.dumps(value))))
        digests = [journal.digest(str(one), str(one)) for one in range(500)]
        done = Submission(SendOutcome.SUBMITTED, "submitted", "4193366853543393")
        journal.commit(journal.begin(digests), dict.fromkeys(digests, done))
        assert [key for key, _ in written] == ["rtisms_send", "rtisms_send_0"]
        assert max(size for _, size in written) < 65_535


class TestDigests:
    def test_depend_on_key_secret_and_task(self, store: WatchedStore) -> None:
        journals = [SendJournal(store, A), SendJournal(store, A), SendJournal(store, B), SendJournal(MemoryStore(), A)]
        digests = [journal.digest("recipient +56900000000") for journal in journals]
        assert digests[0] == digests[1]
        assert len({*digests, journals[0].digest("recipient +56900000001")}) == 4
        assert {len(digest) for digest in digests} == {32}

    def test_the_first_thing_that_is_stored_is_the_head_with_a_random_long_salt(self) -> None:
        stores = [MemoryStore() for _ in range(5)]
        for store in stores:
            SendJournal(store, A)
            assert store == {"rtisms_send": {**HEAD, "salt": store["rtisms_send"]["salt"]}}
        salts = {store["rtisms_send"]["salt"] for store in stores}
        assert [len(salt) for salt in salts] == [32] * 5

    def test_an_entry_holds_what_is_documented_and_nothing_else(self, store: WatchedStore) -> None:
        journal = SendJournal(store, A)
        x, y = journal.digest("x"), journal.digest("y")
        number = begin(journal, "xy")
        check = hashlib.sha256(json.dumps([0, [x, y], None]).encode()).hexdigest()[:16]
        entry = {"version": VERSION, "key_id": journal.digest("check"), "to": [x, y], "results": None, "check": check}
        moment = store["rtisms_send"]["begun"]["0"].pop("at")
        assert abs(datetime.now(UTC) - datetime.fromisoformat(moment)) < timedelta(minutes=10)
        assert store["rtisms_send"] == {**HEAD, "salt": store["rtisms_send"]["salt"], "size": 1, "begun": {"0": entry}}
        journal.commit(number, {x: SUBMITTED, y: None})
        assert store["rtisms_send_0"]["results"] == [SUBMITTED.to_record(), None]
        assert (journal.moment_of(x), journal.moment_of(y)) == (store["rtisms_send_0"]["at"], None)
        del store["rtisms_send_0"]["at"]  # as older releases wrote it
        assert SendJournal(store, A).moment_of(x) is None
        begin(journal, "x")
        assert list(store["rtisms_send"]["begun"]) == ["1"], "the head holds what is under way alone"

    def test_the_key_takes_long_to_derive_so_that_numbers_cannot_be_guessed(self) -> None:
        key = hashlib.pbkdf2_hmac("sha256", b"client-secret-a", bytes(16), 100_000)
        expected = hmac.new(key, b"reference 1", hashlib.sha256).hexdigest()[:32]
        assert SendJournal(MemoryStore(rtisms_send=HEAD), A).digest("reference 1") == expected


@pytest.mark.parametrize(
    "head",
    [
        *("junk", 7, [], {}),
        *({"version": 0, "salt": "00"}, {"version": 1}),
        *({"version": 1, "salt": 7}, {"version": 1, "salt": "no hex digits"}),
        {"version": HEAD_VERSION, "salt": "00" * 16},
        *({**HEAD, "version": HEAD_VERSION + 1}, {**HEAD, "salt": None}, {**HEAD, "has_hole": None}),
        *({**HEAD, "size": size} for size in ("1", 10**12, True)),
        *({**HEAD, "begun": begun} for begun in ([], {"x": {}}, {"0": {}})),
        {**HEAD, "size": 1, "begun": {"0": {}}},
    ],
)
def test_a_head_of_another_form_is_refused(head: Any) -> None:
    store = MemoryStore(rtisms_send=head)
    with pytest.raises(RtiSmsConfigError, match=r"cannot read.*has sent nothing"):
        SendJournal(store, A)
    assert store == {"rtisms_send": head}


@pytest.mark.parametrize(
    "change",
    [
        *("junk", 7, [], {}, False),
        *({"version": VERSION + 1}, {"version": None}),
        *({"key_id": None}, {"key_id": 7}),
        *({"to": None}, {"to": 7}, {"to": [7]}, {"to": ["00", "00"], "results": [None, None]}),
        *({"results": 7}, {"results": [None, None]}, {"results": []}, {"results": ["submitted"]}),
        {"results": [{"outcome": "submitted"}]},
        {"results": [{"outcome": "another", "status": None, "submission_id": None}]},
        *({"without": name} for name in ("version", "key_id", "to", "results")),
    ],
)
def test_an_entry_of_another_form_is_refused(store: WatchedStore, change: Any) -> None:
    write(SendJournal(store, A), SUBMITTED)
    if isinstance(change, dict) and change:
        changed = {**store["rtisms_send_0"], **change}
        change = {name: value for name, value in changed.items() if name not in ("without", change.get("without"))}
    store["rtisms_send_0"] = change
    for secret in (A, B):
        with pytest.raises(RtiSmsConfigError, match="Run the task with the release that began to send"):
            SendJournal(store, secret)
