"""How the doctor sends its requests."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from airflow_provider_rtisms.api.protocol import endpoints
from airflow_provider_rtisms.api.protocol.request import HttpRequest
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.doctor.exchange import Exchange, Prober
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


@pytest.mark.parametrize(
    ("content_type", "body", "is_web_page"),
    [
        (None, b"<html>", True),
        (None, b" \n<!DOCTYPE html>", True),
        ("Text/HTML; charset=utf-8", b"Sign in", True),
        ("text/html", b"{}", False),
        ("application/json", b'{"a": "<"}', False),
        ("application/json", b"Sign in", False),
        (None, b"", False),
    ],
)
def test_a_web_page_is_recognized(content_type: str | None, body: bytes, *, is_web_page: bool) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert exchange(headers, body).is_web_page() is is_web_page


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("https://login.example:8443/?token=secret", " to login.example:8443"),
        ("https://me:secret@login.example/", ""),
        ("/login", ""),
        ("https://[", ""),
        ("https://" + "a" * 101, ""),
    ],
)
def test_only_the_host_of_a_redirect_is_named(location: str, host: str) -> None:
    assert exchange({"Location": location}, b"").redirect_host() == host


def exchange(headers: dict[str, str], body: bytes) -> Exchange:
    return Exchange(200, headers, body, "HTTP/1.1", 0.1, time.time(), None)
