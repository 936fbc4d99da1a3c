"""The API fails in the middle of a wait: an outage, a revoked token, another client secret."""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_provider_rtisms.sandbox import Fault
from scripts.airflow_deployment import AirflowDeployment
from tests.system.chaos.conftest import DeferredWaits, store_connection

OUTAGE = 60.0
"""Seconds."""


def test_a_wait_outlives_an_outage(airflow: AirflowDeployment, start_waits: Callable[..., DeferredWaits]) -> None:
    waits = start_waits()
    before = waits.sandbox.state()
    waits.sandbox.set_faults(Fault("outage"))
    end = time.monotonic() + OUTAGE
    airflow.wait_until(lambda: time.monotonic() > end, what="the end of the outage", timeout=OUTAGE + 10)
    during = waits.sandbox.state()
    assert during.count_responses("outage") >= len(waits.submission_ids)
    assert during.count_responses(200) == before.count_responses(200)
    assert waits.run.count("deferred") == 1
    waits.sandbox.set_faults()
    waits.await_polls()
    waits.deliver()
    waits.check_success()
    assert waits.sandbox.state().tokens_issued == before.tokens_issued


def test_a_revoked_token_is_replaced_once(start_waits: Callable[..., DeferredWaits]) -> None:
    waits = start_waits(4)
    before = waits.sandbox.state()
    waits.sandbox.revoke_tokens()
    waits.await_polls()
    assert waits.sandbox.state().tokens_issued == before.tokens_issued + 1
    waits.deliver()
    waits.check_success()


def test_a_wait_follows_a_rotated_client_secret(
    airflow: AirflowDeployment, start_waits: Callable[..., DeferredWaits]
) -> None:
    waits = start_waits(4)
    before = waits.sandbox.state()
    waits.sandbox.rotate_secret("another secret, for the same client")
    store_connection(airflow, waits.sandbox)
    waits.sandbox.revoke_tokens()
    waits.await_polls()
    after = waits.sandbox.state()
    assert after.tokens_issued == before.tokens_issued + 1
    assert after.count_responses(401, "POST auth") >= 1  # the trigger used the old secret first
    waits.deliver()
    waits.check_success()
