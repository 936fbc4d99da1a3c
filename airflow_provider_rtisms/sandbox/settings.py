"""What can be set about a sandbox, on the command line, in Python and over the control calls alike."""

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
    """The settings of a sandbox; each is explained by its ``help``, which the command line shows too.

    :raises ValueError: if a value makes no sense.
    """

    client_id: str = _setting("sandbox-client", "ID", "the client id that can authenticate")
    client_secret: str = _setting("sandbox-secret", "SECRET", "its client secret")
    token_lifetime: float = _setting(3600.0, "SECONDS", "how long a token is good for")
    pending_for: float = _setting(1.0, "SECONDS", "how long a sent SMS stays PENDING")
    sent_for: float = _setting(2.0, "SECONDS", "how long it then stays SENT, until its final status")
    seed: int = _setting(0, "N", "how many DELIVERED submissions to add at the start")
    balance: str = _setting("457.00", "AMOUNT", "the account's balance; each part of an SMS takes 1 from it")
    faults: tuple[Fault, ...] = _setting((), "FAULT", "what goes wrong, see below; may be repeated")

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
        """These settings with some of them changed.

        :param changes: new values by name; a fault may be a mapping of its fields, as JSON has it.
        :returns: new settings.
        :raises ValueError: if a name is unknown or a value makes no sense.
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
        """These settings as arguments of ``python -m airflow_provider_rtisms.sandbox``."""
        scalars = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "faults"}
        return [
            *(f"--{name.replace('_', '-')}={value}" for name, value in scalars.items()),
            *(f"--fault={fault}" for fault in self.faults),
        ]
