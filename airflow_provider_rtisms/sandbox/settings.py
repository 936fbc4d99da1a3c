"""The settings of a sandbox: the same on the command line, in Python and in control calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from reprlib import repr as short_repr
from typing import Any, Self

from airflow_provider_rtisms.sandbox.checks import check_names, check_number, check_text
from airflow_provider_rtisms.sandbox.faults import Fault

# At most 28 digits, which decimal arithmetic keeps exact.
_BALANCE = r"-?[0-9]{1,20}(\.[0-9]{1,8})?"


def _setting(default: Any, metavar: str, help_text: str) -> Any:
    return field(default=default, metadata={"metavar": metavar, "help": help_text})


@dataclass(frozen=True)
class Settings:
    """
    The settings of a sandbox. ``python -m airflow_provider_rtisms.sandbox --help`` explains each of them.

    :raises ValueError: if a value is not valid.
    """

    client_id: str = _setting("sandbox-client", "ID", "the client id that can authenticate")
    client_secret: str = _setting("sandbox-secret", "SECRET", "its client secret")
    token_lifetime: float = _setting(3600.0, "SECONDS", "how long a token is valid")
    pending_for: float = _setting(1.0, "SECONDS", "how long a sent SMS stays PENDING")
    sent_for: float = _setting(2.0, "SECONDS", "how long it then stays SENT")
    seed: int = _setting(0, "N", "how many DELIVERED submissions exist from the start")
    balance: str = _setting("457.00", "AMOUNT", "the account's balance; each part of an SMS takes 1 from it")
    faults: tuple[Fault, ...] = _setting((), "FAULT", "a fault, see below; can be repeated")

    def __post_init__(self) -> None:
        for name in ("client_id", "client_secret"):
            check_text(name, getattr(self, name))
        for name in ("token_lifetime", "pending_for", "sent_for"):
            check_number(name, getattr(self, name))
        check_number("seed", self.seed, whole=True)
        if not isinstance(self.balance, str) or not re.fullmatch(_BALANCE, self.balance):
            raise ValueError(f"balance must be a decimal string, not {short_repr(self.balance)}")

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """
        Return these settings with some of them changed.

        :param changes: new values by name; a fault can be a mapping of its fields, as in JSON.
        :return: the new settings.
        :raises ValueError: if a name is unknown or a value is not valid.
        """
        check_names(changes, [setting.name for setting in fields(self)])
        values = dict(changes)
        if "faults" in values:
            values["faults"] = _faults(values["faults"])
        return replace(self, **values)

    def arguments(self) -> list[str]:
        """Return these settings as arguments of ``python -m airflow_provider_rtisms.sandbox``."""
        scalars = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "faults"}
        return [
            *(f"--{name.replace('_', '-')}={value}" for name, value in scalars.items()),
            *(f"--fault={fault}" for fault in self.faults),
        ]


def _faults(values: object) -> tuple[Fault, ...]:
    if not isinstance(values, list | tuple):
        raise ValueError(f"faults must be a list, not {short_repr(values)}")
    return tuple(value if isinstance(value, Fault) else _fault(value) for value in values)


def _fault(value: object) -> Fault:
    if not isinstance(value, Mapping):
        raise ValueError(f"each of the faults must be an object, not {short_repr(value)}")
    return Fault.from_fields(value)
