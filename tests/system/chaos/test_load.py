"""A thousand deferred tasks in one triggerer."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from airflow_provider_rtisms.sandbox import SandboxProcess
from scripts.airflow_deployment import AirflowDeployment
from scripts.processes import Session, wait_until

WAITS = 1000
FIRST_ID = 5_000_000
WINDOW = 20.0
"""Seconds of steady polling that are measured."""


@dataclass(frozen=True)
class Usage:
    """The resources that a program and its children use: CPU seconds so far, and resident memory in MiB."""

    cpu: float
    memory: float

    @classmethod
    def of(cls, session: Session) -> Usage:
        leader = psutil.Process(session.pid)
        family = [leader, *leader.children(recursive=True)]
        spent = [process.cpu_times() for process in family]
        return cls(
            cpu=sum(times.user + times.system for times in spent),
            memory=sum(process.memory_info().rss for process in family) / 2**20,
        )


def test_a_thousand_deferred_waits_share_a_token_and_a_pool(
    airflow: AirflowDeployment, sandbox: SandboxProcess
) -> None:
    ids = [sandbox.add_submission("PENDING", submission_id=str(FIRST_ID + index)) for index in range(WAITS)]
    triggerer = airflow.processes["triggerer"]
    idle = Usage.of(triggerer)
    started = time.monotonic()
    run = airflow.trigger("thousand_waits", params={"first_id": FIRST_ID})
    airflow.wait_until(lambda: run.count("deferred") == WAITS, what="a thousand deferred tasks")
    airflow.wait_until(lambda: len(sandbox.state().requests_by_id) == WAITS, what="a poll of each")
    all_polled = time.monotonic()

    before, usage_before = sandbox.state(), Usage.of(triggerer)
    wait_until(lambda: time.monotonic() > all_polled + WINDOW, what="the end of the window", timeout=WINDOW + 10)
    during, usage = sandbox.state(), Usage.of(triggerer)
    seconds = time.monotonic() - all_polled
    print(
        f"\n{WAITS} waits, all polled after {all_polled - started:.0f} s; for {seconds:.0f} s: "
        f"{(during.requests['GET sms'] - before.requests['GET sms']) / seconds:.0f} requests/s, "
        f"CPU {(usage.cpu - usage_before.cpu) / seconds:.0%} of a core, "
        f"memory {usage.memory:.0f} MiB ({usage.memory - idle.memory:+.0f}), "
        f"{during.sockets_peak} sockets at most, {during.tokens_issued} tokens"
    )
    assert during.tokens_issued == 1
    assert during.sockets_peak <= 32  # max_concurrency
    assert min(during.requests_by_id[one] - before.requests_by_id[one] for one in ids) >= 1

    for one in ids:
        sandbox.add_submission(submission_id=one, pending_for=0, sent_for=0)
    delivered = time.monotonic()
    airflow.wait_until(lambda: run.count("success") == WAITS, what="a thousand successes")
    print(f"all succeeded {time.monotonic() - delivered:.0f} s after delivery")
