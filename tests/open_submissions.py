"""Submissions that stay open until the code under test polls them, however late the first poll comes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from airflow_provider_rtisms.sandbox import Sandbox
from scripts.processes import wait_until


@contextmanager
def final_after_first_poll(sandbox: Sandbox, status: str = "DELIVERED") -> Iterator[str]:
    """
    Add a submission that is PENDING at its first poll and final from then on.

    :param sandbox: where to add it.
    :param status: its final status.
    :return: its id.
    """
    submission_id = sandbox.add_submission("PENDING")

    def finish_after_first_poll() -> None:
        wait_until(lambda: sandbox.state().requests_by_id.get(submission_id), what="the first poll", timeout=60)
        sandbox.add_submission(status, submission_id=submission_id, pending_for=0, sent_for=0)

    with ThreadPoolExecutor() as executor:
        finished = executor.submit(finish_after_first_poll)
        yield submission_id
        finished.result()
