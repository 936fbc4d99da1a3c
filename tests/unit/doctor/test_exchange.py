"""How the doctor sends its requests."""

from __future__ import annotations

import time
from dataclasses import replace

from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import HttpRequest
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.doctor.exchange import Prober
from airflow_provider_rtisms.sandbox import Sandbox


def settings(sandbox: Sandbox) -> ApiSettings:
    return ApiSettings(base_url=sandbox.url, client_id=sandbox.client_id, client_secret=sandbox.client_secret)


def request(sandbox: Sandbox) -> HttpRequest:
    return endpoints.authenticate(settings(sandbox)).request()


def test_requests_keep_to_the_rate_of_the_connection(rtisms_sandbox: Sandbox) -> None:
    prober = Prober(replace(settings(rtisms_sandbox), requests_per_second=4))
    started = time.monotonic()
    assert [prober.send(request(rtisms_sandbox)).status for _ in range(3)] == [200] * 3
    assert time.monotonic() - started >= 0.5
    prober.close()


def test_a_closed_prober_keeps_no_connection(rtisms_sandbox: Sandbox) -> None:
    prober = Prober(settings(rtisms_sandbox))
    prober.send(request(rtisms_sandbox))
    adapter = prober._session.get_adapter(rtisms_sandbox.url)
    assert len(adapter.poolmanager.pools) == 1  # type: ignore[attr-defined]
    prober.close()
    assert len(adapter.poolmanager.pools) == 0  # type: ignore[attr-defined]
