"""The options of the doctor. Airflow reads them for every command of its own, so this module imports nothing heavy."""

from __future__ import annotations

from typing import Any

#: Seconds for one request and its response.
DEFAULT_TIMEOUT = 10.0
#: Seconds for which a test message is followed.
DEFAULT_FOLLOW_FOR = 300.0

#: Flags and the keyword arguments that argparse and Airflow's ``Arg`` both take.
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--json", {"help": "print the report as JSON", "action": "store_true"}),
    (
        "--timeout",
        {
            "help": f"seconds for one request and its response (default: {DEFAULT_TIMEOUT:g})",
            "type": float,
            "default": DEFAULT_TIMEOUT,
            "metavar": "SECONDS",
        },
    ),
    (
        "--submission-id",
        {"help": "a submission of the account: compare its details with the documentation", "metavar": "ID"},
    ),
    (
        "--probe-credentials",
        {
            "help": "authenticate once with a wrong secret; it may count against the account",
            "action": "store_true",
        },
    ),
    ("--send-to", {"help": "send one SMS to this number, which costs money, and follow it", "metavar": "NUMBER"}),
    ("--sender", {"help": "the sender of that SMS", "metavar": "SENDER"}),
    ("--yes", {"help": "do not ask before sending", "action": "store_true"}),
    (
        "--follow-for",
        {
            "help": f"most seconds to wait until that SMS is final (default: {DEFAULT_FOLLOW_FOR:g})",
            "type": float,
            "default": DEFAULT_FOLLOW_FOR,
            "metavar": "SECONDS",
        },
    ),
)
