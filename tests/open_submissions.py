"""Submissions that end once they have been asked for: open at the first poll, however late that comes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from airflow_provider_rtisms.sandbox import Sandbox
from scripts.processes import wait_until


@contextmanager
def ending_once_asked(sandbox: Sandbox, status: str = "DELIVERED") -> Iterator[str]:
    """
    Add a submission that ends once it has been asked for.

    :param sandbox: where.
    :param status: its final state.
    :return: its id.
    """
    submission_id = sandbox.add_submission("PENDING")

    def end() -> None:
        wait_until(lambda: sandbox.state().requests_by_id.get(submission_id), what="the first poll", timeout=60)
        sandbox.add_submission(status, submission_id=submission_id, pending_for=0, sent_for=0)

    with ThreadPoolExecutor() as executor:
        ending = executor.submit(end)
        yield submission_id
        ending.result()
