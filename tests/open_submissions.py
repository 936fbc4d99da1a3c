"""Submissions that stay open until the code under test polls them, however late the first poll comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE


@contextmanager
def final_after_first_poll(sandbox: Sandbox, status: str = "DELIVERED") -> Iterator[str]:
    """Add a submission that is PENDING at its first poll and has a final status from then on; yield its id."""
    submission_id = sandbox.add_submission("PENDING")
    left = threading.Event()

    def finish_after_first_poll() -> None:
        deadline = time.monotonic() + PATIENCE
        while not sandbox.state().requests_by_id.get(submission_id):
            assert time.monotonic() < deadline, "no first poll"
            if left.wait(0.1):
                return
        sandbox.add_submission(status, submission_id=submission_id, pending_for=0, sent_for=0)

    with ThreadPoolExecutor() as executor:
        finished = executor.submit(finish_after_first_poll)
        try:
            yield submission_id
        finally:
            left.set()  # where the block has failed, no poll comes any more
        finished.result()
