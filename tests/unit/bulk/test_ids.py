"""The distinct ids of a bulk fetch, and what is missing among them."""

from __future__ import annotations

import tracemalloc

import pytest

from airflow_provider_rtisms.bulk.fetch import DistinctIds

pytestmark = pytest.mark.outer_minors


def test_each_is_kept_once_in_the_order_in_which_it_came_first() -> None:
    ids = DistinctIds(iter(["9", "10", "9", "100", "9"]))
    assert (list(ids), len(ids), ids.duplicates) == (["9", "10", "100"], 3, 2)


def test_discarded_ids_are_gone_and_no_longer_counted() -> None:
    ids = DistinctIds("1234")
    assert ids.discard("2") is True
    assert ids.discard("2") is False
    assert ids.discard("5") is False
    assert (list(ids), len(ids)) == (["1", "3", "4"], 3)


def test_the_digest_is_that_of_the_set_and_of_its_context() -> None:
    ids, same = DistinctIds(["9", "10", "100"]), DistinctIds(["100", "9", "10", "9"])
    # It names the part file, so that a later version of this package finds the part of an earlier one.
    assert ids.digest("https://api", "me") == "ffbe010e812d0275"
    assert same.digest("https://api", "me") == ids.digest("https://api", "me")
    assert ids.digest("https://api", "you") != ids.digest("https://api", "me")
    same.discard("9")
    assert same.digest("https://api", "me") != ids.digest("https://api", "me")


def test_missing_ids_keep_their_reasons_and_their_order() -> None:
    ids = DistinctIds("321")
    ids.add_missing("3", "get_sms 3: HTTP 404")
    ids.add_missing("1", "gone")
    assert list(ids.missing()) == [("3", "get_sms 3: HTTP 404"), ("1", "gone")]


def test_a_million_ids_take_little_memory_and_reasons_that_differ_in_the_id_are_kept_once() -> None:
    tracemalloc.start()
    try:
        ids = DistinctIds(str(10**15 + number) for number in range(100_000))
        ids.digest("https://api", "me")
        for one in ids:
            ids.add_missing(one, f"get_sms {one}: HTTP 404. Check the id, and ask the vendor where it is right.")
        assert tracemalloc.get_traced_memory()[1] < 15 * 2**20  # of 100,000; so 150 MiB of a million
    finally:
        tracemalloc.stop()
