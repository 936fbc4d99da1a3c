"""The settings of a sandbox: the same on the command line, in Python and in control calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from airflow_provider_rtisms.sandbox.faults import Fault


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
        for name in ("token_lifetime", "pending_for", "sent_for", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a number that is not negative, not {value!r}")
        if not isinstance(self.seed, int):
            raise ValueError(f"seed must be a whole number, not {self.seed!r}")
        try:
            finite = Decimal(self.balance).is_finite()
        except (InvalidOperation, TypeError, ValueError):
            finite = False
        if not finite:
            raise ValueError(f"balance must be a decimal string, not {self.balance!r}")

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """
        Return these settings with some of them changed.

        :param changes: new values by name; a fault can be a mapping of its fields, as in JSON.
        :return: the new settings.
        :raises ValueError: if a name is unknown or a value is not valid.
        """
        values = dict(changes)
        try:
            if "faults" in values:
                values["faults"] = tuple(
                    fault if isinstance(fault, Fault) else Fault(**fault) for fault in values["faults"]
                )
            return replace(self, **values)
        except TypeError as error:
            raise ValueError(str(error)) from None

    def arguments(self) -> list[str]:
        """Return these settings as arguments of ``python -m airflow_provider_rtisms.sandbox``."""
        scalars = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "faults"}
        return [
            *(f"--{name.replace('_', '-')}={value}" for name, value in scalars.items()),
            *(f"--fault={fault}" for fault in self.faults),
        ]
