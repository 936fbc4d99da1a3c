"""
``airflow rtisms``: call the API from a shell. Airflow 3.2 and later find it by the key ``cli`` of the provider's
description. Earlier versions ignore the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from airflow.cli.cli_config import ARG_OUTPUT, ARG_VERBOSE, ActionCommand, Arg, GroupCommand, lazy_load_command
from airflow.utils.cli import suppress_logs_and_warning

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from airflow_provider_rtisms.api.calls import Call

T = TypeVar("T")

_ARG_CONN_ID = Arg(  # type: ignore[no-untyped-call]
    ("--conn-id",), help="the Connection (default: rtisms_default)", default="rtisms_default"
)
_ARG_SUBMISSION_ID = Arg(  # type: ignore[no-untyped-call]
    ("submission_id",), help="the submission's id, decimal digits"
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
                    help="Show the details of one submission",
                    func=lazy_load_command(f"{__name__}.get"),
                    args=(_ARG_SUBMISSION_ID, _ARG_CONN_ID, ARG_OUTPUT, ARG_VERBOSE),
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
            ),
        )
    ]


@suppress_logs_and_warning
def balance(args: Namespace) -> None:
    """Print the balance."""
    from airflow_provider_rtisms.api import calls as endpoints

    _show(args, {"balance": str(_ask(args, endpoints.get_balance))})


@suppress_logs_and_warning
def get(args: Namespace) -> None:
    """Print the record of one submission."""
    from airflow_provider_rtisms.api import calls as endpoints

    _show(args, _ask(args, lambda: endpoints.get_sms(args.submission_id)).to_record())


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

    return [Arg((flag,), **option) for flag, option in OPTIONS.items()]  # type: ignore[no-untyped-call]


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

    return [Arg((flag,), **option) for flag, option in OPTIONS.items()]  # type: ignore[no-untyped-call]


def _ask(args: Namespace, make_call: Callable[[], Call[T]]) -> T:
    from airflow.models.connection import Connection

    from airflow_provider_rtisms.api.client import RtiSmsClient
    from airflow_provider_rtisms.api.errors import RtiSmsError
    from airflow_provider_rtisms.api.models import printable
    from airflow_provider_rtisms.compat import AirflowException
    from airflow_provider_rtisms.hooks.connection import settings_from_connection

    try:
        # A hook asks the execution API for its Connection; a shell has the database instead.
        connection = Connection.get_connection_from_secrets(args.conn_id)
        with RtiSmsClient(settings_from_connection(connection)) as client:
            return client.perform(make_call())
    except (RtiSmsError, AirflowException) as error:
        raise SystemExit(printable(str(error))) from None


def _show(args: Namespace, record: dict[str, Any]) -> None:
    from airflow.cli.simple_table import AirflowConsole
    from rich.markup import escape

    if args.output == "table":  # the other forms show "[red]" as it is
        record = {name: escape(str(value)) for name, value in record.items()}
    AirflowConsole().print_as(data=[record], output=args.output)
