"""
Show what a send would do, and send nothing: ``python -m airflow_provider_rtisms.preview --text "Hello {name}"``.

``airflow rtisms preview`` takes the same options (Airflow 3.2 and later). With ``--dag-id`` and ``--task-id``, it is
what a task would send.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError
from airflow_provider_rtisms.api.models import printable
from airflow_provider_rtisms.api.values.arguments import plural
from airflow_provider_rtisms.api.values.text import Charset
from airflow_provider_rtisms.sending.messages import (
    PlaceholderText,
    describe_size,
    estimate,
    preview,
    read_message_file,
)
from airflow_provider_rtisms.tables import CsvFormat, read_table_file

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_provider_rtisms.operators.send import RtiSmsSendOperator

#: The options, for both commands.
OPTIONS: dict[str, dict[str, Any]] = {
    "--text": {"help": "the text; with --rows, {column} in it stands for a value of each row"},
    "--rows": {"metavar": "FILE", "help": "a .csv or .jsonl file (.gz may follow) whose columns the text names"},
    "--messages": {"metavar": "FILE", "help": "instead of these two, a file as messages_path takes it"},
    "--csv-delimiter": {"metavar": "C", "help": "what separates the fields of a CSV (default: what it says itself)"},
    "--csv-encoding": {"metavar": "NAME", "help": "encoding of a CSV, such as cp1252 or utf-16 (default: utf-8)"},
    "--default-region": {"metavar": "CL", "help": "with --messages: the country of phone numbers without +"},
    "--smart-encoding": {"action": "store_true", "help": "replace typographic characters where that saves a part"},
    "--charset": {"type": int, "help": "0, 1, 6 or 8 of the API (default: picked by each text)"},
    "--max-parts": {"type": int, "metavar": "N", "help": "most parts that one SMS may take"},
    "--dag-id": {"metavar": "DAG", "help": "instead of all these, the DAG of a task that sends"},
    "--task-id": {"metavar": "TASK", "help": "that task, an RtiSmsSendOperator or SqlToRtiSmsOperator"},
    "--price": {"help": "of one part, to estimate the cost"},
    "--samples": {"type": int, "metavar": "N", "default": 3, "help": "how many texts to show (default: 3)"},
}


def show(options: Namespace) -> str:
    """
    Return the preview as a person reads it.

    :param options: of the command line, see :data:`OPTIONS`.
    :raises RtiSmsInputError: an option is malformed, or a row cannot be sent.
    :raises RtiSmsStorageError: a file cannot be read.
    """
    if options.dag_id is not None or options.task_id is not None:
        found = _preview_task(options)
    elif options.messages is not None and options.rows is not None:
        raise RtiSmsInputError("Give either --messages, or --text and maybe --rows.")
    else:
        csv_format = CsvFormat(options.csv_delimiter, options.csv_encoding)
        if options.messages is None and options.rows is None:
            csv_format.check_unused("--rows and --messages")
        found = preview(
            text=options.text,
            rows=None if options.rows is None else _rows(options.rows, options.text, csv_format),
            message_rows=None if options.messages is None else read_message_file(options.messages, csv_format),
            charset=options.charset,
            max_parts=options.max_parts,
            samples=options.samples,
            default_region=options.default_region,
            smart_encoding=options.smart_encoding,
        )
        if options.price is not None:
            found["cost"] = estimate(found["parts_total"], options.price)
    return "\n".join(map(printable, _lines(found)))


def _preview_task(options: Namespace) -> dict[str, Any]:
    others = ("text", "rows", "messages", "csv_delimiter", "csv_encoding", "default_region", "charset", "max_parts")
    from airflow_provider_rtisms.compat import AirflowException
    from airflow_provider_rtisms.hooks.connection import export_connection

    if options.dag_id is None or options.task_id is None or any(getattr(options, one) is not None for one in others):
        raise RtiSmsInputError(
            "Give --dag-id and --task-id together, and none of the options that the task has itself."
        )
    task = _load_task(options.dag_id, options.task_id)
    _render(task)
    task.price = task.price if options.price is None else options.price
    try:
        for name in ("rtisms_conn_id", "sql_conn_id", "exclude_conn_id"):
            if (conn_id := getattr(task, name, None)) is not None:
                export_connection(conn_id)
        return task.preview(options.samples)
    except AirflowException as error:
        raise RtiSmsInputError(str(error)) from None


def _load_task(dag_id: str, task_id: str) -> RtiSmsSendOperator:
    """Return a task of a DAG file. Nothing is written to Airflow's database."""
    from airflow_provider_rtisms.operators.send import RtiSmsSendOperator

    dag = next((one for bag in _dag_bags() if (one := bag.dags.get(dag_id)) is not None), None)
    if dag is None:
        raise RtiSmsInputError(
            f"There is no DAG {dag_id}, or its file cannot be parsed: see airflow dags list-import-errors."
        )
    if not dag.has_task(task_id):
        raise RtiSmsInputError(f"The DAG {dag_id} has no task {task_id}.")
    task = dag.get_task(task_id)
    if not isinstance(task, RtiSmsSendOperator):
        raise RtiSmsInputError(
            f"The task {task_id} is {type(task).__name__}: name an RtiSmsSendOperator or SqlToRtiSmsOperator, and no "
            "mapped one."
        )
    return task


def _dag_bags() -> Iterator[Any]:
    """Parse the DAG files one bundle after the other."""
    from airflow.models import DagBag

    try:
        from airflow.dag_processing.bundles.manager import DagBundlesManager
    except ImportError:  # Airflow 2
        yield DagBag()
        return
    for bundle in DagBundlesManager().get_all_dag_bundles():  # type: ignore[no-untyped-call,unused-ignore]
        bundle.initialize()
        yield DagBag(dag_folder=bundle.path, bundle_path=bundle.path)


def _render(task: RtiSmsSendOperator) -> None:
    """Render the template fields of a task with what is known outside of a DAG run."""
    import pendulum
    from jinja2 import UndefinedError

    now = pendulum.now("UTC")
    context: Any = {
        "dag": task.dag,
        "task": task,
        "params": dict(task.params),
        "run_id": "preview",
        "ds": now.to_date_string(),
        "ds_nodash": now.format("YYYYMMDD"),
        "ts": now.isoformat(),
        **dict.fromkeys(("logical_date", "data_interval_start", "data_interval_end"), now),
        "macros": import_module("airflow.macros"),
        "var": SimpleNamespace(value=_Variables(), json=_Variables(deserialize_json=True)),
    }
    environment = task.get_template_env()
    for name in task.template_fields:
        try:
            setattr(task, name, task.render_template(getattr(task, name), context, environment))
        except Exception as error:
            if name in ("output_path", "results_table", "results_conn_id"):  # which a preview does not need
                continue
            why = str(error) if isinstance(error, UndefinedError) else type(error).__name__
            raise RtiSmsInputError(
                f"The field {name} of the task needs what only a run of its DAG has ({why}). Let the task run with "
                "dry_run=True instead."
            ) from None


class _Variables:
    """The Variables of Airflow, as templates name them."""

    def __init__(self, **how: Any) -> None:
        self._how = how

    def __getattr__(self, name: str) -> Any:
        from airflow.models import Variable  # that of the SDK asks the API of a run

        return Variable.get(name, **self._how)  # noqa: AIR311


def _rows(path: str, text: Any, csv_format: CsvFormat) -> Iterator[Mapping[str, Any]]:
    columns = PlaceholderText(text).columns
    for row in read_table_file(path, "--rows", lambda _: columns, csv_format):
        if row.problem is not None:
            raise RtiSmsInputError(f"{row.position} of --rows {row.problem}.")
        yield row.values.get_secret_value()


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield describe_size(found["messages"], found["parts_total"], found["max_parts"])
    for charset, count in found["charsets"].items():
        yield f"charset {charset} ({Charset(charset).label}): {plural(count, 'message')}"
    for character, count in found["forces_ucs2"].items():
        yield f"{character} is not in GSM 7-bit: {plural(count, 'message')}"
    if "excluded" in found:
        yield f"excluded: {plural(found['excluded'], 'message')}"
    if found.get("cost") is not None:
        yield f"cost: {found['cost']}"
    if "completed" in found:
        yield f"phone numbers without + that are completed: {found['completed']}"
    if "replaced" in found:
        yield f"parts that smart encoding saves: {found['parts_saved']}"
    for character, count in found.get("replaced", {}).items():
        yield f"{character} is replaced: {plural(count, 'message')}"
    for number, sample in enumerate(found["samples"], 1):
        size = f"{plural(sample['characters'], 'character')}, {plural(sample['parts'], 'part')}, "
        size += f"charset {sample['charset']}"
        yield f"message {number}: {size}: {json.dumps(sample['text'], ensure_ascii=False)}"


def main(arguments: list[str] | None = None) -> int:
    """
    Run the command line.

    :param arguments: default those of the process.
    :return: the exit status.
    """
    return run_command("preview", "Show what a send would do", OPTIONS, show, arguments)


def run_command(
    name: str,
    what: str,
    options: Mapping[str, dict[str, Any]],
    show: Callable[[Namespace], str],
    arguments: list[str] | None,
    errors: tuple[type[Exception], ...] = (RtiSmsError,),
) -> int:
    """Run the command line of a module that sends nothing: print what a function makes of the options, or its error."""
    parser = argparse.ArgumentParser(
        prog=f"python -m airflow_provider_rtisms.{name}",
        description=f"{what}. Nothing is sent, and nothing is asked of the API.",
        allow_abbrev=False,
    )
    for flag, option in options.items():
        parser.add_argument(flag, **option)
    try:
        print(show(parser.parse_args(arguments)))
    except errors as error:
        print(printable(str(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
