"""Run the doctor from the command line: ``python -m airflow_provider_rtisms.doctor --client-id ID``."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any

from airflow_provider_rtisms.api.settings import DEFAULT_BASE_URL, ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.doctor.arguments import OPTIONS
from airflow_provider_rtisms.doctor.command import run, settings_of_connection

SECRET_VARIABLE = "RTISMS_CLIENT_SECRET"  # noqa: S105  # the name of a variable

_DESCRIPTION = """\
Check whether this account, this network and the API work with airflow-provider-rtisms. Nothing is changed, and no SMS
is sent unless you ask for it. The report holds no secret, token, phone number, text or balance.
"""
_EPILOG = f"""\
The client secret comes from the environment variable {SECRET_VARIABLE}, or the doctor asks for it.
Exit status: 0 if no check failed, 1 if one did, 2 if an argument cannot be used.
"""
#: Settings that a Connection has in its extras. A proxy comes from the environment, since its URL may hold a password.
_SETTINGS: dict[str, dict[str, Any]] = {
    "ca_bundle": {"metavar": "FILE", "help": "PEM certificates to trust (default: as for requests)"},
    "allow_http": {"action": "store_true", "help": "allow plain http to a host other than this machine"},
}


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
    for flag, options in OPTIONS:
        parser.add_argument(flag, **options)
    return parser


def _settings(client_secret: Secret[str], args: argparse.Namespace) -> ApiSettings:
    return ApiSettings(
        client_id=args.client_id,
        client_secret=client_secret,
        base_url=args.base_url or DEFAULT_BASE_URL,
        **{name: getattr(args, name) for name in _SETTINGS},
    )


def _ask_for_secret(parser: argparse.ArgumentParser) -> Secret[str]:
    secret = os.environ.get(SECRET_VARIABLE)
    if secret is None:
        if not sys.stdin.isatty():
            parser.error(f"set the environment variable {SECRET_VARIABLE} to the client secret")
        secret = getpass.getpass("Client secret: ")
    return Secret(secret)


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
            parser.error("--conn-id brings the client id, the base URL and the extras; do not give them as well")
        if find_spec("airflow") is None:
            parser.error("--conn-id needs Airflow, which is not installed here; use --client-id")
        return run(partial(settings_of_connection, args.conn_id), args)
    if args.client_id is None:
        parser.error("--client-id is missing; use --conn-id instead for a Connection of Airflow")
    return run(partial(_settings, _ask_for_secret(parser), args), args)


if __name__ == "__main__":
    sys.exit(main())
