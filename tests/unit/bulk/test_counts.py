"""The distinct ids of a bulk fetch, and what it counts: when it gives up, what it names, and what people read."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import Operator, SmsDetails
from airflow_provider_rtisms.api.retrying import Stats
from airflow_provider_rtisms.bulk import fetch as counts
from airflow_provider_rtisms.bulk.fetch import DistinctIds, FetchStats

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


UNAVAILABLE = errors.RtiSmsServerError("get_sms: HTTP 503.", call="get_sms", subject="7", status=503, retry_after=9)
UNKNOWN = errors.RtiSmsNotFoundError("get_sms: HTTP 404.", call="get_sms", subject="8", status=404)
FOUND = SmsDetails("1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Let a test set the time: ``clock.now``, in seconds."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(counts, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def noted(*outcomes: Any, requested: int = 100) -> FetchStats:
    stats = FetchStats(requested, 0)
    for number, outcome in enumerate(outcomes):
        stats.note(str(number), outcome)
    return stats


@pytest.mark.parametrize(
    ("outcomes", "gives_up"),
    [
        ([UNAVAILABLE] * 49, False),
        ([UNAVAILABLE] * 50, True),
        ([*[UNAVAILABLE] * 49, FOUND, *[UNAVAILABLE] * 49], False),
        ([*[UNAVAILABLE] * 49, UNKNOWN, *[UNAVAILABLE] * 49], False),
        ([UNKNOWN] * 60, False),
        ([errors.RtiSmsRateLimitError("429")], True),
        ([errors.RtiSmsForbiddenError("403")], True),
        ([errors.RtiSmsTimeoutError("late")], False),
    ],
)
def test_it_gives_up_after_fifty_failures_in_a_row_or_one_that_concerns_all(outcomes: Any, gives_up: bool) -> None:
    assert (noted(*outcomes).fatal is not None) == gives_up


def test_the_first_fatal_error_counts() -> None:
    first, second = errors.RtiSmsForbiddenError("first"), errors.RtiSmsForbiddenError("second")
    assert noted(first, second).fatal is first


def test_failures_raise_the_first_with_its_class_and_its_details() -> None:
    with pytest.raises(errors.RtiSmsServerError) as caught:
        noted(FOUND, UNAVAILABLE, errors.RtiSmsTimeoutError("late")).raise_for_failures()
    assert str(caught.value) == "2 of 100 submissions could not be fetched. The first: get_sms: HTTP 503."
    error = caught.value
    assert (error.call, error.subject, error.status, error.retry_after) == ("get_sms", "7", 503, 9)


def test_a_submission_without_any_response_is_a_defect() -> None:
    noted(FOUND, UNKNOWN, requested=2).raise_for_failures()
    with pytest.raises(errors.RtiSmsTransientError, match=r"^1 of 3 submissions got no response"):
        noted(FOUND, UNKNOWN, requested=3).raise_for_failures()


class TestMissing:
    @pytest.mark.parametrize(
        ("count", "names"),
        [(1, "0"), (10, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"), (11, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1 more")],
    )
    def test_ten_are_named(self, count: int, names: str, caplog: pytest.LogCaptureFixture) -> None:
        what = f"{count} of 100 submissions are unknown to the API (HTTP 404): {names}."
        stats = noted(*[UNKNOWN] * count)
        stats.handle_missing(missing_ok=True, missing_path="/data/m.txt")
        assert caplog.messages == [f"{what} All of them are in /data/m.txt."]
        with pytest.raises(errors.RtiSmsNotFoundError) as caught:
            stats.handle_missing(missing_ok=False, missing_path=None)
        assert str(caught.value) == f'{what} Check the ids, or set on_missing="skip".'
        assert (caught.value.call, caught.value.subject, caught.value.status) == ("get_sms", "8", 404)

    def test_none_is_no_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        noted(FOUND).handle_missing(missing_ok=False, missing_path=None)
        assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (4, "1,500 of 3,000 submissions done (50%), 250 a second, about 6 s left, 1,234 retries"),
        (0, "1,500 of 3,000 submissions done (50%), 1,000,000 a second, about 1 s left, 1,234 retries"),
    ],
)
def test_progress_counts_the_speed_of_this_attempt_alone(clock: SimpleNamespace, seconds: float, line: str) -> None:
    stats = FetchStats(3000, 0)
    stats.add(FOUND.to_record(), 500)
    stats.resumed = 500
    for outcome in (SmsDetails("1"), UNKNOWN, UNAVAILABLE, SmsDetails("2")):
        for _ in range(250):
            stats.note("1", outcome)
    clock.now += seconds
    assert stats.progress(Stats(retries=1234)) == line


def test_progress_without_a_speed_promises_nothing(clock: SimpleNamespace) -> None:
    stats = FetchStats(4, 0)
    stats.add(FOUND.to_record())
    stats.resumed = 1
    clock.now += 5
    assert stats.progress(Stats()) == "1 of 4 submissions done (25%), 0 a second, time left unknown"
    assert FetchStats(0, 0).progress(Stats()).startswith("0 of 0 submissions done (0%)")
    assert noted(FOUND, requested=1).progress(Stats()).startswith("1 of 1 submission done (100%)")


def test_the_summary_counts_and_is_json(clock: SimpleNamespace) -> None:
    stats = FetchStats(20, 3)
    entel = Operator(name="Entel Pcs")
    for details in (
        SmsDetails("1", status="SENT"),
        SmsDetails("2", status="DELIVERED", cost=2, operator=entel),
        SmsDetails("3", status="DELIVERED", cost=1, operator=entel),
        SmsDetails("4", cost=1, operator=Operator(name="Claro")),
    ):
        stats.note(details.submission_id, details)
    stats.add(SmsDetails("5", status="DELIVERED", cost=0).to_record())
    stats.resumed = 1
    for number in range(101, 113):
        stats.note(str(number), UNKNOWN)
    clock.now += 1.23456
    client = Stats(requests=21, tokens=1, retries=5, throttled=4)
    summary = stats.summary(client, "/data/details.csv", "/data/m.txt")
    assert json.loads(json.dumps(summary)) == {
        "path": "/data/details.csv",
        "requested": 20,
        "fetched": 5,
        "missing": 12,
        "missing_ids": [str(number) for number in range(101, 111)],
        "missing_path": "/data/m.txt",
        "by_status": {"DELIVERED": 3, "SENT": 1, "no status": 1},
        "by_operator": {"no operator": 2, "Entel Pcs": 2, "Claro": 1},
        "cost": 4,
        "duplicates": 3,
        "bytes": None,
        "resumed": 1,
        "requests": 21,
        "tokens": 1,
        "retries": 5,
        "throttled": 4,
        "seconds": 1.235,
    }
    assert list(summary["by_status"]) == ["DELIVERED", "SENT", "no status"]  # the most frequent first


@pytest.mark.parametrize(("costs", "total"), [((), 0), ((1, 2), 3), ((0.1, 0.2), 0.3), ((0.5, 0.5), 1)])
def test_costs_are_added_without_errors_of_rounding(costs: Any, total: float) -> None:
    summary = noted(*(SmsDetails("1", cost=cost) for cost in costs)).summary(Stats(), None, None)
    assert repr(summary["cost"]) == repr(total)
