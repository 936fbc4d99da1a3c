"""Tables and figures of the pages, read from the code so that they never differ from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from airflow_provider_rtisms.api import call, errors, fetch, models, retry, token, wait
from airflow_provider_rtisms.get_provider_info import CONN_FIELDS
from airflow_provider_rtisms.sandbox.faults import KINDS
from airflow_provider_rtisms.sandbox.magic_numbers import MAGIC_NUMBERS
from airflow_provider_rtisms.sensors import rtisms as sensors
from airflow_provider_rtisms.triggers import polling


def substitutions() -> dict[str, Any]:
    """Return what pages may write between double braces: constants by name below their module's, and tables."""
    modules = (call, fetch, models, retry, polling, sensors, token, wait)
    constants = {name: value for module in modules for name, value in vars(module).items() if name.isupper()}
    return {
        "constants": {name: f"{value:g}" for name, value in constants.items() if isinstance(value, int | float)},
        "permanent_errors": _error_table(errors.RtiSmsPermanentError),
        "transient_errors": _error_table(errors.RtiSmsTransientError),
        "extras": _table(
            ("extra", "label in the form", "meaning"),
            ((f"`{name}`", field["label"], field["description"]) for name, field in CONN_FIELDS.items()),
        ),
        "endings": _table(
            ("last three digits", "ending"),
            ((f"`{digits}`", ending.meaning) for digits, ending in MAGIC_NUMBERS.items()),
        ),
        "faults": _table(("kind", "what happens"), ((f"`{kind}`", meaning) for kind, meaning in KINDS.items())),
    }


def _error_table(base: type[errors.RtiSmsError]) -> str:
    return _table(
        ("class", "what happened", "what to do"),
        (
            (
                f"{{py:class}}`~{kind.__module__}.{kind.__name__}`",
                inspect.getdoc(kind).splitlines()[0].replace("``", "`"),
                errors.REMEDIES.get(kind, ""),
            )
            for kind in _below(base)
        ),
    )


def _below(base: type[errors.RtiSmsError]) -> Iterator[type[errors.RtiSmsError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _below(kind)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
