"""The notifier by itself; tests/system lets a scheduler call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow import settings
from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS
from sqlalchemy import create_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.notifications import rtisms as module
from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from tests.unit.notifications.test_deduplication import Memory


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
    assert logged().count("Alert sent: 1 message (") >= 2


def test_the_region_of_the_connection_completes_numbers(
    rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {**json.loads(rtisms_sandbox.connection_json()), "extra": {"default_region": "CL"}}
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps(connection))
    notifier(recipients="9 8765 4321").notify(context())
    assert [message.recipient for message in rtisms_sandbox.state().messages] == ["+56987654321"]


def test_a_long_text_is_cut(rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
    notifier(text="a" * 500).notify({})
    notifier(text="ā" * 500, max_parts=2).notify({})
    assert texts(rtisms_sandbox) == ["a" * 157 + "...", "ā" * 133 + "…"]
    assert "The text takes 4 parts. It is cut to max_parts=1" in logged()


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
        {"rtisms_conn_id": "nowhere"},
        {"recipients": "+56900000005"},  # the sandbox refuses it, since the account has no balance
        {"text": "{{ missing.attribute }}"},
        {"text": ""},
        {"sender": "blocked"},
        {"sender": "96\ud800"},
        {"recipients": "+5690000010\udc80"},
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


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, quick_writes: None) -> Memory:
    """Airflow's Variables, in memory; tests/system uses those of a real Airflow."""
    variables = Memory()
    monkeypatch.setattr(module, "_VariableStore", lambda: variables)
    return variables


@pytest.fixture
def quick_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE", 0.001)


def calm(**arguments: Any) -> RtiSmsNotifier:
    return notifier(**{"dedup_key": "{{ dag.dag_id }}", "at_most_every": timedelta(hours=1), **arguments})


def test_one_sms_stands_for_the_alerts_of_a_key(rtisms_sandbox: Sandbox, variables: Memory) -> None:
    for _ in range(3):
        calm()(context("load"))
        calm(dedup_key="{{ ti.task_id }}")(context("clean"))
    assert texts(rtisms_sandbox) == ["load failed", "clean failed"]
    calm(at_most_every=0)(context("check"))
    assert texts(rtisms_sandbox)[2:] == ["check failed (+2 since the last SMS)"]


def test_a_missed_sla_of_airflow_2_alerts(rtisms_sandbox: Sandbox, variables: Memory) -> None:
    for _ in range(2):
        calm(text="{{ dag.dag_id }} is late: {{ task_list }}")(context()["dag"], "load", "", [], [])
    assert texts(rtisms_sandbox) == ["alerting is late: load"]


def test_every_way_to_call_it_shares_the_rule(rtisms_sandbox: Sandbox, variables: Memory) -> None:
    async def alert() -> None:
        await calm(dedup_key="alerting", text="now").async_notify(context())
        if AIRFLOW_V_3_1_PLUS:
            await calm(dedup_key="alerting", context={"dag_run": {}})

    calm()(context())
    calm(dedup_key="alerting", text="now").notify(context())
    asyncio.run(alert())
    calm(dedup_key="alerting", text="end", at_most_every=0).notify(context())
    assert texts(rtisms_sandbox) == ["load failed", f"end (+{3 if AIRFLOW_V_3_1_PLUS else 2} since the last SMS)"]


def test_the_author_chooses_the_words(rtisms_sandbox: Sandbox, variables: Memory) -> None:
    words = {"suppressed_suffix": " (y {{ suppressed }} más de {{ dag.dag_id }})"}
    inside = {"suppressed_suffix": "", "text": "{% if suppressed %}{{ suppressed }} more{% else %}first{% endif %}"}
    calm(**words)(context())
    calm(**words)(context())
    calm(**words, at_most_every=0)(context())
    calm(**inside, dedup_key="inside")(context())
    calm(**inside, dedup_key="inside")(context())
    calm(**inside, dedup_key="inside", at_most_every=0)(context())
    notifier(text="{{ suppressed }}")(context())
    assert texts(rtisms_sandbox) == ["load failed", "load failed (y 1 más de alerting)", "first", "1 more", "0"]


def test_the_count_is_not_cut(rtisms_sandbox: Sandbox, variables: Memory) -> None:
    for every in (3600, 3600, 0):
        calm(text="a" * 500, at_most_every=every)(context())
    assert texts(rtisms_sandbox) == ["a" * 157 + "...", "a" * 133 + "... (+1 since the last SMS)"]


def test_an_sms_that_was_not_sent_lets_the_next_one_out(
    rtisms_sandbox: Sandbox, variables: Memory, logged: Callable[[], str]
) -> None:
    calm(sender="blocked")(context())
    calm(text="{{ missing.attribute }}")(context())
    calm(recipients="nobody")(context())
    calm()(context())
    calm()(context())
    assert texts(rtisms_sandbox) == ["load failed (+3 since the last SMS)"]
    assert "alert failed" in logged()


def test_an_sms_that_may_have_been_sent_counts_as_sent(rtisms_sandbox: Sandbox, variables: Memory) -> None:
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", method="POST"))
    calm()(context())
    calm()(context())
    assert len(texts(rtisms_sandbox)) == 1


@pytest.mark.parametrize("key", ["{{ missing.attribute }}", "{{ '' }}"])
def test_a_key_that_cannot_be_used_lets_the_alert_out(
    rtisms_sandbox: Sandbox, variables: Memory, logged: Callable[[], str], key: str
) -> None:
    calm(dedup_key=key)(context())
    calm(dedup_key=key)(context())
    assert texts(rtisms_sandbox) == ["load failed"] * 2
    assert "dedup_key cannot be used, so this alert is sent" in logged()
    assert variables == {}


@pytest.mark.parametrize(
    "key",
    ["a\udcffb", "\x00", "\n\t ", "a" * 10**6, 0, 1.5, b"\xff", ["\udc80"], {"a": None}],
    ids=ascii,
)
def test_an_odd_key_limits_alerts_as_any_other(rtisms_sandbox: Sandbox, variables: Memory, key: Any) -> None:
    for _ in range(2):
        calm(dedup_key=key)(context())
        calm(dedup_key="another")(context("clean"))
    assert texts(rtisms_sandbox) == ["load failed", "clean failed"]


@pytest.mark.parametrize("charset", [None, 1])
def test_half_a_surrogate_pair_in_the_text_is_replaced(
    rtisms_sandbox: Sandbox, logged: Callable[[], str], charset: int | None
) -> None:
    """What an operating system gave as bytes that are no UTF-8 stands as such characters in a str."""
    broken = context(b"load\xff\xfe".decode("utf-8", "surrogateescape"))
    notifier(charset=charset)(broken)
    assert texts(rtisms_sandbox) == ["load?? failed"]


def test_variables_that_cannot_be_used_let_the_alert_out(
    rtisms_sandbox: Sandbox, quick_writes: None, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is no task, and its database has no tables."""
    monkeypatch.setattr(settings, "Session", scoped_session(sessionmaker(create_engine("sqlite://"))))
    calm()(context())
    calm()(context())
    assert texts(rtisms_sandbox) == ["load failed"] * 2
    assert "which limits alerts, cannot be used, so this alert is sent" in logged()


def test_a_callback_in_an_executor_does_not_use_variables(
    rtisms_sandbox: Sandbox, variables: Memory, logged: Callable[[], str]
) -> None:
    """Airflow 3.2 and later run a SyncCallback there, with the context of a deadline alert."""
    calm(text="late", dedup_key="late").notify({"dag_run": {}, "deadline": {}})
    assert texts(rtisms_sandbox) == ["late"]
    assert variables == {}
    assert "A callback in an executor cannot use Variables" in logged()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"dedup_key": "load"}, "need each other"),
        ({"at_most_every": 60}, "need each other"),
        ({"only_after": 10}, "only_after counts the alerts of a dedup_key within at_most_every"),
        ({"dedup_key": "load", "at_most_every": 0, "only_after": 10}, "only_after counts the alerts"),
        ({"dedup_key": "load", "at_most_every": 60, "only_after": 0}, "only_after is a value of type int"),
        ({"dedup_key": "load", "at_most_every": "1h"}, "at_most_every is a str of 2 characters: use seconds"),
        *(({"dedup_key": "load", "at_most_every": one}, "use seconds") for one in (True, timedelta(-1), float("nan"))),
        ({"dedup_key": "load", "at_most_every": timedelta(days=31)}, "30 days"),
    ],
)
def test_the_arguments_are_checked_when_the_dag_is_parsed(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(RtiSmsInputError, match=reason):
        notifier(**arguments)
