"""What all operators, transfers, sensors and the notifier promise alike: templates, Airflow's own arguments, limits."""

from __future__ import annotations

import re
import sys
import traceback
from importlib import import_module
from inspect import signature
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException
from pygments.lexers import get_lexer_by_name

from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.hooks.templates import Redacted
from airflow_provider_rtisms.notifications.rtisms import RtiSmsNotifier
from airflow_provider_rtisms.operators.rtisms import (
    RtiSmsBulkGetDetailsOperator,
    RtiSmsGetBalanceOperator,
    RtiSmsGetDetailsOperator,
    RtiSmsSendOperator,
)
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor, RtiSmsDeliverySensor
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator

Arguments = dict[str, Any]
TASKS: list[tuple[type[Any], Arguments]] = [
    (RtiSmsGetDetailsOperator, {"submission_id": "1"}),
    (RtiSmsBulkGetDetailsOperator, {"submission_ids": ["1"]}),
    (RtiSmsGetBalanceOperator, {}),
    (RtiSmsSendOperator, {"recipients": "+56900000100", "text": "hola"}),
    (RtiSmsDeliverySensor, {"submission_ids": ["1"]}),
    (RtiSmsBalanceSensor, {"minimum": 1}),
    (SqlToRtiSmsOperator, {"sql": "SELECT 1", "sql_conn_id": "db", "recipient_column": "phone", "text": "hola"}),
]
#: What Airflow must not store, since it holds numbers or texts.
CONFIDENTIAL = {RtiSmsSendOperator: {"recipients", "text", "messages"}, SqlToRtiSmsOperator: {"text", "parameters"}}
NAMED = pytest.mark.parametrize(("kind", "arguments"), TASKS, ids=[kind.__name__ for kind, _ in TASKS])


def templated(kind: type[Any]) -> set[str]:
    """Return the arguments of which the reference says that they are templated."""
    names = set(re.findall(r":param (\w+): \(templated\)", kind.__doc__ or ""))
    if kind is SqlToRtiSmsOperator:  # the query replaces the messages
        names |= templated(RtiSmsSendOperator) - {"recipients", "messages", "messages_path"}
    return names


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [*((kind, {"task_id": "task", **arguments}) for kind, arguments in TASKS), (RtiSmsNotifier, TASKS[3][1])],
)
def test_airflow_renders_what_the_reference_calls_templated(kind: type[Any], arguments: Arguments) -> None:
    task = kind(**arguments)
    names = templated(kind)
    for name in names:
        setattr(task, name, f"{{{{ word }}}} of {name}")
    task.render_template_fields({"word": "that", "dag": DAG("dag", schedule=None)})
    rendered = {name: getattr(task, name) for name in names}
    plain = {name: one.get_secret_value() if isinstance(one, Secret) else one for name, one in rendered.items()}
    assert plain == {name: f"that of {name}" for name in names}
    assert set(kind.template_fields) == names
    assert {name for name, one in rendered.items() if isinstance(one, Redacted)} == CONFIDENTIAL.get(kind, set())


@NAMED
def test_a_permanent_error_is_shown_once(rtisms_sandbox: Sandbox, kind: type[Any], arguments: Arguments) -> None:
    """Airflow shows the chain of an exception, and its UI cuts long lines."""
    rtisms_sandbox.rotate_secret("another")
    sender = {"sender": "96000"} if issubclass(kind, RtiSmsSendOperator) else {}
    with pytest.raises(AirflowFailException) as caught:
        kind(task_id="task", **arguments, **sender).execute({})
    assert re.search("HTTP 401|no Connection 'db'", str(caught.value)[:100])
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback") == 1
    assert shown.count("File ") <= 6


def test_airflow_shows_a_query_as_sql() -> None:
    ((name, language),) = SqlToRtiSmsOperator.template_fields_renderers.items()
    assert name in SqlToRtiSmsOperator.template_fields
    assert get_lexer_by_name(language).name == "SQL"


def test_a_wait_after_a_send_is_like_that_of_the_sensor() -> None:
    sensor = RtiSmsDeliverySensor(task_id="wait", submission_ids=["1"])
    operator = RtiSmsSendOperator(task_id="send")
    for name in ("fail_on", "missing_ok_for", "poke_interval", "timeout", "deferrable"):
        assert getattr(operator, name) == getattr(sensor, name), name
    assert (sensor.missing_ok_for, set(sensor.fail_on)) == (60, {"REJECTED", "UNDELIVERED", "EXPIRED"})


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize(
    ("room", "module", "kind"), [("operators", "send", "RtiSmsSendOperator"), ("sensors", "rtisms", "DeferrableSensor")]
)
def test_airflows_option_decides_what_defers(
    monkeypatch: pytest.MonkeyPatch, room: str, module: str, kind: str, default: bool
) -> None:
    """``[operators] default_deferrable`` is read when the class is made, so the module is imported again."""
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", str(default))
    package = import_module(f"airflow_provider_rtisms.{room}")
    monkeypatch.setattr(package, module, getattr(package, module))  # puts the old one back at the end
    monkeypatch.delitem(sys.modules, f"{package.__name__}.{module}")
    made = getattr(import_module(f"{package.__name__}.{module}"), kind)
    assert signature(made.__init__).parameters["deferrable"].default is default
