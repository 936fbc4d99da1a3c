"""Arguments of triggers: what is wrong is refused where a DAG is parsed or a task defers, and equal forms are one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.triggers.rtisms import (
    RtiSmsBalanceFallTrigger,
    RtiSmsBalanceTrigger,
    RtiSmsDeliveryTrigger,
)

Make = Callable[..., BaseTrigger]
FOREVER = 4102444800


def fall(**changes: Any) -> RtiSmsBalanceFallTrigger:
    return RtiSmsBalanceFallTrigger(**{"threshold": "50", **changes})


def balance(**changes: Any) -> RtiSmsBalanceTrigger:
    arguments = {"rtisms_conn_id": "rtisms_default", "minimum": "5", "poke_interval": 60, "deadline": FOREVER}
    return RtiSmsBalanceTrigger(**{**arguments, **changes})


def delivery(**changes: Any) -> RtiSmsDeliveryTrigger:
    arguments = {
        "rtisms_conn_id": "rtisms_default",
        "submission_ids": ["1", "2"],
        "poke_interval": 60,
        "deadline": FOREVER,
        "missing_until": FOREVER,
        "fail_on": ["REJECTED"],
    }
    return RtiSmsDeliveryTrigger(**{**arguments, **changes})


NO_DURATION = [-1, -0.5, float("nan"), float("inf"), True, "60", timedelta(seconds=-1), [60], 10**400]
NO_AMOUNT = ["1.000,50", "abc", "", None, float("nan"), "NaN", "inf", True, [50], b"50"]
NO_CONN_ID = [None, 7, "", " ", ["rtisms_default"], True, b"rtisms_default"]
WRONG: list[tuple[Make, str, list[Any]]] = [
    (fall, "threshold", NO_AMOUNT),
    (fall, "rtisms_conn_id", NO_CONN_ID),
    (fall, "poke_interval", [*NO_DURATION, None]),
    (balance, "minimum", NO_AMOUNT),
    (balance, "rtisms_conn_id", NO_CONN_ID),
    *((balance, name, [*NO_DURATION, None]) for name in ("poke_interval", "deadline", "deferred_at")),
    (balance, "max_poke_interval", NO_DURATION),
    (balance, "is_execution_timeout", [None, 1, "true"]),
    (delivery, "rtisms_conn_id", NO_CONN_ID),
    (delivery, "submission_ids", [None, "abc", ["1", "abc"], [None], [True], [1.5], ["-1"], [["1"]], {"1": 2}]),
    (delivery, "submission_ids", [[Decimal("Infinity")], ["+56900000000"]]),
    *((delivery, name, [*NO_DURATION, None]) for name in ("poke_interval", "deadline", "missing_until", "deferred_at")),
    (delivery, "max_poke_interval", NO_DURATION),
    (delivery, "fail_on", [None, "REJECTED", ["SENT"], ["rejected"], [1], {"REJECTED": 1}]),
    (delivery, "finished", [None, "1", 1, ["1"], [{}], [{"submission_id": 1}], {"submission_id": "1"}]),
    *((delivery, name, [None, 1, "true"]) for name in ("with_records", "with_ids", "is_execution_timeout")),
    (
        delivery,
        "quota",
        [1, [], "5", {"needed": 1}, {"needed": "1", "total": 2}, {"wanted": 1}, {"needed": 1, "total": True}],
    ),
]


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        pytest.param(make, name, value, id=f"{make.__name__}-{name}-{value!r:.30}")
        for make, name, values in WRONG
        for value in values
    ],
)
def test_a_wrong_argument_is_refused_by_name(make: Make, name: str, value: Any) -> None:
    """
    A DAG with such an ``AssetWatcher`` has an import error. Airflow would start a trigger that raises in ``run`` again
    and again. Its triggerer survives no error of a constructor but a TypeError.
    """
    with pytest.raises(RtiSmsInputError, match=rf"^{name}\b.*: use ") as caught:
        make(**{name: value})
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (fall, ["poke_interval"]),
        (balance, ["poke_interval", "max_poke_interval"]),
        (delivery, ["poke_interval", "max_poke_interval"]),
    ],
)
def test_equal_durations_are_stored_alike(make: Make, names: list[str]) -> None:
    """Airflow 3 compares the stored text of triggers, so it runs one trigger for equal ones."""
    for name in names:
        forms = [make(**{name: value}).serialize() for value in (60, 60.0, timedelta(minutes=1))]
        assert len({json.dumps(form) for form in forms}) == 1
        assert json.dumps(forms[0][1][name]) == "60", "as the releases before store it"
        half, same = (make(**{name: value}).serialize() for value in (0.5, timedelta(milliseconds=500)))
        assert json.dumps(half) == json.dumps(same)


@pytest.mark.parametrize(
    ("threshold", "stored"), [(50, "50"), ("50.00", "50.00"), (" 50 ", "50"), (0.5, "0.5"), (Decimal("1.10"), "1.10")]
)
def test_amounts_are_stored_as_they_are_written(threshold: Any, stored: str) -> None:
    assert fall(threshold=threshold).serialize()[1]["threshold"] == stored
    assert balance(minimum=threshold).serialize()[1]["minimum"] == stored


def test_ids_of_other_libraries_are_stored_as_strings() -> None:
    class Integer:
        def __index__(self) -> int:
            return 7

    trigger = delivery(submission_ids=[Integer(), Decimal(8), " 9\n", 7])
    assert json.loads(json.dumps(trigger.serialize()[1]))["submission_ids"] == ["7", "8", "9"]


@pytest.mark.parametrize("make", [fall, balance, delivery])
def test_airflow_can_make_it_again(make: Make) -> None:
    path, kwargs = make().serialize()
    assert type(make())(**json.loads(json.dumps(kwargs))).serialize() == (path, kwargs)


def test_a_balance_is_watched_every_five_minutes() -> None:
    assert fall().serialize() == (
        "airflow_provider_rtisms.triggers.balance.RtiSmsBalanceFallTrigger",
        {"threshold": "50", "rtisms_conn_id": "rtisms_default", "poke_interval": 300},
    )
