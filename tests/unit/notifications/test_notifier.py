"""The notifier by itself; tests/system lets a scheduler call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.sandbox import Fault, Sandbox


def notifier(**arguments: Any) -> RtiSmsNotifier:
    text = "{{ ti.task_id }} failed"
    return RtiSmsNotifier(**{"recipients": "+56900000100", "text": text, "sender": "96000", **arguments})


def context(task_id: str = "load") -> dict[str, Any]:
    return {"dag": DAG("alerting", schedule=None), "ti": SimpleNamespace(task_id=task_id)}


def texts(sandbox: Sandbox) -> list[str]:
    return [message.text for message in sandbox.state().messages if message.status == "submitted"]


def test_the_text_is_rendered_anew_for_each_alert(rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
    callback = notifier()
    callback(context("load"))
    callback(context("clean"))
    assert texts(rtisms_sandbox) == ["load failed", "clean failed"]
    assert logged().count("Alert sent. Of 1 messages: 1 submitted") >= 2


def test_a_long_text_is_cut(rtisms_sandbox: Sandbox) -> None:
    notifier(text="a" * 500).notify({})
    notifier(text="ā" * 500, max_parts=2).notify({})
    assert texts(rtisms_sandbox) == ["a" * 157 + "...", "ā" * 133 + "…"]


def test_the_connection_has_the_default_sender(rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {**json.loads(rtisms_sandbox.connection_json()), "extra": {"sender": "97000"}}
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps(connection))
    notifier(sender=None).notify({})
    assert [message.sender for message in rtisms_sandbox.state().messages] == ["97000"]


def test_it_can_be_awaited(rtisms_sandbox: Sandbox) -> None:
    asyncio.run(notifier(text="now").async_notify({}))
    assert texts(rtisms_sandbox) == ["now"]


@pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="deadline alerts are from Airflow 3.1 on")
def test_airflow_can_await_it_with_a_context(rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context of a deadline alert has no ``var``; numbers need it, for Airflow stores what is not a template."""
    monkeypatch.setenv("AIRFLOW_VAR_ON_DUTY", '{"phone": "+56900000100"}')
    templates = [
        ("{{ var.json.on_duty.phone }}", "{{ ti.task_id }} failed"),
        ("{{ var.json.get('on_duty').phone }}", "{{ var.value.on_duty }}"),
        ("{{ var.value.get('nobody', '+56900000100') }}", "{{ var.value.get('on_duty') }}"),
    ]

    async def alert() -> None:
        for recipients, text in templates:
            await notifier(recipients=recipients, text=text, context=context())

    asyncio.run(alert())
    assert texts(rtisms_sandbox) == ["load failed", *['{"phone": "+56900000100"}'] * 2]
    assert {message.recipient for message in rtisms_sandbox.state().messages} == {"+56900000100"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"recipients": "nobody"},
        {"recipients": "+56900000005"},  # the sandbox refuses it, since the account has no balance
        {"text": "{{ missing.attribute }}"},
        {"text": ""},
        {"sender": "blocked"},
    ],
)
def test_what_cannot_be_sent_breaks_nothing(
    rtisms_sandbox: Sandbox, logged: Callable[[], str], arguments: dict[str, Any]
) -> None:
    notifier(**arguments)(context())
    assert "alert failed" in logged()
    assert texts(rtisms_sandbox) == []


def test_a_server_that_fails_breaks_nothing_and_gets_the_alert_once(
    rtisms_sandbox: Sandbox, logged: Callable[[], str]
) -> None:
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms"))
    notifier()(context())
    notifier().notify({})
    asyncio.run(notifier().async_notify({}))
    shown = logged()
    assert "alert failed" in shown
    assert len(texts(rtisms_sandbox)) == 3
    assert "56900000100" not in shown


def test_a_missing_connection_breaks_nothing(logged: Callable[[], str]) -> None:
    notifier(rtisms_conn_id="nowhere").notify({})
    assert "alert failed" in logged()
