"""The write-ahead journal of a send: each transition, and what later attempts know."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsConfigError
from airflow_provider_rtisms.api.models import SendOutcome, Submission
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.sending import journal as journal_module
from airflow_provider_rtisms.sending.journal import NOT_SENT, UNCERTAIN, MemoryStore, SendJournal
from tests.patience import PATIENCE

A, B = Secret("client-secret-a"), Secret("client-secret-b")
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


@pytest.fixture(autouse=True)
def few_rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys in little time."""
    if "key_takes_long" not in request.node.name:
        monkeypatch.setattr(journal_module, "_DERIVATION_ROUNDS", 1)


def write(journal: SendJournal, *results: Submission | None, keys: str = "xyz") -> None:
    """Record a request and its results, the first one for key x."""
    digests = [journal.digest(key) for key in keys[: len(results)]]
    journal.commit(journal.begin(digests), dict(zip(digests, results, strict=True)))


def status(journal: SendJournal, key: str = "x") -> Submission:
    return journal.status_of(journal.digest(key))


def in_doubt(journal: SendJournal, key: str = "x") -> int:
    return journal.requests_in_doubt(journal.digest(key))


class TestTransitions:
    def test_a_message_is_uncertain_from_begin_to_commit(self) -> None:
        journal = SendJournal(MemoryStore(), A)
        x = journal.digest("x")
        number = journal.begin([x])
        assert (status(journal), in_doubt(journal)) == (UNCERTAIN, 1)
        assert status(journal, "y") == NOT_SENT
        journal.commit(number, {x: SUBMITTED})
        assert (status(journal), in_doubt(journal)) == (SUBMITTED, 0)

    def test_a_process_that_dies_between_begin_and_commit_leaves_its_messages_uncertain(self) -> None:
        store = MemoryStore()
        journal = SendJournal(store, A)
        journal.begin([journal.digest("x")])
        again = SendJournal(store, A)
        assert (status(again), in_doubt(again)) == (UNCERTAIN, 1)
        assert (status(again, "y"), in_doubt(again, "y")) == (NOT_SENT, 0)

    @pytest.mark.parametrize("result", RESULTS)
    def test_a_later_attempt_knows_what_was_committed(self, result: Submission | None) -> None:
        store = MemoryStore()
        journal = SendJournal(store, A)
        write(journal, result, SUBMITTED)
        for known in (journal, SendJournal(store, A)):
            assert status(known) == (UNCERTAIN if result in (None, DOUBTFUL) else result)
            assert in_doubt(known) == (1 if result in (None, DOUBTFUL) else 0)
            assert status(known, "y") == SUBMITTED

    def test_entries_have_consecutive_numbers_across_attempts(self) -> None:
        store = MemoryStore()
        first = SendJournal(store, A)
        assert [first.begin([first.digest("x")]), first.begin([first.digest("y")])] == [0, 1]
        second = SendJournal(store, A)
        assert second.begin([second.digest("z")]) == 2
        assert sorted(store) == ["rtisms_send", "rtisms_send_0", "rtisms_send_1"]
        assert (store["rtisms_send"]["size"], list(store["rtisms_send"]["begun"])) == (3, ["2"])

    def test_a_write_that_fails_changes_nothing(self) -> None:
        store = MemoryStore()
        journal = SendJournal(store, A)
        x = journal.digest("x")

        def refuse(key: str, value: Any) -> None:
            raise OSError("the API server is gone")

        store.set = refuse  # type: ignore[method-assign]
        with pytest.raises(OSError, match="gone"):
            journal.begin([x])
        del store.set
        assert status(journal) == NOT_SENT
        assert journal.begin([x]) == 0

    def test_writes_of_two_threads_do_not_mix(self) -> None:
        order: list[str] = []
        inside = threading.Event()

        class SlowStore(MemoryStore):
            def set(self, key: str, value: Any) -> None:
                order.append(f"{key} begins")
                if key == "rtisms_send_0" and value["results"] is not None:
                    inside.set()
                    other_began.wait(0.2)
                super().set(key, value)
                order.append(f"{key} ends")

        other_began = threading.Event()
        journal = SendJournal(SlowStore(), A)
        x, y = journal.digest("x"), journal.digest("y")
        number = journal.begin([x])
        order.clear()
        commit = threading.Thread(target=journal.commit, args=(number, {x: SUBMITTED}))
        commit.start()
        assert inside.wait(PATIENCE)
        journal.begin([y])
        commit.join(PATIENCE)
        assert order == ["rtisms_send_0 begins", "rtisms_send_0 ends", "rtisms_send begins", "rtisms_send ends"]


class TestRanks:
    @pytest.mark.parametrize("later", RESULTS)
    def test_a_message_that_was_submitted_stays_submitted(self, later: Submission | None) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), SUBMITTED)
        write(SendJournal(store, A), later)
        assert status(SendJournal(store, A)).submission_id == "42"

    @pytest.mark.parametrize("later", RESULTS)
    @pytest.mark.parametrize("doubt", [None, DOUBTFUL])
    def test_a_doubt_is_removed_by_a_submission_only(self, doubt: Submission | None, later: Submission | None) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), doubt)
        write(SendJournal(store, A), later)
        assert status(SendJournal(store, A)) == (SUBMITTED if later is SUBMITTED else UNCERTAIN)

    @pytest.mark.parametrize("later", [REFUSED, NO_BALANCE, NOT_SENT])
    def test_of_two_refusals_the_later_one_is_known(self, later: Submission) -> None:
        journal = SendJournal(MemoryStore(), A)
        write(journal, REFUSED)
        write(journal, later)
        assert status(journal) == later


class TestRequestsInDoubt:
    def test_count_from_the_first_lost_response_on(self) -> None:
        journal = SendJournal(MemoryStore(), A)
        counts = []
        for result in (REFUSED, NOT_SENT, None, REFUSED, None):
            write(journal, result)
            counts.append(in_doubt(journal))
        assert counts == [0, 0, 1, 2, 3]

    def test_count_as_many_with_another_secret_as_any_message_got(self) -> None:
        store = MemoryStore()
        for key in "wxyz":
            write(SendJournal(store, A), SUBMITTED, keys=key)
        assert in_doubt(SendJournal(store, B)) == 1
        write(SendJournal(store, A), None, REFUSED, keys="ab")
        write(SendJournal(store, A), SUBMITTED, NOT_SENT, keys="ab")
        other = SendJournal(store, B)
        assert [in_doubt(other, key) for key in "xab"] == [2, 2, 2]
        write(other, None)
        assert [in_doubt(other, key) for key in "xab"] == [3, 2, 2]
        assert (
            in_doubt(SendJournal(store, Secret("client-secret-c"))) == 3
        )  # one may have got two with a, and x one with b


class TestRotation:
    """The client secret changes between attempts. With on_uncertain="fail" only messages with another status go out."""

    @pytest.mark.parametrize("result", [SUBMITTED, DOUBTFUL, None])
    def test_after_a_request_that_may_have_sent_every_message_is_uncertain(self, result: Submission | None) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), NOT_SENT, result)
        other = SendJournal(store, B)
        assert [status(other, key) for key in "xyz"] == [UNCERTAIN] * 3
        submitted = int(result is SUBMITTED)
        assert (
            f"with another client secret: {submitted} submitted, {1 - submitted} uncertain. It is"
            in other.reasons_for_doubt()
        )

    @pytest.mark.parametrize("result", [REFUSED, NO_BALANCE, NOT_SENT])
    def test_after_refusals_alone_every_message_may_be_sent(self, result: Submission) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), result)
        other = SendJournal(store, B)
        assert status(other) == NOT_SENT
        assert other.reasons_for_doubt() == ""

    def test_what_a_has_sent_is_known_again_when_a_is_back(self) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), SUBMITTED, REFUSED)
        assert [status(SendJournal(store, B), key) for key in "xy"] == [UNCERTAIN] * 2
        assert [status(SendJournal(store, A), key) for key in "xy"] == [SUBMITTED, REFUSED]


class TestHoles:
    def test_a_window_takes_two_writes(self) -> None:
        written: list[str] = []

        class NotingStore(MemoryStore):
            def set(self, key: str, value: Any) -> None:
                written.append(key)
                super().set(key, value)

        write(SendJournal(NotingStore(), A), SUBMITTED)
        assert written == ["rtisms_send", "rtisms_send", "rtisms_send_0"]

    def test_the_head_holds_what_is_under_way_alone(self) -> None:
        """What an attempt that died has begun gets keys of its own, so that the head stays small."""
        store = MemoryStore()
        for number in range(5):
            journal = SendJournal(store, A)
            journal.begin([journal.digest(f"x{number}")])
            assert list(store["rtisms_send"]["begun"]) == [str(number)]
        journal = SendJournal(store, A)
        assert [status(journal, f"x{number}") for number in range(5)] == [UNCERTAIN] * 5
        assert status(journal, "y") == NOT_SENT

    @pytest.mark.parametrize("size", [-1, 0, 2, 900])
    def test_a_count_that_does_not_fit_makes_all_uncertain_that_are_not_known(self, size: int) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), SUBMITTED, REFUSED)
        store["rtisms_send"] = {**store["rtisms_send"], "size": size, "begun": {}}
        for _ in range(2):
            journal = SendJournal(store, A)
            assert [status(journal, key) for key in "xyz"] == [SUBMITTED, UNCERTAIN, UNCERTAIN]
            assert "part of the journal of this task is missing" in journal.reasons_for_doubt()
            write(journal, SUBMITTED, keys="w")

    @pytest.mark.parametrize("place", range(4))
    @pytest.mark.parametrize("what", ["another's entry", "fewer messages", "no messages", "another result"])
    def test_an_entry_that_is_not_what_was_written_is_a_hole(self, place: int, what: str) -> None:
        store = MemoryStore()
        journal = SendJournal(store, A)
        for keys in ("ab", "cd", "ef", "gh"):
            write(journal, SUBMITTED, SUBMITTED, keys=keys)
        key = f"rtisms_send_{place}"
        entry = dict(store[key])
        count = {"fewer messages": 1, "no messages": 0}.get(what, 2)
        entry |= {"to": entry["to"][:count], "results": entry["results"][:count]}
        if what == "another result":
            entry["results"] = [REFUSED.to_record()] * 2
        store[key] = store[f"rtisms_send_{(place + 1) % 4}"] if what == "another's entry" else entry
        lost = "abcdefgh"[2 * place : 2 * place + 2]
        for _ in range(2):
            journal = SendJournal(store, A)
            assert [key for key in "abcdefgh" if status(journal, key) != SUBMITTED] == list(lost)
            assert {str(status(journal, key)) for key in (*lost, "x")} == {str(UNCERTAIN)}
            assert "part of the journal of this task is missing" in journal.reasons_for_doubt()
            write(journal, SUBMITTED, keys="w")

    def test_an_entry_without_a_check_is_of_an_older_release(self) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), SUBMITTED)
        del store["rtisms_send_0"]["check"]
        assert [status(SendJournal(store, A), key) for key in "xy"] == [SUBMITTED, NOT_SENT]

    def test_what_was_begun_with_another_secret_stays_so(self) -> None:
        store = MemoryStore()
        journal = SendJournal(store, A)
        journal.begin([journal.digest("x")])
        write(SendJournal(store, B), SUBMITTED, keys="y")
        assert [status(SendJournal(store, A), key) for key in "xy"] == [UNCERTAIN] * 2
        assert [status(SendJournal(store, B), key) for key in "xy"] == [UNCERTAIN, SUBMITTED]

    def test_a_journal_of_an_older_release_is_continued_and_then_has_no_unseen_hole(self) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), SUBMITTED)
        store["rtisms_send"] = {"version": 1, "salt": store["rtisms_send"]["salt"]}
        journal = SendJournal(store, A)
        assert [status(journal, key) for key in "xy"] == [SUBMITTED, NOT_SENT]
        write(journal, SUBMITTED, keys="y")
        assert [status(SendJournal(store, A), key) for key in "xyz"] == [SUBMITTED, SUBMITTED, NOT_SENT]
        del store["rtisms_send_0"]
        assert [status(SendJournal(store, A), key) for key in "xyz"] == [UNCERTAIN, SUBMITTED, UNCERTAIN]

    def test_the_largest_values_stay_below_the_size_at_which_airflow_warns(self) -> None:
        sizes: list[int] = []

        class NotingStore(MemoryStore):
            def set(self, key: str, value: Any) -> None:
                sizes.append(len(json.dumps(value)))
                super().set(key, value)

        journal = SendJournal(NotingStore(), A)
        digests = [journal.digest(str(one), str(one)) for one in range(500)]
        done = Submission(SendOutcome.SUBMITTED, "submitted", "4193366853543393")
        journal.commit(journal.begin(digests), dict.fromkeys(digests, done))
        assert max(sizes) < 65_535


class TestDigests:
    def test_depend_on_key_secret_and_task(self) -> None:
        store = MemoryStore()
        journal = SendJournal(store, A)
        digest = journal.digest("recipient +56900000000")
        assert len(digest) == 32
        assert SendJournal(store, A).digest("recipient +56900000000") == digest
        others = [
            journal.digest("recipient +56900000001"),
            SendJournal(store, B).digest("recipient +56900000000"),
            SendJournal(MemoryStore(), A).digest("recipient +56900000000"),
        ]
        assert len({digest, *others}) == 4

    def test_the_salt_is_random_and_long(self) -> None:
        salts = set()
        for _ in range(5):
            store = MemoryStore()
            SendJournal(store, A)
            salts.add(store["rtisms_send"]["salt"])
        assert len(salts) == 5
        assert {len(salt) for salt in salts} == {32}

    def test_the_first_thing_that_is_stored_is_the_head(self) -> None:
        store = MemoryStore()
        SendJournal(store, A)
        assert list(store) == ["rtisms_send"]
        assert store["rtisms_send"] == {**HEAD, "salt": store["rtisms_send"]["salt"]}

    def test_an_entry_holds_what_is_documented_and_nothing_else(self) -> None:
        store = MemoryStore()
        journal = SendJournal(store, A)
        x, y = journal.digest("x"), journal.digest("y")
        number = journal.begin([x, y])
        key_id = journal.digest("check")
        check = hashlib.sha256(json.dumps([0, [x, y], None]).encode()).hexdigest()[:16]
        entry = {"version": VERSION, "key_id": key_id, "to": [x, y], "results": None, "check": check}
        moment = store["rtisms_send"]["begun"]["0"].pop("at")
        assert abs(datetime.now(UTC) - datetime.fromisoformat(moment)) < timedelta(minutes=10)
        assert store["rtisms_send"] == {**HEAD, "salt": store["rtisms_send"]["salt"], "size": 1, "begun": {"0": entry}}
        journal.commit(number, {x: SUBMITTED, y: None})
        assert store["rtisms_send_0"]["results"] == [SUBMITTED.to_record(), None]
        assert (journal.moment_of(x), journal.moment_of(y)) == (store["rtisms_send_0"]["at"], None)
        del store["rtisms_send_0"]["at"]  # as older releases wrote it
        assert SendJournal(store, A).moment_of(x) is None
        journal.begin([x])
        assert list(store["rtisms_send"]["begun"]) == ["1"], "the head holds what is under way alone"

    def test_the_key_takes_long_to_derive_so_that_numbers_cannot_be_guessed(self) -> None:
        store = MemoryStore(rtisms_send=HEAD)
        key = hashlib.pbkdf2_hmac("sha256", b"client-secret-a", bytes(16), 100_000)
        expected = hmac.new(key, b"reference 1", hashlib.sha256).hexdigest()[:32]
        assert SendJournal(store, A).digest("reference 1") == expected


class TestForms:
    @pytest.mark.parametrize(
        "head",
        [
            "junk",
            7,
            [],
            {},
            {"version": 0, "salt": "00"},
            {"version": 1},
            {"version": 1, "salt": 7},
            {"version": 1, "salt": "no hex digits"},
            {"version": HEAD_VERSION, "salt": "00" * 16},
            {**HEAD, "version": HEAD_VERSION + 1},
            {**HEAD, "salt": None},
            {**HEAD, "size": "1"},
            {**HEAD, "size": 10**12},
            {**HEAD, "size": True},
            {**HEAD, "has_hole": None},
            {**HEAD, "begun": []},
            {**HEAD, "begun": {"x": {}}},
            {**HEAD, "begun": {"0": {}}},
            {**HEAD, "size": 1, "begun": {"0": {}}},
        ],
    )
    def test_a_head_of_another_form_is_refused(self, head: Any) -> None:
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
    def test_an_entry_of_another_form_is_refused(self, change: Any) -> None:
        store = MemoryStore()
        write(SendJournal(store, A), SUBMITTED)
        if isinstance(change, dict) and change:
            changed = {**store["rtisms_send_0"], **change}
            change = {name: value for name, value in changed.items() if name not in ("without", change.get("without"))}
        store["rtisms_send_0"] = change
        for secret in (A, B):
            with pytest.raises(RtiSmsConfigError, match="Run the task with the release that began to send"):
                SendJournal(store, secret)
