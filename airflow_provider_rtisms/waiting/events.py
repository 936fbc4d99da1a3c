"""
The event that ends a trigger: built in the triggerer, and read in the worker.

Airflow stores and logs events, so they hold ids and records, and no secret, number or text. Worker and triggerer may
run different releases of this package, so the worker refuses an event that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_provider_rtisms.api.errors import shape
from airflow_provider_rtisms.waiting.delivery_wait import check_records

#: Changes when an older worker would misread an event.
VERSION = 1

#: The event of a wait that a worker begins anew; see ``triggers/start.py``.
BEGIN_AGAIN = {"version": VERSION, "outcome": "begin_again"}

Outcome = Literal["finished", "failed", "timeout"]
#: ``crash``: the wait has failed, since the trigger met an error that it does not know, or the triggerer has another
#: release. Such a task fails even with ``soft_fail``, and may be retried.
#: ``execution_timeout``: not the ``timeout`` of the wait has passed, but the ``execution_timeout`` of its task.
Cause = Literal["", "crash", "execution_timeout"]


class UnknownEventError(ValueError):
    """The event of a trigger is of a form that this release does not know."""


@dataclass(frozen=True, slots=True)
class WaitEvent:
    """
    How a deferred wait ended.

    :param outcome: ``finished``, ``failed`` (a task retry does not help) or ``timeout``.
    :param message: why it failed or timed out.
    :param found: what the wait found, such as ``{"records": [...]}`` or ``{"balance": "457.00"}``. If it did not
        finish: what it had found until then.
    :param cause: why, if it did not end by itself. Releases that do not know it see only the outcome.
    """

    outcome: Outcome
    message: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)
    cause: Cause = ""

    def to_payload(self) -> dict[str, Any]:
        """Return the JSON form: what a trigger yields."""
        message = {} if self.outcome == "finished" else {"message": self.message}
        cause = {"cause": self.cause} if self.cause else {}
        return {"version": VERSION, "outcome": self.outcome, **message, **cause, **self.found}


def parse_trigger_event(payload: Any, expects: str) -> WaitEvent:
    """
    Return the event that a trigger has yielded.

    :param payload: the JSON form.
    :param expects: the key that the event of a finished wait has to contain, ``records`` or ``balance``.
    :raises UnknownEventError: the payload is of another form.
    """
    match payload:
        case {"version": int(version)} if version != VERSION:
            raise UnknownEventError(_advice(f"version {version}"))
        case {"outcome": "finished"} if expects in payload:
            return WaitEvent("finished", found=_found(payload))
        case {"outcome": "failed" | "timeout" as outcome, "message": str(message)}:
            return WaitEvent(outcome, message, _found(payload), _cause(payload))
    raise UnknownEventError(_advice(f"it is {shape(payload)}"))


def _cause(payload: Mapping[str, Any]) -> Cause:
    match payload.get("cause", ""):
        case "" | "crash" | "execution_timeout" as cause:
            return cause  # type: ignore[no-any-return]
        case other:
            raise UnknownEventError(_advice(f"'cause' is {shape(other)}"))


def _found(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    found = {name: value for name, value in payload.items() if name not in ("version", "outcome", "message", "cause")}
    try:
        _check_found(found)
    except ValueError as error:
        raise UnknownEventError(_advice(str(error))) from None
    return found


def _check_found(found: Mapping[str, Any]) -> None:
    if "records" in found:
        check_records(found["records"])
    if not isinstance(found.get("balance", ""), str):
        raise ValueError("'balance' is not a string")
    ids = found.get("submission_ids", [])
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise ValueError("'submission_ids' is not a list of strings")


def _advice(problem: str) -> str:
    return (
        f"The trigger ended with an event of an unknown form ({problem}). Install the same version of "
        "airflow-provider-rtisms on the workers and on the triggerer."
    )
