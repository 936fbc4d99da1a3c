"""The operators for details and balance, called as plain objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.api.errors import RtiSmsServerError
from airflow_provider_rtisms.operators.rtisms import RtiSmsGetBalanceOperator, RtiSmsGetDetailsOperator
from airflow_provider_rtisms.sandbox import Sandbox
from tests.hostile import details, response
from tests.unit.conftest import Serve

pytestmark = pytest.mark.usefixtures("quick_retries")


def get(submission_id: Any) -> dict[str, Any]:
    return RtiSmsGetDetailsOperator(task_id="get", submission_id=submission_id).execute({})


def test_returns_the_record(rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
    submission_id = rtisms_sandbox.add_submission("EXPIRED", pending_for=0, sent_for=0)
    record = get(int(submission_id))
    assert (record["submission_id"], record["status"], record["is_final"]) == (submission_id, "EXPIRED", True)
    assert record["registered_at"].endswith("+00:00")
    assert json.loads(json.dumps(record)) == record
    assert f"Submission {submission_id} is EXPIRED" in logged()


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406])
def test_what_can_never_succeed_stops_the_retries(serve_default: Serve, status: int) -> None:
    server = serve_default(response(status=status))
    with pytest.raises(AirflowFailException, match=f"get_sms 1: .*HTTP {status}"):
        get("1")
    assert len(server.calls) == 1


def test_what_may_succeed_later_stays_retryable(serve_default: Serve) -> None:
    serve_default(response(status=503))
    with pytest.raises(RtiSmsServerError, match="HTTP 503"):
        get("1")


@pytest.mark.parametrize("bad", ["", "12a", "1/2", "..", "%31", "１", -1, 1.5, True, None, ["1"], "1" * 101, "1\n2"])
def test_bad_ids_never_leave_the_machine(serve_default: Serve, bad: Any) -> None:
    server = serve_default(details())
    with pytest.raises(AirflowFailException, match="submission_id"):
        get(bad)
    assert server.connections == 0


def test_the_balance_is_the_exact_string(rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
    rtisms_sandbox.set_balance("457.10")
    assert RtiSmsGetBalanceOperator(task_id="balance").execute({}) == "457.10"
    assert "The balance is 457.10" in logged()
