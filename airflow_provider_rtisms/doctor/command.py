"""
The command line of the doctor: ``python -m airflow_provider_rtisms.doctor --client-id ID``, and ``airflow rtisms
doctor``. Airflow reads the options for every command of its own, so importing this module loads nothing heavy.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import platform
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import Any

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsInputError
from airflow_provider_rtisms.api.models import printable
from airflow_provider_rtisms.api.settings import DEFAULT_BASE_URL, ApiSettings
from airflow_provider_rtisms.api.values.recipients import parse_recipients
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.doctor.report import DEFAULT_FOLLOW_FOR, DEFAULT_TIMEOUT, CheckResult


def _seconds(meaning: str, default: float) -> dict[str, Any]:
    return {"help": f"{meaning} (default: {default:g})", "default": default, "type": float, "metavar": "SECONDS"}


SECRET_VARIABLE = "RTISMS_CLIENT_SECRET"  # noqa: S105  # the name of a variable

#: Flags and the keyword arguments that argparse and Airflow's ``Arg`` both take.
OPTIONS: dict[str, dict[str, Any]] = {
    "--json": {"help": "print the report as JSON", "action": "store_true"},
    "--timeout": _seconds("seconds for one request and its response", DEFAULT_TIMEOUT),
    "--submission-id": {"help": "one of your submissions: compare its details with the documentation", "metavar": "ID"},
    "--probe-credentials": {"help": "authenticate once with a wrong secret; it may count", "action": "store_true"},
    "--send-to": {"help": "send one SMS to this number, which costs money, and follow it", "metavar": "NUMBER"},
    "--sender": {"help": "the sender of that SMS", "metavar": "SENDER"},
    "--yes": {"help": "do not ask before sending", "action": "store_true"},
    "--follow-for": _seconds("most seconds to wait until that SMS is final", DEFAULT_FOLLOW_FOR),
}
#: Settings that a Connection has in its extras. A proxy comes from the environment, since its URL may hold a password.
_SETTINGS: dict[str, dict[str, Any]] = {
    "ca_bundle": {"metavar": "FILE", "help": "PEM certificates to trust (default: as for requests)"},
    "allow_http": {"action": "store_true", "help": "allow plain http to a host other than this machine"},
}
_DESCRIPTION = """\
Check whether this account, this network and the API work with airflow-provider-rtisms. Nothing is changed, and no SMS
is sent unless you ask for it. The report holds no secret, token, phone number, text or balance.
"""
_EPILOG = f"""\
The client secret comes from the environment variable {SECRET_VARIABLE}, or the doctor asks for it.
Exit status: 0 if no check failed, 1 if one did, 2 if an argument cannot be used.
RealTime documents the API at https://developers.real-time.cl.
"""


def main(arguments: list[str] | None = None) -> int:
    """
    Run the command line.

    :param arguments: the arguments; those of the process by default.
    :return: the exit status.
    :raises SystemExit: an argument is missing or malformed.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.conn_id is not None:
        if any(getattr(args, name) for name in ("client_id", "base_url", *_SETTINGS)):
            parser.error("--conn-id brings the client id, the base URL and the extra; do not give them as well")
        if find_spec("airflow") is None:
            parser.error("--conn-id needs Airflow, which is not installed here; use --client-id")
        return run(partial(settings_of_connection, args.conn_id), args)
    if args.client_id is None:
        parser.error("--client-id is missing; use --conn-id instead for a Connection of Airflow")
    return run(partial(_settings, _ask_for_secret(parser), args), args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_rtisms.doctor",
        usage="%(prog)s (--client-id ID [--base-url URL] | --conn-id ID) [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--client-id", metavar="ID", help="the client id of the API")
    parser.add_argument("--base-url", metavar="URL", help=f"where the API is (default: {DEFAULT_BASE_URL})")
    for name, options in _SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    parser.add_argument("--conn-id", metavar="ID", help="a Connection, where Airflow is installed")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every check, and what it expects")
    for flag, options in OPTIONS.items():
        parser.add_argument(flag, **options)
    return parser


def _settings(client_secret: Secret[str], args: argparse.Namespace) -> ApiSettings:
    extras = {name: getattr(args, name) for name in _SETTINGS}
    base_url = args.base_url or DEFAULT_BASE_URL
    return ApiSettings(client_id=args.client_id, client_secret=client_secret, base_url=base_url, **extras)


def _ask_for_secret(parser: argparse.ArgumentParser) -> Secret[str]:
    secret = os.environ.get(SECRET_VARIABLE)
    if secret is None and not sys.stdin.isatty():
        parser.error(f"set the environment variable {SECRET_VARIABLE} to the client secret")
    return Secret(getpass.getpass("Client secret: ") if secret is None else secret)


def settings_of_connection(conn_id: str) -> ApiSettings:
    """
    Read a Connection as a shell can: from the environment, the secrets backend or the database.

    :param conn_id: which Connection.
    :raises RtiSmsConfigError: there is no such Connection, or one of its fields is missing or malformed.
    """
    with contextlib.redirect_stdout(sys.stderr):  # Airflow logs there, and the report may be JSON
        from airflow.models.connection import Connection

        from airflow_provider_rtisms.compat import AirflowException
        from airflow_provider_rtisms.hooks.connection import reading_connection, settings_from_connection

        try:
            with reading_connection(conn_id):
                connection = Connection.get_connection_from_secrets(conn_id)
            return settings_from_connection(connection)
        except RtiSmsConfigError:
            raise
        except AirflowException as error:
            raise RtiSmsConfigError(str(error)) from None


def run(load: Callable[[], ApiSettings], args: argparse.Namespace) -> int:
    """
    Run the checks, and print the report: each result as soon as it is there, or one JSON document at the end.

    :param load: returns the settings.
    :param args: the values of :data:`OPTIONS`, ``verbose`` and ``conn_id``.
    :return: the exit status: 0 if no check failed, 1 if one did, 2 if an argument cannot be used.
    """
    from airflow_provider_rtisms.doctor.checks import diagnose

    def show(result: CheckResult) -> None:
        line = result.to_text() if args.verbose else result.to_line()
        if line and not args.json:
            print(line, flush=True)

    try:
        if args.send_to is not None and not args.yes and not _confirm(args.send_to):
            print("Nothing was checked, and no SMS was sent.", file=sys.stderr)
            return 2
        if args.verbose and not args.json:
            print(f"{_versions()}\n", flush=True)
        names = ("timeout", "submission_id", "probe_credentials", "send_to", "sender", "follow_for", "conn_id")
        report = diagnose(load, on_result=show, **{name: getattr(args, name) for name in names})
    except RtiSmsInputError as error:
        print(f"{printable(str(error))} Nothing was checked.", file=sys.stderr)
        return 2
    end = report.to_json() if args.json else f"\n{report.summary()}" if args.verbose else report.last_line()
    print(end, end="\n" if end else "")
    return report.exit_status


def _versions() -> str:
    import requests

    openssl = ssl.OPENSSL_VERSION.split(" ")[1]
    versions = f"Python {platform.python_version()}, requests {requests.__version__}, OpenSSL {openssl}"
    return f"airflow-provider-rtisms {__version__}, {versions}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def _confirm(number: str) -> bool:
    recipient = parse_recipients([number])[0]
    if not sys.stdin.isatty():
        raise RtiSmsInputError("--send-to sends an SMS, which costs money: add --yes where nobody can be asked.")
    question = f"This sends one SMS to {recipient}, which costs money. Continue? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
