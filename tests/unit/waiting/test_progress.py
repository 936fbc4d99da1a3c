"""The log line of a wait says how many submissions are final, and in which state each is."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.waiting.delivery_wait import DeliveryWait


def test_progress_counts_final_and_open_submissions_by_state() -> None:
    wait = DeliveryWait(["1", "2", "3", "4"], fail_on=())
    assert wait.progress() == "0 of 4 submissions are final; open: 4 not seen"
    for submission_id, status in (("1", "DELIVERED"), ("2", "EXPIRED"), ("3", "DELIVERED"), ("4", "SENT")):
        wait.note(submission_id, SmsDetails(submission_id, status))
    assert wait.progress() == "3 of 4 submissions are final (2 DELIVERED, 1 EXPIRED); open: 1 SENT"
    assert wait.timeout_message().endswith("open: 1 SENT (4).")
    wait.note("4", SmsDetails("4", "UNKNOWN", done_at=datetime(2026, 1, 1, tzinfo=UTC)))
    assert wait.progress() == "4 of 4 submissions are final (2 DELIVERED, 1 EXPIRED, 1 UNKNOWN)"
