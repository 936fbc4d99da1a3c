"""The distinct ids of a bulk fetch, and what is missing among them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_rtisms.bulk import distinct_ids
from airflow_provider_rtisms.bulk.distinct_ids import DistinctIds
from airflow_provider_rtisms.bulk.storage_errors import RtiSmsStorageUnavailableError

pytestmark = pytest.mark.outer_minors


def test_each_is_kept_once_in_the_order_in_which_it_came_first() -> None:
    with DistinctIds(iter(["9", "10", "9", "100", "9"])) as ids:
        assert (list(ids), len(ids), ids.duplicates) == (["9", "10", "100"], 3, 2)


def test_discarded_ids_are_gone_and_no_longer_counted() -> None:
    with DistinctIds("1234") as ids:
        assert ids.discard("2") is True
        assert ids.discard("2") is False
        assert ids.discard("5") is False
        assert (list(ids), len(ids)) == (["1", "3", "4"], 3)


def test_the_digest_is_that_of_the_set_and_of_its_context() -> None:
    with DistinctIds(["9", "10", "100"]) as ids, DistinctIds(["100", "9", "10", "9"]) as same:
        # It names the part file, so that a later version of this package finds the part of an earlier one.
        assert ids.digest("https://api", "me") == "ffbe010e812d0275"
        assert same.digest("https://api", "me") == ids.digest("https://api", "me")
        assert ids.digest("https://api", "you") != ids.digest("https://api", "me")
        same.discard("9")
        assert same.digest("https://api", "me") != ids.digest("https://api", "me")


def test_missing_ids_keep_their_reasons_and_their_order() -> None:
    with DistinctIds("321") as ids:
        ids.add_missing("3", "HTTP 404")
        ids.add_missing("1", "gone")
        assert list(ids.missing()) == [("3", "HTTP 404"), ("1", "gone")]


def test_another_thread_may_use_them() -> None:
    """A fetch runs in a thread of its own where an event loop is running."""
    found: list[Any] = []
    with DistinctIds("12") as ids:
        thread = threading.Thread(target=lambda: found.extend([*ids, ids.discard("1")]))
        thread.start()
        thread.join()
    assert found == ["1", "2", True]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Return all connections to databases that were made."""
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def note(*args: Any, **options: Any) -> sqlite3.Connection:
        made.append(connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(distinct_ids.sqlite3, "connect", note)
    return made


def test_ids_that_cannot_be_read_leave_no_database(connections: list[sqlite3.Connection]) -> None:
    def ids() -> Iterator[str]:
        yield "1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DistinctIds(ids())
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connections[0].execute("SELECT 1")


def test_the_end_of_its_block_deletes_the_database() -> None:
    with DistinctIds("1") as ids:
        pass
    with pytest.raises(RtiSmsStorageUnavailableError, match="closed database"):
        list(ids)


USES: dict[str, Callable[[DistinctIds], Any]] = {
    "iterate": list,
    "discard": lambda ids: ids.discard("1"),
    "add_missing": lambda ids: ids.add_missing("1", "gone"),
    "missing": lambda ids: list(ids.missing()),
    "digest": lambda ids: ids.digest(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_failure_of_the_database_says_what_to_do(use: Callable[[DistinctIds], Any]) -> None:
    ids = DistinctIds("1")
    ids.close()
    with pytest.raises(RtiSmsStorageUnavailableError, match=r"^Keeping the submission ids .* SQLITE_TMPDIR") as caught:
        use(ids)
    assert isinstance(caught.value.__cause__, sqlite3.Error)


def test_no_journal_doubles_the_writes(connections: list[sqlite3.Connection]) -> None:
    with DistinctIds(map(str, range(1000))) as ids:
        statements: list[str] = []
        connections[0].set_trace_callback(statements.append)
        ids.discard("7")
        ids.add_missing("8", "gone")
        assert connections[0].execute("PRAGMA journal_mode").fetchone() == ("off",)
        assert connections[0].in_transaction
    assert not any(one.startswith(("BEGIN", "COMMIT", "ROLLBACK")) for one in statements)
