"""Partial success: how many messages of a wait have to be delivered. Pure, no I/O."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError, shape


@dataclass(frozen=True, slots=True)
class Quota:
    """
    How many messages have to be delivered.

    :param needed: how many.
    :param total: of how many. It includes messages without a submission id, which cannot be delivered.
    :param delivered: how many of them are known to be delivered, and are not among the submissions of the wait.
    """

    needed: int
    total: int
    delivered: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the form that goes into the arguments of a trigger: ``Quota(**value)`` reads it."""
        return asdict(self)


def check_min_delivered(value: Any) -> float | None:
    """
    Return the ``min_delivered`` of a sensor or an operator.

    :param value: an int, 1 or more, for a number of messages; a float above 0 and up to 1 for a share of them; or None.
    :raises RtiSmsInputError: it is anything else.
    """
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    is_share = isinstance(value, float) and 0 < value <= 1
    if value is None or is_count or is_share:
        return value  # type: ignore[no-any-return]
    raise RtiSmsInputError(
        f"min_delivered is {shape(value)}: use a whole number of messages, 1 or more, or a share such as 0.95."
    )


def make_quota(min_delivered: Any, total: int) -> Quota | None:
    """
    Return how many messages have to be delivered.

    :param min_delivered: see :func:`check_min_delivered`. A share is rounded up.
    :param total: how many messages there are, those without a submission id included.
    :return: the quota; None if ``min_delivered`` is None.
    :raises RtiSmsInputError: it is malformed, or it is a number of messages, and there are fewer.
    """
    checked = check_min_delivered(min_delivered)
    if checked is None:
        return None
    if isinstance(checked, float):
        return Quota(math.ceil(round(checked * total, 6)), total)  # 0.95 * 20 is 19, not a little more
    if checked > total:
        raise RtiSmsInputError(f"min_delivered is {checked}, but there are only {total} messages.")
    return Quota(checked, total)
