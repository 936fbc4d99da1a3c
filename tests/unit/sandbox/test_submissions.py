"""The statuses of a submission, on a clock that the test controls."""

from __future__ import annotations

import pytest

from airflow_provider_rtisms.sandbox.state import FIRST_SEEDED_ID, Submission, Submissions


@pytest.mark.parametrize(
    ("age", "status", "sent", "done"),
    [
        (0, "PENDING", 0, 0),
        (9.9, "PENDING", 0, 0),
        (10, "SENT", 1010, 0),
        (29, "SENT", 1010, 0),
        (30, "EXPIRED", 1010, 1030),
    ],
)
def test_it_is_pending_then_sent_then_final(age: float, status: str, sent: int, done: int) -> None:
    details = Submission("1", "EXPIRED", registered=1000.0, pending_for=10, sent_for=20).details(1000.0 + age)
    assert details["info"]["status"]["status"] == status
    assert details["timestamps"] == {"registered": 1000, "sent": sent, "done": done}


@pytest.mark.parametrize(("status", "sent"), [("PENDING", 0), ("SENT", 1010)])
def test_pending_and_sent_can_last_forever(status: str, sent: int) -> None:
    details = Submission("1", status, registered=1000.0, pending_for=10, sent_for=20).details(1e12)
    assert details["info"]["status"]["status"] == status
    assert details["timestamps"] == {"registered": 1000, "sent": sent, "done": 0}


def test_a_million_seeded_submissions_take_no_memory() -> None:
    submissions = Submissions(1_000_000, clock=lambda: 0.0)
    assert len(vars(submissions)["_known"]) < 20
    for position in (0, 1, 999_999):
        found = submissions.find(str(FIRST_SEEDED_ID + position))
        assert found is not None
        assert found.status == "DELIVERED"
    for position in (-1, 1_000_000):
        assert submissions.find(str(FIRST_SEEDED_ID + position)) is None
