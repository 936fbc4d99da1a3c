"""One table of waits with ``min_delivered``. Every mode of the sensor, and the send, have to end each of them alike."""

from __future__ import annotations

from typing import NamedTuple

from airflow_provider_rtisms.sandbox import Sandbox

UNKNOWN_ID = "999999"
#: Final statuses of the letters of a case. Small letters become final a little later.
FINAL = {"D": "DELIVERED", "R": "REJECTED", "U": "UNKNOWN"}
LATER = 0.5
"""Seconds until a submission with a small letter is final."""


class Case(NamedTuple):
    """A wait, one letter for each submission, and how it ends: see FINAL; ``S`` stays open, ``?`` is unknown."""

    statuses: str
    min_delivered: float
    is_enough: bool


CASES = (
    Case("DDD", 3, is_enough=True),
    Case("DDR", 2, is_enough=True),
    Case("DDR", 3, is_enough=False),
    Case("DRR", 1, is_enough=True),
    Case("RRR", 1, is_enough=False),
    Case("DDU", 2, is_enough=True),
    Case("DDU", 3, is_enough=False),
    Case("D" * 19 + "R", 0.95, is_enough=True),
    Case("D" * 18 + "RR", 0.95, is_enough=False),
    Case("DDD", 1.0, is_enough=True),
    Case("DDR", 1.0, is_enough=False),
    Case("DD?", 2, is_enough=True),
    Case("DD?", 3, is_enough=False),
    Case("ddr", 2, is_enough=True),
    Case("Drr", 2, is_enough=False),
    Case("DDdr", 3, is_enough=True),
    # It fails although one is still open, at the first poll or at a later one.
    Case("DDDDDRRS", 7, is_enough=False),
    Case("DDDDDRrS", 7, is_enough=False),
    Case("DdRrS", 0.8, is_enough=False),
)


def add_submissions(sandbox: Sandbox, statuses: str) -> list[str]:
    """Add the submissions of a case, and return their ids."""
    ids = []
    for letter in statuses:
        if letter == "?":
            ids.append(UNKNOWN_ID)
        elif letter == "S":
            ids.append(sandbox.add_submission("SENT"))
        else:
            later = LATER if letter.islower() else 0
            ids.append(sandbox.add_submission(FINAL[letter.upper()], pending_for=0, sent_for=later))
    return ids


def final_ids(case: Case, ids: list[str]) -> set[str]:
    """Return the ids of a case that become final."""
    return {one for one, letter in zip(ids, case.statuses, strict=True) if letter.upper() in FINAL}
