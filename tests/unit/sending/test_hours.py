"""The hours of a send: what is read, when they begin and end, and what daylight saving does to them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.sending.hours import AllowedHours, check_hours

DAY, NIGHT = ("09:00", "20:00"), ("20:00", "08:00")


def hours(window: Any = DAY, zone: str = "America/Santiago") -> AllowedHours:
    checked = check_hours(window, zone)
    assert checked is not None
    return checked


def at(local: str, zone: str = "America/Santiago", *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("window", "zone"),
    [
        (None, "Europe/Warsaw"),
        *((DAY, zone) for zone in (None, "", "Europe/Nowhere", "Europe", "../etc/passwd", 5)),
        *(("09:00", "UTC"), ((9, 20), "UTC"), ({"09:00", "20:00"}, "UTC")),
        *((times.split(), "UTC") for times in ("09:00", "09:00 20:00 21:00", "09:00 09:00")),
        *((times.split(), "UTC") for times in ("9:00 20:00", "09:00 24:00", "09:00:00 20:00")),
    ],
)
def test_what_is_no_pair_of_times_in_a_time_zone_is_refused(window: Any, zone: Any) -> None:
    with pytest.raises(RtiSmsInputError, match=r"allowed_hours|timezone"):
        check_hours(window, zone)


@pytest.mark.parametrize(
    ("window", "local", "is_open"),
    [
        (DAY, "2026-06-01T08:59:59.999999", False),
        (DAY, "2026-06-01T09:00", True),
        (DAY, "2026-06-01T19:59:59.999999", True),
        (DAY, "2026-06-01T20:00", False),
        (NIGHT, "2026-06-01T19:59", False),
        (NIGHT, "2026-06-01T20:00", True),
        (NIGHT, "2026-06-02T00:00", True),
        (NIGHT, "2026-06-02T07:59", True),
        (NIGHT, "2026-06-02T08:00", False),
        (["09:00", "00:00"], "2026-06-01T23:59", True),
        (["09:00", "00:00"], "2026-06-02T00:00", False),
        (["00:00", "00:01"], "2026-06-02T00:00", True),
    ],
)
def test_the_start_belongs_to_the_hours_and_the_end_does_not(window: Any, local: str, is_open: bool) -> None:
    assert hours(window).is_open(at(local)) is is_open


@pytest.mark.parametrize(
    ("zone", "window", "now", "start"),
    [
        # Santiago: on 2026-04-04 the clock goes from 24:00 back to 23:00, on 2026-09-06 from 00:00 on to 01:00.
        ("America/Santiago", DAY, "2026-04-04T21:00", "2026-04-05T09:00"),
        ("America/Santiago", DAY, "2026-09-05T21:00", "2026-09-06T09:00"),
        ("America/Santiago", ("00:30", "08:00"), "2026-09-05T23:00", "2026-09-06T01:00"),
        ("America/Santiago", ("00:10", "00:50"), "2026-09-05T23:00", "2026-09-07T00:10"),
        # Warsaw: on 2026-03-29 from 02:00 on to 03:00, on 2026-10-25 from 03:00 back to 02:00.
        ("Europe/Warsaw", ("20:00", "02:30"), "2026-03-29T03:10", "2026-03-29T20:00"),
        ("Europe/Warsaw", ("02:30", "09:00"), "2026-03-29T01:30", "2026-03-29T03:00"),
        ("Europe/Warsaw", ("02:00", "02:30"), "2026-03-29T01:30", "2026-03-30T02:00"),
        ("Europe/Warsaw", DAY, "2026-10-24T20:00", "2026-10-25T09:00"),
        ("Europe/Warsaw", NIGHT, "2026-03-29T08:00", "2026-03-29T20:00"),
    ],
)
def test_the_next_start(zone: str, window: Any, now: str, start: str) -> None:
    assert hours(window, zone).next_start(at(now, zone)) == at(start, zone)


def test_an_hour_that_comes_twice_is_one_of_the_clock_both_times() -> None:
    window = hours(("02:30", "03:00"), "Europe/Warsaw")
    first, second = (at("2026-10-25T02:45", "Europe/Warsaw", fold=fold) for fold in (0, 1))
    assert window.is_open(first)
    assert window.is_open(second)
    start = window.next_start(at("2026-10-25T02:10", "Europe/Warsaw", fold=1))
    assert start == at("2026-10-25T02:30", "Europe/Warsaw", fold=1)


clocks = st.times().map(lambda time: f"{time:%H:%M}")


@given(
    st.tuples(clocks, clocks).filter(lambda window: window[0] != window[1]),
    st.sampled_from(["America/Santiago", "Europe/Warsaw", "UTC", "Asia/Kathmandu", "Australia/Lord_Howe"]),
    st.floats(1.7e9, 1.9e9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_the_next_start_is_the_first_minute_of_the_hours(window: Any, zone: str, now: datetime) -> None:
    allowed = hours(window, zone)
    start = allowed.next_start(now)
    assert allowed.is_open(start)
    if allowed.is_open(now):
        assert start == now
    else:
        assert now < start <= now + timedelta(days=2)
        assert not allowed.is_open(start - timedelta(microseconds=1))
