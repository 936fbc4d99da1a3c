"""The bulk operator: its arguments, and what it leaves in XCom. What it fetches is tested in tests/unit/bulk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.operators import bulk
from airflow_provider_rtisms.operators.rtisms import RtiSmsBulkGetDetailsOperator
from airflow_provider_rtisms.sandbox import Sandbox

KNOWN = ["4193366853543000", "4193366853543393"]


def run(**arguments: Any) -> Any:
    return RtiSmsBulkGetDetailsOperator(task_id="bulk", **arguments).execute({})


@pytest.mark.parametrize("given", [KNOWN, json.dumps(KNOWN), [{"submission_id": one} for one in KNOWN], iter(KNOWN)])
def test_ids_come_as_a_list_as_json_or_as_records(rtisms_sandbox: Sandbox, given: Any) -> None:
    assert sorted(record["submission_id"] for record in run(submission_ids=given)) == KNOWN


def test_ids_come_from_a_file_and_go_to_a_file(rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    sent = tmp_path / "sent.csv"
    sent.write_text("\n".join(["submission", *KNOWN, KNOWN[0]]))
    target = tmp_path / "2026" / "details.jsonl"
    summary = run(submission_ids_path=str(sent), submission_ids_column="submission", output_path=str(target))
    assert (summary["requested"], summary["duplicates"], summary["path"]) == (2, 1, str(target))
    assert len(target.read_text().splitlines()) == 2
    json.dumps(summary)


def test_too_many_for_xcom_are_refused_before_a_request(
    rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_RECORDS_IN_XCOM", 1)
    with pytest.raises(AirflowFailException, match="set output_path"):
        run(submission_ids=KNOWN)
    assert not rtisms_sandbox.state().requests
    monkeypatch.setattr(bulk, "MAX_RECORDS_IN_XCOM", 2)
    assert len(run(submission_ids=KNOWN)) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "Give either submission_ids or submission_ids_path"),
        ({"submission_ids": KNOWN, "submission_ids_path": "ids.txt"}, "Give either"),
        ({"submission_ids": ["12a"]}, "submission_ids"),
        ({"submission_ids": KNOWN, "output_path": ""}, "output_path"),
        ({"submission_ids": KNOWN, "on_missing": "raise"}, "on_missing"),
        ({"submission_ids_path": "/no/such/file"}, "/no/such/file"),
        ({"submission_ids_path": "gs://bucket/ids.txt"}, "gs://bucket/ids.txt"),
    ],
)
def test_malformed_arguments_fail_without_retry_before_a_request(
    rtisms_sandbox: Sandbox, arguments: Any, named: str
) -> None:
    with pytest.raises(AirflowFailException, match=named):
        run(**arguments)
    assert not rtisms_sandbox.state().requests


@pytest.mark.parametrize(
    "field", ["submission_ids", "submission_ids_path", "submission_ids_column", "output_path", "missing_path"]
)
def test_a_template_that_rendered_to_none_is_explained(rtisms_sandbox: Sandbox, field: str) -> None:
    arguments = {"submission_ids": KNOWN} if field in ("output_path", "missing_path") else {}
    if field == "submission_ids_column":
        arguments = {"submission_ids_path": "ids.csv"}
    with pytest.raises(AirflowFailException, match=f'^{field} is the word "None".* returned nothing'):
        run(**{**arguments, field: "None"})
    assert not rtisms_sandbox.state().requests
