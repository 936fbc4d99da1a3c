"""The API's side failing in the middle of a wait: an outage, a revoked token, another client secret."""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_provider_rtisms.sandbox import Fault
from scripts.airflow_deployment import AirflowDeployment
from tests.system.chaos.conftest import DeferredWaits, store_connection

OUTAGE = 60.0
"""Seconds."""


def test_a_wait_rides_out_an_outage(airflow: AirflowDeployment, start_waits: Callable[..., DeferredWaits]) -> None:
    waits = start_waits()
    before = waits.sandbox.state()
    waits.sandbox.set_faults(Fault("outage"))
    end = time.monotonic() + OUTAGE
    airflow.wait_until(lambda: time.monotonic() > end, what="the end of the outage", timeout=OUTAGE + 10)
    during = waits.sandbox.state()
    assert during.responded("outage") >= len(waits.submission_ids)
    assert during.responded(200) == before.responded(200)
    assert waits.run.count("deferred") == 1
    waits.sandbox.set_faults()
    waits.await_polls()
    waits.deliver()
    waits.check_success()
    assert waits.sandbox.state().tokens_issued == before.tokens_issued


def test_a_revoked_token_costs_one_new_one(start_waits: Callable[..., DeferredWaits]) -> None:
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
    assert after.responded(401, "POST auth") >= 1  # the trigger did try the old secret first
    waits.deliver()
    waits.check_success()
