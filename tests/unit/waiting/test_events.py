"""The event that ends a trigger: what is built is read again, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.waiting import VERSION, UnknownEventError, WaitEvent, parse_trigger_event

RECORDS = [SmsDetails("1", "DELIVERED").to_record()]


@pytest.mark.parametrize(
    ("event", "expects"),
    [
        (WaitEvent("finished", found={"records": RECORDS}), "records"),
        (WaitEvent("finished", found={"records": [], "submission_ids": ["1", "2"]}), "records"),
        (WaitEvent("finished", found={"balance": "457.00"}), "balance"),
        (WaitEvent("failed", "the account was closed"), "records"),
        (WaitEvent("timeout", "2 are open"), "balance"),
        (WaitEvent("timeout", "2 are open", {"records": RECORDS}, "execution_timeout"), "records"),
        (WaitEvent("failed", "KeyError", cause="crash"), "records"),
    ],
)
def test_what_is_built_is_read_again(event: WaitEvent, expects: str) -> None:
    payload = json.loads(json.dumps(event.to_payload()))
    assert payload["version"] == VERSION
    assert parse_trigger_event(payload, expects) == event


def test_the_payload_has_the_form_that_other_releases_read() -> None:
    assert WaitEvent("finished", found={"balance": "1"}).to_payload() == {
        "version": 1,
        "outcome": "finished",
        "balance": "1",
    }
    assert WaitEvent("failed", "why").to_payload() == {"version": 1, "outcome": "failed", "message": "why"}


def test_an_event_without_a_version_is_read() -> None:
    assert parse_trigger_event({"outcome": "finished", "balance": "1"}, "balance").found == {"balance": "1"}


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (None, "it is None"),
        ("finished", "it is a str of 8 characters"),
        ({}, "it is a value of type dict"),
        ({"version": 2, "outcome": "failed", "message": "why"}, "version 2"),
        ({"version": 0, "outcome": "finished", "records": []}, "version 0"),
        ({"version": 1, "outcome": "finished"}, "it is a value of type dict"),
        ({"version": 1, "outcome": "finished", "balance": "1"}, "it is a value of type dict"),
        ({"version": 1, "outcome": "failed"}, "it is a value of type dict"),
        ({"version": 1, "outcome": "failed", "message": 7}, "it is a value of type dict"),
        ({"version": 1, "outcome": "failed", "message": "why", "cause": "fire"}, "'cause' is a str of 4 characters"),
        ({"version": 1, "outcome": "failed", "message": "why", "cause": ["crash"]}, "'cause' is a value of type list"),
        ({"version": 1, "outcome": "another", "message": "why"}, "it is a value of type dict"),
        ({"version": 1, "outcome": "finished", "records": None}, "'records' is not a list"),
        ({"version": 1, "outcome": "finished", "records": [{}]}, "'records[0]' lacks fields of a record"),
        ({"version": 1, "outcome": "finished", "records": [], "balance": 7}, "'balance' is not a string"),
        (
            {"version": 1, "outcome": "finished", "records": [], "submission_ids": "12"},
            "'submission_ids' is not a list of strings",
        ),
        (
            {"version": 1, "outcome": "finished", "records": [], "submission_ids": ["1", 2]},
            "'submission_ids' is not a list of strings",
        ),
    ],
)
def test_another_form_is_refused_with_advice(payload: Any, problem: str) -> None:
    with pytest.raises(UnknownEventError) as caught:
        parse_trigger_event(payload, "records")
    assert f"({problem})" in str(caught.value)
    assert "Install the same version of airflow-provider-rtisms on the workers and on the triggerer" in str(
        caught.value
    )
