"""Generate the tables and numbers of the pages from the code, so that the two always agree."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from airflow_provider_rtisms import waiting
from airflow_provider_rtisms.api import aio, auth, calls, errors, retrying
from airflow_provider_rtisms.get_provider_info import CONN_FIELDS
from airflow_provider_rtisms.sandbox.settings import KINDS
from airflow_provider_rtisms.sandbox.state import MAGIC_NUMBERS
from airflow_provider_rtisms.sending import outbox
from airflow_provider_rtisms.triggers import polling as trigger_polling

#: Modules whose constants a page may show.
MODULES = (aio, auth, calls, outbox, retrying, trigger_polling, waiting)


def substitutions() -> dict[str, Any]:
    """Return what a page may write in double braces: ``constants.NAME`` for numbers, and the names of tables."""
    constants = {name: value for module in MODULES for name, value in vars(module).items() if name.isupper()}
    return {
        "constants": {name: f"{value:g}" for name, value in constants.items() if isinstance(value, int | float)},
        "permanent_errors": _error_table(errors.RtiSmsPermanentError),
        "transient_errors": _error_table(errors.RtiSmsTransientError),
        "extras": _table(
            ("field in the extra", "label in the form", "meaning"),
            ((f"`{name}`", field["label"], field["description"]) for name, field in CONN_FIELDS.items()),
        ),
        "magic_numbers": _table(
            ("last three digits", "outcome"),
            ((f"`{digits}`", outcome.meaning) for digits, outcome in MAGIC_NUMBERS.items()),
        ),
        "faults": _table(("kind", "what happens"), ((f"`{kind}`", meaning) for kind, meaning in KINDS.items())),
    }


def _error_table(base: type[errors.RtiSmsError]) -> str:
    return _table(
        ("class", "what happened", "what to do"),
        (
            (
                f"{{py:class}}`~{kind.__module__}.{kind.__name__}`",
                (inspect.getdoc(kind) or "").splitlines()[0].replace("``", "`"),
                errors.REMEDIES.get(kind, ""),
            )
            for kind in _subclasses(base)
        ),
    )


def _subclasses(base: type[errors.RtiSmsError]) -> Iterator[type[errors.RtiSmsError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _subclasses(kind)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
