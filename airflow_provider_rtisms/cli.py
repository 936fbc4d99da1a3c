"""
``airflow rtisms``: call the API from a shell. Airflow 3.2 and later find it by the key ``cli`` of the provider's
description. Earlier versions ignore the key.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.cli.cli_config import ARG_OUTPUT, ARG_VERBOSE, ActionCommand, Arg, GroupCommand, lazy_load_command
from airflow.utils.cli import suppress_logs_and_warning

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

#: What a table shows of a record: no more than a terminal of 120 characters holds.
_COLUMNS = ("submission_id", "status", "registered_at", "done_at", "cost", "operator_name")


def _arg(flag: str, **options: Any) -> Arg:
    return Arg((flag,), **options)  # type: ignore[no-untyped-call]


_ARG_CONN_ID = _arg("--conn-id", help="the Connection (default: rtisms_default)", default="rtisms_default")
_ARG_SUBMISSION_IDS = _arg("submission_ids", nargs="*", metavar="ID", help="ids of submissions, decimal digits")
_ARG_IDS_PATH = _arg(
    "--ids-path", metavar="FILE", help="instead of ids, a file: one id a line, or a .csv or .jsonl (.gz may follow)"
)
_ARG_IDS_COLUMN = _arg(
    "--ids-column", metavar="NAME", help="the column or key of a .csv or .jsonl (default: submission_id)"
)
_IDS = (_ARG_SUBMISSION_IDS, _ARG_IDS_PATH, _ARG_IDS_COLUMN)
_ARG_TIMEOUT = _arg("--timeout", type=float, default=3600.0, metavar="SECONDS", help="how long to wait (default: 3600)")
_ARG_POKE_INTERVAL = _arg(
    "--poke-interval", type=float, default=10.0, metavar="SECONDS", help="between two polls (default: 10)"
)


def get_cli_commands() -> list[GroupCommand]:
    """Return the commands for Airflow's parser."""
    return [
        GroupCommand(
            name="rtisms",
            help="Ask the RTI SMS API",
            subcommands=(
                ActionCommand(
                    name="balance",
                    help="Show the account's balance",
                    func=lazy_load_command(f"{__name__}.balance"),
                    args=(_ARG_CONN_ID, ARG_OUTPUT, ARG_VERBOSE),
                ),
                ActionCommand(
                    name="get",
                    help="Show the details of submissions",
                    func=lazy_load_command(f"{__name__}.get"),
                    args=(*_IDS, _ARG_CONN_ID, ARG_OUTPUT, ARG_VERBOSE),
                ),
                ActionCommand(
                    name="wait",
                    help="Wait until submissions are final, and show them. Exit status 0: all are delivered",
                    func=lazy_load_command(f"{__name__}.wait"),
                    args=(*_IDS, _ARG_TIMEOUT, _ARG_POKE_INTERVAL, _ARG_CONN_ID, ARG_OUTPUT, ARG_VERBOSE),
                ),
                ActionCommand(
                    name="doctor",
                    help="Check the Connection, the network and the API, and say what to do",
                    func=lazy_load_command(f"{__name__}.doctor"),
                    args=(_ARG_CONN_ID, *_doctor_args(), ARG_VERBOSE),
                ),
                ActionCommand(
                    name="preview",
                    help="Show what a send would do, and send nothing",
                    func=lazy_load_command(f"{__name__}.preview"),
                    args=(*_preview_args(), ARG_VERBOSE),
                ),
                ActionCommand(
                    name="report",
                    help="Show what became of the messages of a table",
                    func=lazy_load_command(f"{__name__}.report"),
                    args=(*_report_args(), ARG_VERBOSE),
                ),
                ActionCommand(
                    name="sandbox",
                    help="Run a local stand-in for the API, for tests",
                    func=lazy_load_command(f"{__name__}.sandbox"),
                    args=(*_sandbox_args(), ARG_VERBOSE),
                ),
            ),
        )
    ]


@suppress_logs_and_warning
def balance(args: Namespace) -> None:
    """Print the balance."""
    with _errors_as_lines(), _hook(args) as hook:
        _show(args, [{"balance": str(hook.get_balance())}])


@suppress_logs_and_warning
def get(args: Namespace) -> None:
    """Print the records of submissions."""
    with _errors_as_lines():
        ids = _ids(args)
        with _hook(args) as hook:
            if len(ids) == 1:
                _show(args, [hook.get_sms(ids[0]).to_record()])
                return
            records: Any = hook.bulk_get_sms(ids, on_missing="skip")
        _show(args, _in_order(records, ids))
        known = {record["submission_id"] for record in records}
        if missing := [one for one in ids if one not in known]:
            from airflow_provider_rtisms.api.values.arguments import name_some

            raise SystemExit(f"Unknown to the API (HTTP 404): {name_some(missing)}. Check the ids.")


@suppress_logs_and_warning
def wait(args: Namespace) -> None:
    """Wait until submissions are final, and print their records."""
    from airflow_provider_rtisms.api.models import printable
    from airflow_provider_rtisms.api.values.arguments import check_seconds, name_some, plural
    from airflow_provider_rtisms.compat import AirflowSensorTimeout
    from airflow_provider_rtisms.hooks.connection import export_connection
    from airflow_provider_rtisms.sensors.rtisms import DeliveryPolling

    with _errors_as_lines():
        interval = check_seconds("--poke-interval", args.poke_interval)
        timeout = check_seconds("--timeout", args.timeout)
        ids = _ids(args)
        export_connection(args.conn_id)
        polling = DeliveryPolling(args.conn_id, ids, fail_on=(), missing_ok_for=60)
        late = ""
        try:
            polling.poll_until_final(interval, timeout)
        except AirflowSensorTimeout as error:
            late = str(error)
    records = polling.wait.records
    if records:
        _show(args, records)
    if late:
        raise SystemExit(late)
    if failed := [f"{one['submission_id']} {one['status']}" for one in records if one["status"] != "DELIVERED"]:
        total = plural(len(records), "submission")
        raise SystemExit(printable(f"Not delivered: {len(failed)} of {total}: {name_some(failed)}."))


@suppress_logs_and_warning
def sandbox(args: Namespace) -> None:
    """Run a sandbox until Ctrl-C."""
    from airflow_provider_rtisms.sandbox.__main__ import options, run

    names = ["faults" if flag == "--fault" else flag[2:].replace("-", "_") for flag in options()]
    try:
        run({name: getattr(args, name) for name in names if hasattr(args, name)})
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None


def _sandbox_args() -> list[Arg]:
    from airflow_provider_rtisms.sandbox.__main__ import options

    return [_arg(flag, **option) for flag, option in options().items()]


@suppress_logs_and_warning
def doctor(args: Namespace) -> None:
    """Print the report of the doctor."""
    from airflow_provider_rtisms.doctor.command import run, settings_of_connection

    raise SystemExit(run(lambda: settings_of_connection(args.conn_id), args))


def _doctor_args() -> list[Arg]:
    from airflow_provider_rtisms.doctor.command import OPTIONS

    return [Arg((flag,), **options) for flag, options in OPTIONS.items()]  # type: ignore[no-untyped-call]


@suppress_logs_and_warning
def preview(args: Namespace) -> None:
    """Print what a send would do."""
    from airflow_provider_rtisms.api.errors import RtiSmsError
    from airflow_provider_rtisms.api.models import printable
    from airflow_provider_rtisms.preview import show

    try:
        print(show(args))
    except RtiSmsError as error:
        raise SystemExit(printable(str(error))) from None


def _preview_args() -> list[Arg]:
    from airflow_provider_rtisms.preview import OPTIONS

    return [_arg(flag, **option) for flag, option in OPTIONS.items()]


@suppress_logs_and_warning
def report(args: Namespace) -> None:
    """Print what became of the messages of a table."""
    from airflow_provider_rtisms.api.errors import RtiSmsError
    from airflow_provider_rtisms.api.models import printable
    from airflow_provider_rtisms.compat import AirflowException
    from airflow_provider_rtisms.report import show

    try:
        print(show(args))
    except (RtiSmsError, AirflowException) as error:
        raise SystemExit(printable(str(error))) from None


def _report_args() -> list[Arg]:
    from airflow_provider_rtisms.report import OPTIONS

    return [_arg(flag, **option) for flag, option in OPTIONS.items()]


@contextmanager
def _errors_as_lines() -> Iterator[None]:
    """End the command with one line for an error."""
    from airflow_provider_rtisms.api.errors import RtiSmsError
    from airflow_provider_rtisms.api.models import printable
    from airflow_provider_rtisms.compat import AirflowException

    try:
        yield
    except (RtiSmsError, AirflowException) as error:
        raise SystemExit(printable(str(error))) from None


def _hook(args: Namespace) -> RtiSmsHook:
    from airflow_provider_rtisms.hooks.connection import export_connection
    from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

    export_connection(args.conn_id)
    return RtiSmsHook(args.conn_id)


def _ids(args: Namespace) -> list[str]:
    """Return the ids that the command names, each once."""
    from airflow_provider_rtisms.api.errors import RtiSmsInputError
    from airflow_provider_rtisms.api.values.arguments import check_submission_id
    from airflow_provider_rtisms.tables import CsvFormat, read_id_file

    if bool(args.submission_ids) == (args.ids_path is not None):
        raise RtiSmsInputError("Give ids, or a file of ids with --ids-path.")
    if args.ids_path is None:
        ids = [check_submission_id(one, f"ID {number}") for number, one in enumerate(args.submission_ids, 1)]
        return list(dict.fromkeys(ids))
    is_table = args.ids_path.removesuffix(".gz").endswith((".csv", ".jsonl"))
    column = args.ids_column or ("submission_id" if is_table else None)
    return list(dict.fromkeys(read_id_file(args.ids_path, column, CsvFormat(None, None))))


def _in_order(records: list[dict[str, Any]], ids: list[str]) -> list[dict[str, Any]]:
    by_id = {record["submission_id"]: record for record in records}
    return [by_id[one] for one in ids if one in by_id]


def _show(args: Namespace, records: list[dict[str, Any]]) -> None:
    from airflow.cli.simple_table import AirflowConsole
    from rich.markup import escape

    console: Any = AirflowConsole()
    if args.output == "json":  # print_as makes each value a str
        console.print_as_json(records)
    elif args.output == "yaml":
        console.print_as_yaml(records)
    elif args.output == "table":  # the other forms show "[red]" as it is
        shown = [{name: one[name] for name in _COLUMNS if name in one} or one for one in records]
        console.print_as([{name: escape(str(value)) for name, value in one.items()} for one in shown], args.output)
    else:
        console.print_as(records, args.output)
