"""
The documented form of each response, and how a response differs from it.

Source: docs/vendor-api.md, "Authenticate", "Get SMS info", "Send SMS", "Get balance".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_rtisms.api.values.lists import name_some
from airflow_provider_rtisms.doctor.context import safe_name

Schema = Mapping[str, Any]

#: How many fields of each kind a report names.
NAMED = 50
#: An object is a dict of its fields; other values are one of these words.
STRING, INTEGER, NUMBER = "a string", "an integer", "a number"

GRANT: Schema = {"access_token": STRING, "validity_period": STRING}
BALANCE: Schema = {"balance": STRING}
SUBMISSION: Schema = {"status": STRING, "submissionId": STRING}
DETAILS: Schema = {
    "id": STRING,
    "timestamps": {"registered": INTEGER, "sent": INTEGER, "done": INTEGER},
    "info": {
        "status": {"code": STRING, "status": STRING},
        "cost": NUMBER,
        "operator": {"id": STRING, "name": STRING, "mcc": STRING, "mnc": STRING},
    },
}


@dataclass(slots=True)
class Drift:
    """
    How a response differs from its documented form. Fields are named by their path, such as ``info.status.code``.

    :param missing: documented fields that are not there.
    :param unknown: fields that are not documented. A name that could hold a secret is not shown.
    :param other_type: documented fields with a value of another type, and both types.
    """

    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    other_type: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether there is any difference."""
        return bool(self.missing or self.unknown or self.other_type)

    def __str__(self) -> str:
        """Return the differences as a sentence."""
        parts = (
            ("missing fields", self.missing),
            ("unknown fields", self.unknown),
            ("fields of another type", self.other_type),
        )
        return "; ".join(f"{title}: {name_some(names, limit=NAMED)}" for title, names in parts if names)


def compare(schema: Schema, response: Mapping[str, Any]) -> Drift:
    """
    Return how a response differs from its documented form.

    :param schema: one of the forms of this module.
    :param response: the decoded JSON object.
    """
    drift = Drift()
    _compare(schema, response, "", drift)
    return drift


def _compare(schema: Schema, response: Mapping[str, Any], prefix: str, drift: Drift) -> None:
    drift.unknown += [prefix + safe_name(name) for name in response if name not in schema]
    for name, expected in schema.items():
        path = prefix + name
        if name not in response:
            drift.missing.append(path)
        elif isinstance(expected, str):
            if not _is(expected, response[name]):
                drift.other_type.append(f"{path} ({kind(response[name])}, not {expected})")
        elif isinstance(response[name], dict):
            _compare(expected, response[name], f"{path}.", drift)
        else:
            drift.other_type.append(f"{path} ({kind(response[name])}, not an object)")


def _is(expected: str, value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, {STRING: str, INTEGER: int, NUMBER: int | float}[expected])


def kind(value: Any) -> str:
    """Return the JSON type of a value, with its article."""
    if value is None:
        return "null"
    kinds = ((bool, "a boolean"), (str, "a string"), (int, "an integer"), (float, "a number"), (list, "an array"))
    return next((name for type_, name in kinds if isinstance(value, type_)), "an object")
