"""The ledger with SQLite: what sends write into it, and what a refresh asks for."""

from __future__ import annotations

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.bulk import store as store_module
from airflow_provider_rtisms.operators import send as send_module
from airflow_provider_rtisms.operators.send import RtiSmsSendOperator
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sql import ledger as ledger_module
from airflow_provider_rtisms.transfers.rtisms_to_sql import RtiSmsDetailsToSqlOperator
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from scripts.processes import wait_until
from tests.documents import Block, each_block
from tests.unit.attempts import Pushes, TaskStore
from tests.unit.sqlite_file import SqliteFile

Row = dict[str, Any]
#: Last digits of numbers that the sandbox treats in their own way.
DELIVERED, REJECTED, SENT, NO_BALANCE = "000", "001", "004", "005"
LOST = Fault("lost_response", times=1, path="sms", method="POST")

needs_journal = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the journal of a send is new in 3.3")
needs_threads = pytest.mark.skipif(not AIRFLOW_V_3_0_PLUS, reason="Airflow 2 lets only one thread call execute")


def attempt(run_id: str = "monday", map_index: int = -1) -> Row:
    """Return the context of the first attempt of a task, with an empty journal on an Airflow that has one."""
    journal = {"task_state_store": TaskStore()} if AIRFLOW_V_3_3_PLUS else {}
    return {"ti": Pushes(run_id, map_index), **journal}


class Shop(SqliteFile):
    """A file with a table of people, and with the ledger; and the task that texts them."""

    def __init__(self, path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(path, "shop", monkeypatch)
        self.do("CREATE TABLE people (id, phone, name)")
        self.sandbox = sandbox
        self.context = attempt()

    def people(self, *endings: str) -> None:
        """Replace the people; the last digits of their numbers say what comes of their messages."""
        numbered = enumerate(endings, 1)
        self.fill("people", [(f"july-{number}", f"+56900{number:03}{ending}", "Ana") for number, ending in numbered])

    def ledger(self, where: str = "true") -> list[Row]:
        """Return rows of the ledger, by their references."""
        return [dict(row) for row in self.do(f"SELECT * FROM ledger WHERE {where} ORDER BY reference")]  # noqa: S608

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.ledger()]

    def send(self, context: Row | None = None, **arguments: Any) -> Any:
        defaults = {
            "task_id": "send",
            "sql": "SELECT id, phone, name FROM people ORDER BY id",
            "sql_conn_id": "shop",
            "recipient_column": "phone",
            "reference_column": "id",
            "text": "Hola {name}",
            "sender": "96000",
            "results_table": "ledger",
            "create_table": True,
        }
        return SqlToRtiSmsOperator(**{**defaults, **arguments}).execute(self.context if context is None else context)

    def send_to(self, *endings: str) -> Any:
        self.people(*endings)
        return self.send()

    def forget(self) -> None:
        """As a cleared task does on an Airflow that forgets its state."""
        self.context |= attempt()

    @staticmethod
    def refresh(context: Row | None = None, **arguments: Any) -> Row:
        defaults = {"task_id": "refresh", "table": "ledger", "sql_conn_id": "shop", "refresh": True}
        return RtiSmsDetailsToSqlOperator(**{**defaults, **arguments}).execute(context or {})

    def asked(self) -> list[int]:
        """Return how often each submission was asked for."""
        return sorted(self.sandbox.state().requests_by_id.values())

    @property
    def sent(self) -> int:
        return len(self.sandbox.state().messages)


@pytest.fixture
def shop(tmp_path: Path, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Shop:
    rtisms_sandbox.set_timing(pending_for=0, sent_for=0)
    return Shop(tmp_path / "shop.db", rtisms_sandbox, monkeypatch)


def counts(summary: Row, *names: str) -> list[Any]:
    return [summary[name] for name in names]


class TestSends:
    def test_each_message_has_a_row_without_its_number_and_text(self, shop: Shop) -> None:
        before = datetime.now(UTC).replace(microsecond=0)
        results = shop.send_to(DELIVERED, REJECTED)
        for number, (row, result) in enumerate(zip(shop.ledger(), results, strict=True), 1):
            expected = {
                **{"reference": f"july-{number}", "submission_id": result["submission_id"]},
                **{"outcome": "submitted", "status": "submitted", "parts": 1, "charset": 1},
                **{"dag_id": "campaign", "task_id": "send", "run_id": "monday", "map_index": -1},
                **dict.fromkeys(["fetched_at", "is_final", "cost"]),
            }
            assert {name: row[name] for name in expected} == expected
            assert before <= datetime.fromisoformat(row["sent_at"]) <= datetime.now(UTC)
        shop.do("DELETE FROM people")
        with closing(sqlite3.connect(shop.path)) as connection:
            connection.execute("VACUUM")
        assert not {text for text in (b"+56900", b"Hola") if text in shop.path.read_bytes()}

    def test_what_was_not_submitted_has_a_row_too(self, shop: Shop) -> None:
        with pytest.raises(AirflowFailException):
            shop.send_to(DELIVERED, NO_BALANCE)
        assert shop.column("outcome") == ["submitted", "refused"]
        assert shop.column("status") == ["submitted", "account_no_balance"]
        assert [bool(one) for one in shop.column("submission_id")] == [True, False]

    def test_an_uncertain_message_becomes_a_submitted_one_when_it_is_sent_again(self, shop: Shop) -> None:
        shop.sandbox.set_faults(LOST)
        with pytest.raises(AirflowFailException):
            shop.send_to(DELIVERED)
        (row,) = shop.ledger()
        assert counts(row, "outcome", "submission_id") == ["uncertain", None]
        assert row["sent_at"], "so that a report knows its day"
        shop.send(on_uncertain="resend")
        (row,) = shop.ledger()
        assert row["outcome"] == "submitted"
        assert row["submission_id"]

    @needs_journal
    def test_messages_without_a_reference_have_a_row_for_each_recipient(self, shop: Shop) -> None:
        shop.people(DELIVERED, DELIVERED)
        for _ in range(2):  # the second one is a retry
            shop.send(reference_column=None)
        assert shop.column("reference") == [None, None]
        assert len(set(shop.column("submission_id"))) == 2

    def test_each_run_and_each_mapped_task_has_rows_of_its_own(self, shop: Shop) -> None:
        shop.people(DELIVERED)
        tasks = [("monday", -1), ("monday", 0), ("monday", 1), ("tuesday", -1)]
        for run_id, map_index in tasks:
            shop.send(attempt(run_id, map_index))
        assert sorted((row["run_id"], row["map_index"]) for row in shop.ledger()) == tasks

    @needs_journal
    def test_rows_are_written_while_the_send_goes_on(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_module, "FLUSH_ROWS", 1)
        seen: list[int] = []

        class Looking(TaskStore):
            def set(self, key: str, value: Any, **options: Any) -> None:
                super().set(key, value, **options)
                if len(self) > 1:  # the head is written before there is a table
                    seen.append(len(shop.ledger()))

        shop.context["task_state_store"] = Looking()
        shop.people(*[DELIVERED] * 40)
        shop.send(chunk_size=1)
        assert any(0 < count < 40 for count in seen)

    @needs_journal
    @pytest.mark.parametrize("written", [0, 1, 3])
    def test_a_retry_writes_what_the_journal_knows_and_a_killed_attempt_had_not_written(
        self, shop: Shop, written: int
    ) -> None:
        shop.send_to(*[DELIVERED] * 4)
        truth = shop.ledger()
        shop.do("DELETE FROM ledger WHERE reference > ?", f"july-{written}")
        shop.send()
        assert shop.ledger() == truth
        assert shop.sent == 4

    @needs_journal
    def test_rows_that_cannot_be_written_wait_and_the_next_attempt_writes_them(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.people(*[DELIVERED] * 3)
        shop.send(attempt("sunday"))
        shop.do(
            "CREATE TRIGGER broken BEFORE INSERT ON ledger WHEN new.run_id = 'monday' AND new.submission_id > '1' "
            "BEGIN SELECT raise(ABORT, 'no'); END"
        )
        monkeypatch.setattr(store_module, "BACKOFF_BASE", 0.001)
        with pytest.raises(AirflowFailException, match="Without a row yet: 3 messages"):
            shop.send()
        assert shop.sent == 6
        shop.people(*[DELIVERED] * 4)
        with pytest.raises(AirflowFailException, match=r"^Writing the table ledger failed"):
            shop.send()
        assert shop.sent == 6, "no more is sent until the rows of earlier attempts are written"
        shop.people(*[DELIVERED] * 3)
        shop.do("DROP TRIGGER broken")
        shop.send()
        assert len(shop.ledger("run_id = 'monday' AND submission_id IS NOT NULL")) == 3
        assert shop.sent == 6

    @pytest.mark.parametrize("reference", ["id", None])
    def test_it_remembers_what_airflow_has_forgotten(self, shop: Shop, reference: str | None) -> None:
        """As after a clear, on an Airflow without a task state store, or with one that a clear empties."""
        shop.people(DELIVERED, NO_BALANCE, SENT)
        for _ in range(3):
            with pytest.raises(AirflowFailException, match="1 refused"):
                shop.send(reference_column=reference)
            shop.refresh()
            shop.forget()
        received = Counter(one.recipient[-3:] for one in shop.sandbox.state().messages)
        assert received == {DELIVERED: 1, SENT: 1, NO_BALANCE: 3}
        assert shop.column("outcome").count("submitted") == len(shop.ledger()) - 1 == 2
        shop.send(attempt("tuesday"), sql="SELECT * FROM people WHERE id = 'july-1'")
        assert shop.sent == 6, "another run sends"

    @pytest.mark.parametrize("memory", ["journal", "lost", "damaged"])
    def test_what_is_uncertain_there_is_sent_again_only_if_the_caller_says_so(self, shop: Shop, memory: str) -> None:
        shop.people(DELIVERED, DELIVERED)
        shop.sandbox.set_faults(LOST)
        with pytest.raises(AirflowFailException, match="1 uncertain"):
            shop.send(chunk_size=1, text="Hola {name} {id}")
        if memory == "lost":
            shop.forget()
        elif memory == "damaged" and AIRFLOW_V_3_3_PLUS:
            del shop.context["task_state_store"]["rtisms_send_1"]  # of the message that was submitted
        with pytest.raises(AirflowFailException, match="1 uncertain"):
            shop.send()
        assert shop.sent == 2
        assert [one["outcome"] for one in shop.send(on_uncertain="resend")] == ["submitted"] * 2
        assert (shop.sent, set(shop.column("outcome"))) == (3, {"submitted"})

    def test_a_message_without_a_reference_is_known_although_its_recipient_gets_another_one(self, shop: Shop) -> None:
        one = {"recipient": "+56900001000", "text": "Hola"}
        for messages in ([one], [one, {**one, "reference": "july-2"}], [one]):
            table = {"results_table": "ledger", "results_conn_id": "shop", "create_table": True}
            operator = RtiSmsSendOperator(task_id="send", messages=messages, sender="96000", **table)
            assert {each["outcome"] for each in operator.execute(shop.context)} == {"submitted"}
            shop.forget()
        assert (shop.sent, len(shop.ledger())) == (2, 2)

    def test_what_it_remembers_counts_for_the_wait_although_its_recipient_is_excluded_since(self, shop: Shop) -> None:
        shop.send_to(DELIVERED, DELIVERED)
        shop.forget()
        excluded = {"exclude_sql": "SELECT phone FROM people WHERE id = 'july-1'"}
        waited = shop.send(wait_for_delivery=True, min_delivered=2, **excluded)
        assert [one["status"] for one in waited] == ["DELIVERED"] * 2

    def test_outside_of_a_dag_run_each_call_sends_and_has_rows_of_its_own(self, shop: Shop) -> None:
        shop.people(DELIVERED)
        for _ in range(2):
            shop.send({})
        assert (shop.sent, len(shop.ledger())) == (2, 2)

    def test_a_submission_id_that_is_none_stops_the_send(self, shop: Shop) -> None:
        shop.send_to(DELIVERED)
        shop.do("UPDATE ledger SET submission_id = 'tbd'")
        shop.forget()
        with pytest.raises(AirflowFailException, match="A submission_id in the table ledger is a str of 3 characters"):
            shop.send()
        assert shop.sent == 1

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"create_table": False}, "The table ledger does not exist"),
            ({"results_table": ""}, "results_table is a str of 0 characters that names no table"),
            ({"results_table": "people"}, "The table people has no column message_key, reference, "),
            ({"results_table": "narrow"}, "The table narrow has no column submission_id"),
            ({"results_table": None, "create_table": False, "results_conn_id": "shop"}, "are for results_table"),
            ({"results_table": None}, "are for results_table"),
        ],
    )
    def test_what_names_no_table_that_takes_rows_stops_the_send(self, shop: Shop, arguments: Row, named: str) -> None:
        shop.people(DELIVERED)
        shop.do("CREATE TABLE narrow (message_key TEXT PRIMARY KEY, reference TEXT)")
        with pytest.raises(AirflowFailException, match=named):
            shop.send(**arguments)
        assert shop.sent == 0

    @pytest.mark.parametrize(
        "trigger",
        [
            "BEGIN SELECT raise(ABORT, 'no'); END",
            "BEGIN SELECT raise(IGNORE); END",
            "WHEN length(new.reference) > 100 BEGIN SELECT raise(ABORT, 'no'); END",
        ],
    )
    def test_a_table_that_refuses_the_rows_to_come_stops_the_send(self, shop: Shop, trigger: str) -> None:
        shop.people(*[DELIVERED] * 3)
        shop.send(attempt("sunday"))
        before = shop.ledger()
        shop.do("UPDATE people SET id = ? WHERE id = 'july-2'", "ñ" * 200)
        shop.do(f"CREATE TRIGGER broken BEFORE INSERT ON ledger {trigger}")
        with pytest.raises(AirflowFailException, match=r"IntegrityError|did not land"):
            shop.send()
        assert shop.sent == 3
        assert shop.ledger() == before

    def test_more_results_than_xcom_takes_are_in_the_table(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(send_module, "MAX_RESULTS_IN_XCOM", 2)
        shop.people(DELIVERED, DELIVERED, REJECTED)
        with pytest.raises(AirflowFailException, match=r"too many for XCom.* Set output_path or results_table"):
            shop.send(results_table=None, create_table=False)
        assert shop.sent == 0
        outcomes = {"submitted": 3, "refused": 0, "uncertain": 0, "not_sent": 0, "excluded": 0}
        summary = {"table": "ledger", "messages": 3, **outcomes, "vanished": 0}
        assert shop.send() == shop.context["ti"].pushed["submissions"] == summary
        assert len(shop.ledger()) == 3
        waited = shop.send(wait_for_delivery=True, fail_on=())
        assert waited == {"table": "ledger", "submitted": 3, "by_status": {"DELIVERED": 2, "REJECTED": 1}}
        other = attempt("tuesday")
        shop.sandbox.set_faults(Fault("error", statuses=(403,), path="sms"))
        with pytest.raises(AirflowFailException):
            shop.send(other)
        assert other["ti"].pushed["submissions"]["not_sent"] == 3

    @each_block("ledger-table")
    def test_the_table_of_the_page_takes_rows(self, block: Block, shop: Shop) -> None:
        with closing(sqlite3.connect(shop.path)) as connection:
            connection.executescript(block.code.replace("sms_ledger", "ledger").replace("timestamptz", "text"))
        shop.people(DELIVERED)
        shop.send(create_table=False)
        assert shop.refresh()["written"] == 1


class TestRefresh:
    def test_only_open_rows_are_asked_for_once_and_the_rest_is_left_alone(self, shop: Shop) -> None:
        shop.send_to(DELIVERED, REJECTED, SENT)
        assert counts(shop.refresh(), "requested", "written", "open", "too_old") == [3, 3, 1, 0]
        assert shop.column("status") == ["DELIVERED", "REJECTED", "SENT"]
        assert shop.column("is_final") == [1, 1, 0]
        assert shop.column("reference") == ["july-1", "july-2", "july-3"]
        assert all(row["outcome"] == "submitted" and row["cost"] == 1 for row in shop.ledger())
        assert shop.refresh(lookback=timedelta(days=3_000_000))["requested"] == 1, "the lookback has no limit"
        assert shop.asked() == [1, 1, 2]

    def test_rows_older_than_the_lookback_are_counted_and_not_asked_for(self, shop: Shop) -> None:
        shop.send_to(SENT, SENT)
        old = (datetime.now(UTC) - timedelta(days=8)).isoformat(timespec="seconds")
        shop.do("UPDATE ledger SET sent_at = ? WHERE reference = 'july-1'", old)
        assert counts(shop.refresh(), "requested", "open", "too_old") == [1, 1, 1]
        assert counts(shop.refresh(lookback=timedelta(days=9)), "requested", "open", "too_old") == [2, 2, 0]

    def test_an_id_that_the_api_does_not_know_stays_open_and_one_that_is_none_is_named(self, shop: Shop) -> None:
        shop.send_to(DELIVERED, DELIVERED)
        shop.do("UPDATE ledger SET submission_id = '77' WHERE reference = 'july-1'")
        assert counts(shop.refresh(), "missing", "fetched", "open") == [1, 1, 1]
        shop.do("UPDATE ledger SET submission_id = 'tbd' WHERE reference = 'july-1'")
        with pytest.raises(AirflowFailException, match="A submission_id in the table ledger is a str of 3 characters"):
            shop.refresh()

    def test_a_table_of_details_refreshes_too(self, shop: Shop) -> None:
        add = shop.sandbox.add_submission
        ids = [add(status, pending_for=0, sent_for=0) for status in ("DELIVERED", "PENDING")]
        shop.refresh(refresh=False, create_table=True, submission_ids=ids)
        add("DELIVERED", submission_id=ids[1], pending_for=0, sent_for=0)
        shop.refresh()
        statuses = shop.rows("SELECT submission_id, status FROM ledger")
        assert dict(statuses) == dict.fromkeys(ids, "DELIVERED")  # type: ignore[arg-type]
        assert shop.asked() == [1, 2]

    @pytest.mark.parametrize(("ending", "status"), [(SENT, "SENT"), (DELIVERED, "DELIVERED")])
    def test_an_older_answer_replaces_a_newer_one_only_if_it_is_final(
        self, shop: Shop, ending: str, status: str
    ) -> None:
        """The clock of another worker may have been ahead."""
        shop.send_to(ending)
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
        shop.do("UPDATE ledger SET fetched_at = ?, status = 'SENT', is_final = 0", later)
        shop.refresh()
        assert shop.column("status") == [status]
        assert shop.column("fetched_at") == [later] if ending == SENT else shop.column("is_final") == [1]

    @needs_threads
    def test_a_final_state_stays_although_the_clock_of_another_worker_is_ahead(self, shop: Shop) -> None:
        shop.send_to(SENT)
        shop.sandbox.set_faults(Fault("latency", seconds=1, path="sms"))
        earlier = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(shop.refresh)
            wait_until(lambda: bool(shop.asked()) or late.done(), what="the request of the late refresh")
            shop.do("UPDATE ledger SET fetched_at = ?, status = 'DELIVERED', is_final = 1", earlier)
            late.result()
        assert (shop.column("status"), shop.column("is_final")) == (["DELIVERED"], [1])

    @pytest.mark.parametrize("more", [0, 5])
    def test_a_refresh_that_failed_goes_on_from_there_although_more_was_sent_meanwhile(
        self, shop: Shop, more: int
    ) -> None:
        shop.send_to(*[DELIVERED] * 5)
        attempts = attempt("hourly")
        shop.do("CREATE TRIGGER broken BEFORE UPDATE ON ledger BEGIN SELECT raise(ABORT, 'no'); END")
        with pytest.raises(AirflowFailException, match="5 of 5 submissions are kept"):
            shop.refresh(attempts)
        assert set(shop.column("status")) == {"submitted"}
        shop.do("DROP TRIGGER broken")
        if more:
            shop.send(attempt("tuesday"))
        assert counts(shop.refresh(attempts), "requested", "written", "resumed") == [5 + more, 5 + more, 5]
        assert set(shop.asked()) == {1}
        assert set(shop.column("status")) == {"DELIVERED"}

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ({"submission_ids": ["1"]}, "Give one of"),
            ({"create_table": True}, "leave out create_table"),
            ({"on_conflict": "ignore"}, "leave out create_table and on_conflict"),
            *(({"lookback": value}, "lookback is") for value in ("7", timedelta(days=-1), 0)),
        ],
    )
    def test_wrong_arguments(self, shop: Shop, arguments: Row, problem: str) -> None:
        with pytest.raises(AirflowFailException, match=problem):
            shop.refresh(**arguments)
