"""Run a sandbox from the command line: ``python -m airflow_provider_rtisms.sandbox --port 0``."""

from __future__ import annotations

import argparse
import asyncio
import signal
from dataclasses import fields
from typing import Any

from airflow_provider_rtisms.sandbox.settings import KINDS, Fault, Settings
from airflow_provider_rtisms.sandbox.state import (
    EXAMPLE_ID,
    FIRST_SEEDED_ID,
    MAGIC_ID_PREFIX,
    MAGIC_NUMBERS,
    REFUSED_SENDER,
)


def _table(rows: dict[str, str]) -> str:
    return "\n".join(f"  {name:<13} {meaning}" for name, meaning in rows.items())


_EPILOG = f"""\
magic numbers: the last three digits of the recipient decide what happens to a message
{_table({f"...{digits}": number.meaning for digits, number in MAGIC_NUMBERS.items()})}
  any other     DELIVERED

the sender {REFUSED_SENDER!r} is refused with HTTP 406, as is one that is not 1 to 11 letters and digits

submissions that exist from the start:
  {EXAMPLE_ID}  the example of the vendor's reference, DELIVERED
  {MAGIC_ID_PREFIX}NNN  one for each magic number that is accepted at once; 000 is DELIVERED
  {FIRST_SEEDED_ID}  and up: as many as --seed says, DELIVERED

faults are written KIND or KIND:NAME=VALUE,...
{_table(KINDS)}
  every kind takes probability=0..1, times=N (then it stops), path=auth|sms|balance and method=;
  latency and late_response take seconds=, rate_limit takes per_second=, error and rate_limit take retry_after=,
  error takes statuses=500/503, interim takes statuses=102/103

examples:
  python -m airflow_provider_rtisms.sandbox --port 8099
  python -m airflow_provider_rtisms.sandbox --seed 1000000 --fault latency:seconds=0.08
  python -m airflow_provider_rtisms.sandbox --fault error:times=3 --fault rate_limit:per_second=9
"""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and keep the lines of the tables."""


def options() -> dict[str, dict[str, Any]]:
    """Return the options by their flags, for ``airflow rtisms sandbox`` too."""
    found: dict[str, dict[str, Any]] = {
        "--host": {"default": "127.0.0.1", "help": "the address to bind, which clients may use in URLs"},
        "--port": {"default": 0, "type": int, "help": "the port to bind; 0 for any free port"},
    }
    for setting in fields(Settings):
        if setting.name == "faults":
            of_faults = {"dest": "faults", "action": "append", "default": argparse.SUPPRESS, "type": _fault}
            found["--fault"] = {**of_faults, **setting.metadata}
        else:
            flag = f"--{setting.name.replace('_', '-')}"
            found[flag] = {"default": setting.default, "type": type(setting.default), **setting.metadata}
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_rtisms.sandbox",
        usage="%(prog)s [options]",
        description="Run a local stand-in for the RTI SMS API. It prints its base URL, and serves until interrupted.",
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
    )
    for flag, option in options().items():
        parser.add_argument(flag, **option)
    return parser


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _run(settings: Settings, host: str, port: int) -> None:
    from airflow_provider_rtisms.sandbox.server import serve

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serve(settings, host, port) as url:
        print(url, flush=True)
        await stop.wait()


def main(arguments: list[str] | None = None) -> None:
    """
    Run the command line.

    :param arguments: the arguments; those of the process by default.
    :raises SystemExit: if an argument is not valid, or if the sandbox cannot bind to the address.
    """
    parser = _parser()
    try:
        run(vars(parser.parse_args(arguments)))
    except (ValueError, OSError) as error:
        parser.error(str(error))


def run(values: dict[str, Any]) -> None:
    """
    Print the base URL, and serve until interrupted.

    :param values: of the options, by name.
    :raises ValueError: if a value is not valid.
    :raises OSError: if the sandbox cannot bind to the address.
    """
    settings = {name: value for name, value in values.items() if name not in ("host", "port")}
    asyncio.run(_run(Settings().changed(settings), values["host"], values["port"]))


if __name__ == "__main__":
    main()
