"""Tests that read and change a sandbox while it runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_provider_rtisms.sandbox import Sandbox, SandboxClient
from tests.patience import PATIENCE, wait_until

if TYPE_CHECKING:
    from tests.unit.sandbox.conftest import Api


def test_requests_and_responses_are_counted_by_call(api: Api) -> None:
    for submission_id in ("4193366853543393", "4193366853543393", "1"):
        api.get(f"sms/{submission_id}")
    api.request("DELETE", "nowhere")
    state = api.sandbox.state()
    assert state.requests == {"POST auth": 1, "GET sms": 3, "DELETE other": 1}
    assert state.responses == {"POST auth": {"200": 1}, "GET sms": {"200": 2, "404": 1}, "DELETE other": {"404": 1}}
    assert state.requests_by_id == {"4193366853543393": 2, "1": 1}
    assert state.tokens_issued == 1
    assert (state.count_responses(404), state.count_responses(404, "GET sms"), state.count_responses(500)) == (2, 1, 0)


def test_open_connections_are_counted_without_those_of_control_calls() -> None:
    sessions = [requests.Session() for _ in range(5)]
    with Sandbox() as sandbox:  # not the shared one: other tests may have left connections open
        for session in sessions:
            session.get(f"{sandbox.url}/api/balance", timeout=PATIENCE)
        state = sandbox.state()
        assert (state.sockets, state.sockets_peak) == (5, 5)
        for session in sessions[1:]:
            session.close()
        wait_until(lambda: sandbox.state().sockets == 1, "closed sockets")
        assert sandbox.state().sockets_peak == 5
        sandbox.reset()
        assert sandbox.state().sockets_peak == 1
        sessions[0].close()


def test_a_reset_goes_back_to_the_start(api: Api) -> None:
    sent = api.send("+56900000000").json()["submissions"][0]["submissionId"]
    api.sandbox.rotate_secret("other")
    api.sandbox.set_balance("1")
    api.sandbox.reset()
    state = api.sandbox.state()
    assert (state.requests, state.responses, state.messages, state.tokens_issued) == ({}, {}, [], 0)
    assert (state.balance, api.sandbox.client_secret) == ("457.00", "sandbox-secret")
    assert api.get("balance").status_code == 401
    api._token = None
    assert api.get(f"sms/{sent}").status_code == 404


@pytest.mark.parametrize("status", ["REJECTED", "SENT", "PENDING", "TELEPORTED"])
def test_a_submission_can_be_added_and_replaced(api: Api, status: str) -> None:
    submission_id = api.sandbox.add_submission(pending_for=60)
    assert api.status_of(submission_id) == "PENDING"
    values: dict[str, Any] = {"pending_for": 0, "sent_for": 0, "cost": 3}
    assert api.sandbox.add_submission(status, submission_id=submission_id, **values) == submission_id
    assert api.status_of(submission_id) == status
    assert api.get(f"sms/{submission_id}").json()["info"]["cost"] == 3


def test_a_rotated_secret_leaves_tokens_valid(api: Api) -> None:
    assert api.get("balance").status_code == 200
    api.sandbox.rotate_secret("new")
    assert api.get("balance").status_code == 200
    assert api.authenticate(client_secret="sandbox-secret").status_code == 401
    assert api.authenticate(client_secret="new").status_code == 200
    assert json.loads(api.sandbox.connection_json())["password"] == "new"


def test_any_process_can_attach_by_url(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    attached = SandboxClient(api.sandbox.url + "/")
    attached.set_balance("12.50")
    assert api.sandbox.state().balance == "12.50"
    assert json.loads(attached.connection_json()) == {
        "conn_type": "rtisms",
        "login": "sandbox-client",
        "password": "sandbox-secret",
        "host": api.sandbox.url,
    }


def test_the_client_says_why_something_was_refused(api: Api) -> None:
    with pytest.raises(ValueError, match="balance must be a decimal string, not 'much'"):
        api.sandbox.set_balance("much")


def test_seeded_submissions_have_the_same_ids_in_every_run(api: Api) -> None:
    assert api.sandbox.seed(2) == ["5000000000000000", "5000000000000001"]
    assert [api.get(f"sms/500000000000000{last}").status_code for last in (0, 1, 2)] == [200, 200, 404]
