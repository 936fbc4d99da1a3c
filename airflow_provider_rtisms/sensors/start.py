"""
Waits that begin in the triggerer: which arguments of a sensor can go there without a worker, and in which form.

Airflow's scheduler defers such a task by itself, with ``start_trigger_args`` of the DAG. From 3.3 on, the triggerer
renders templates in them. The values that an upstream task returns, and those that ``expand`` maps over, become
templates here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from inspect import signature
from typing import Any

from airflow.providers.common.compat.sdk import conf
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

#: The class of the trigger; importing it here would load HTTP libraries.
TRIGGER = "airflow_provider_rtisms.triggers.start.RtiSmsDeliveryStartTrigger"
#: Arguments that the sensor and the trigger have in the same form.
UNTEMPLATED = ("fail_on", "min_delivered", "missing_ok_for", "poke_interval")
_TEMPLATE_MARKS = ("{{", "{%", "{#")


class CannotStartInTriggererError(Exception):
    """A wait cannot begin in the triggerer; the message says why."""


def start_trigger_args(arguments: Mapping[str, Any], *, execution_timeout: timedelta | None, is_in_group: bool) -> Any:
    """
    Return what Airflow's scheduler needs to defer a task.

    :param arguments: of the trigger, as they stand in the DAG.
    :param execution_timeout: of the task.
    :param is_in_group: whether the task is in a mapped task group.
    :return: ``StartTriggerArgs``.
    :raises CannotStartInTriggererError: it is not possible.
    """
    if not AIRFLOW_V_3_3_PLUS:
        raise CannotStartInTriggererError("it needs Airflow 3.3 or later")
    if is_in_group:
        raise CannotStartInTriggererError("the task is in a mapped task group")
    from airflow.triggers.base import StartTriggerArgs

    kwargs = {name: to_trigger_argument(name, value) for name, value in arguments.items()}
    timeout: float = kwargs["timeout"]
    if execution_timeout is not None and execution_timeout.total_seconds() <= timeout:
        kwargs["timeout"] = execution_timeout.total_seconds()  # Airflow ends the deferral then
        kwargs["is_execution_timeout"] = True
    return StartTriggerArgs(
        trigger_cls=TRIGGER, next_method="execute_complete", trigger_kwargs=kwargs, timeout=timedelta(seconds=timeout)
    )


def to_trigger_argument(name: str, value: Any) -> Any:
    """
    Return an argument in a form that the trigger gets as JSON.

    :param name: of the argument, for the error.
    :param value: as it stands in the DAG.
    :raises CannotStartInTriggererError: only a worker can resolve the value.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if (pull := _pull_of(value)) is not None:
        return _render_ids(pull)
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        raise CannotStartInTriggererError(
            f"{name} is a value of type {type(value).__name__}, which only a worker can resolve"
        ) from None
    if "xcom_pull" in text and "map_indexes" not in text:
        raise CannotStartInTriggererError(f"the template of {name} has an xcom_pull without map_indexes=None")
    if name == "submission_ids" and isinstance(value, list | tuple) and not any(m in text for m in _TEMPLATE_MARKS):
        return text  # one string, since the triggerer renders each string by itself
    return json.loads(text)


def to_mapped_template(values: Any) -> str:
    """
    Return a template that gives each mapped task its ids.

    :param values: what ``expand(submission_ids=...)`` maps over.
    :raises CannotStartInTriggererError: only a worker can resolve the values.
    """
    if (pull := _pull_of(values)) is not None:
        return _render_ids(f"{pull}[ti.map_index]")
    text = to_trigger_argument("submission_ids", values)
    if not isinstance(values, list) or not isinstance(text, str):
        raise CannotStartInTriggererError("submission_ids is not mapped over a list without templates")
    return _render_ids("task.expand_input.value['submission_ids'][ti.map_index]")


def startable(partial: Any) -> Any:
    """
    Return the result of ``partial()`` with an ``expand`` whose tasks begin in the triggerer, where that is possible.

    :param partial: an ``OperatorPartial`` of Airflow 3.3 or later.
    """
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    class StartablePartial(OperatorPartial):
        def expand(self, **mapped_kwargs: Any) -> Any:
            return _set_start(super().expand(**mapped_kwargs), mapped_kwargs)

        def expand_kwargs(self, *args: Any, **kwargs: Any) -> Any:
            return _set_start(super().expand_kwargs(*args, **kwargs), {})

    partial._expand_called = True  # or it warns that the task was never mapped
    return StartablePartial(operator_class=partial.operator_class, kwargs=partial.kwargs, params=partial.params)


def _set_start(task: Any, mapped_kwargs: Mapping[str, Any]) -> Any:
    """Let mapped tasks begin in the triggerer if they can, and return the mapped operator."""
    dag_defaults = task.dag.default_args if task.dag else {}
    group_defaults = task.task_group.default_args if task.task_group else {}
    given = {**_defaults_of(task.operator_class), **dag_defaults, **group_defaults, **task.partial_kwargs}
    task.start_from_trigger = False
    if set(mapped_kwargs) != {"submission_ids"} or not given["deferrable"]:
        return task
    timeout = given["timeout"]
    if timeout is None:
        timeout = conf.getfloat("sensors", "default_timeout")
    longest = given["max_wait"] or timeout
    try:
        arguments = {
            "submission_ids": to_mapped_template(mapped_kwargs["submission_ids"]),
            **{name: given[name] for name in UNTEMPLATED},
            "rtisms_conn_id": given["rtisms_conn_id"],
            "max_poke_interval": longest if given["exponential_backoff"] else None,
            "timeout": timeout,
        }
        task.start_trigger_args = start_trigger_args(
            arguments,
            execution_timeout=task.execution_timeout,
            is_in_group=task.get_closest_mapped_task_group() is not None,
        )
        task.start_from_trigger = True
    except CannotStartInTriggererError:
        pass  # each worker logs that it begins
    return task


def _defaults_of(sensor_class: type) -> dict[str, Any]:
    """Return the defaults of all arguments of a sensor."""
    parameters = (signature(one.__init__).parameters.items() for one in reversed(sensor_class.mro()[:-1]))  # type: ignore[misc]
    return {name: parameter.default for some in parameters for name, parameter in some}


def _pull_of(value: Any) -> str | None:
    """
    Return the expression for the output of an upstream task; None if the value is none.

    :raises CannotStartInTriggererError: it is the output of mapped tasks.
    """
    from airflow.sdk.definitions.xcom_arg import PlainXComArg

    if not isinstance(value, PlainXComArg):
        return None
    task = value.operator
    if task.is_mapped or task.get_closest_mapped_task_group() is not None:
        raise CannotStartInTriggererError(f"the task {task.task_id} is mapped")
    return f"output_of({task.task_id!r}, {value.key!r})"  # the trigger pulls it


def _render_ids(expression: str) -> str:
    """Return a template that renders ids or records as a list, or as one id."""
    return f"{{% set ids = {expression} %}}{{{{ [ids] if ids is mapping else ids }}}}"
