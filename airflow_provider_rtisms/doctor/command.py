"""The command line of the doctor, the same for ``python -m`` and for ``airflow rtisms doctor``."""

from __future__ import annotations

import argparse
import contextlib
import platform
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import requests

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsInputError
from airflow_provider_rtisms.api.models import printable
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.recipients import parse_recipients
from airflow_provider_rtisms.doctor.runner import diagnose


def run(load: Callable[[], ApiSettings], args: argparse.Namespace) -> int:
    """
    Run the checks, and print the report: each result as soon as it is there, or one JSON document at the end.

    :param load: returns the settings.
    :param args: the values of :data:`~airflow_provider_rtisms.doctor.arguments.OPTIONS`.
    :return: the exit status: 0 if no check failed, 1 if one did, 2 if an argument cannot be used.
    """
    try:
        if args.send_to is not None and not args.yes and not _confirm(args.send_to):
            print("Nothing was checked, and no SMS was sent.", file=sys.stderr)
            return 2
        if not args.json:
            print(f"{_versions()}\n", flush=True)
        report = diagnose(
            load,
            timeout=args.timeout,
            submission_id=args.submission_id,
            probe_credentials=args.probe_credentials,
            send_to=args.send_to,
            sender=args.sender,
            follow_for=args.follow_for,
            on_result=lambda result: None if args.json else print(result.to_text(), flush=True),
        )
    except RtiSmsInputError as error:
        print(f"{printable(str(error))} Nothing was checked.", file=sys.stderr)
        return 2
    print(report.to_json() if args.json else f"\n{report.summary()}")
    return report.exit_status


def _versions() -> str:
    python, openssl = platform.python_version(), ssl.OPENSSL_VERSION.partition(" ")[2].partition(" ")[0]
    return (
        f"airflow-provider-rtisms {__version__}, Python {python}, requests {requests.__version__}, OpenSSL {openssl}, "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )


def _confirm(number: str) -> bool:
    recipient = parse_recipients([number])[0]
    if not sys.stdin.isatty():
        raise RtiSmsInputError("--send-to sends an SMS, which costs money: add --yes where nobody can be asked.")
    print(
        f"This sends one SMS to {recipient}, which costs money. Continue? [y/N] ", end="", file=sys.stderr, flush=True
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def settings_of_connection(conn_id: str) -> ApiSettings:
    """
    Read a Connection as a shell can: from the environment, the secrets backend or the database.

    :param conn_id: which Connection.
    :raises RtiSmsConfigError: there is no such Connection, or one of its fields is missing or malformed.
    """
    with contextlib.redirect_stdout(sys.stderr):  # Airflow logs there, and the report may be JSON
        from airflow.models.connection import Connection
        from airflow.providers.common.compat.sdk import AirflowException

        from airflow_provider_rtisms.hooks.connection import settings_from_connection

        try:
            return settings_from_connection(Connection.get_connection_from_secrets(conn_id))
        except RtiSmsConfigError:
            raise
        except AirflowException as error:
            raise RtiSmsConfigError(str(error)) from None
