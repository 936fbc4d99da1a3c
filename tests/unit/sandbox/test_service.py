"""How the sandbox responds, chapter by chapter of the API's reference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_rtisms.sandbox.state import Submission

if TYPE_CHECKING:
    from tests.unit.sandbox.conftest import Api

GRANT = "grant_type=client_credentials"
FORM = "application/x-www-form-urlencoded; charset=utf-8"


class TestAuthenticate:
    def test_issues_an_opaque_token_and_its_validity_as_a_string(self, api: Api) -> None:
        response = api.authenticate()
        assert response.status_code == 200
        assert response.json().keys() == {"access_token", "validity_period"}
        assert response.json()["validity_period"] == "3600"
        assert "." in response.json()["access_token"]
        assert "$" in response.json()["access_token"]

    @pytest.mark.parametrize("secret", ["a+b/c==", "50%", "%41", "a&b=c", "ñandú 漢字", "$(x).'\""])
    def test_reads_the_form_encoding_of_any_secret(self, api: Api, secret: str) -> None:
        api.sandbox.rotate_secret(secret)
        assert api.authenticate(client_secret=secret).status_code == 200
        assert api.authenticate(client_secret=secret + "x").status_code == 401

    def test_a_secret_that_was_not_encoded_is_another_secret(self, api: Api) -> None:
        api.sandbox.rotate_secret("a+b")
        body = f"{GRANT}&client_id=sandbox-client&client_secret=a+b"
        response = api.request("POST", "auth", data=body, headers={"Content-Type": FORM})
        assert response.status_code == 401

    @pytest.mark.parametrize(
        "body",
        [
            *("", '{"grant_type": "client_credentials"}', f"{GRANT}&client_id=sandbox-client"),
            *(f"{GRANT}&client_id=sandbox-client&client_secret={secret}" for secret in ("", "50%", "%ff", "ñ")),
            "grant_type=password&client_id=sandbox-client&client_secret=sandbox-secret",
            f"{GRANT}&client_id=a&client_id=b&client_secret=c",
        ],
    )
    def test_malformed_credentials_are_400(self, api: Api, body: str) -> None:
        assert api.request("POST", "auth", data=body.encode(), headers={"Content-Type": FORM}).status_code == 400


class TestEveryOtherCall:
    @pytest.mark.parametrize(
        "authorization",
        [
            *(None, "{token}", "Bearer", "Bearer  {token}", "bearer {token}"),
            *("Bearer {token} x", "Bearer x", "Basic {token}"),
        ],
    )
    @pytest.mark.parametrize("path", ["balance", "sms/4193366853543393"])
    def test_a_bad_token_is_401_with_an_empty_body(self, api: Api, path: str, authorization: str | None) -> None:
        headers = api.headers
        token = headers.pop("Authorization").removeprefix("Bearer ")
        if authorization is not None:
            headers["Authorization"] = authorization.format(token=token)
        response = api.request("GET", path, headers=headers)
        assert (response.status_code, response.content) == (401, b"")

    @pytest.mark.parametrize("content_type", [None, "text/plain", FORM])
    def test_the_content_type_is_mandatory_on_get_too(self, api: Api, content_type: str | None) -> None:
        response = api.request("GET", "balance", headers={**api.headers, "Content-Type": content_type})
        assert response.status_code == 400

    @pytest.mark.parametrize(("lifetime", "shown", "status"), [(0.0, "0", 401), (60.5, "60.5", 200)])
    def test_a_token_expires_after_its_lifetime(self, api: Api, lifetime: float, shown: str, status: int) -> None:
        api.sandbox.set_timing(token_lifetime=lifetime)
        assert api.authenticate().json()["validity_period"] == shown
        assert api.get("balance").status_code == status

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            *(("GET", path, "POST") for path in ("auth", "sms")),
            *((method, "sms/4193366853543393", "GET") for method in ("POST", "DELETE")),
            ("POST", "balance", "GET"),
        ],
    )
    def test_a_wrong_method_is_405(self, api: Api, method: str, path: str, allowed: str) -> None:
        response = api.request(method, path, headers=api.headers)
        assert (response.status_code, response.headers["Allow"]) == (405, allowed)


class TestGetSms:
    def test_the_example_is_what_the_reference_prints(self, api: Api) -> None:
        assert api.get("sms/4193366853543393").json() == {
            "id": "4193366853543393",
            "timestamps": {"registered": 1600351683, "sent": 1600351694, "done": 1600355610},
            "info": {
                "status": {"code": "1", "status": "DELIVERED"},
                "cost": 1,
                "operator": {"id": "188", "name": "Entel Pcs", "mcc": "730", "mnc": "10"},
            },
        }

    @pytest.mark.parametrize(
        ("digits", "status"),
        [
            *(("000", "DELIVERED"), ("001", "REJECTED"), ("002", "UNDELIVERED"), ("003", "EXPIRED")),
            *(("004", "SENT"), ("008", "UNKNOWN")),
        ],
    )
    def test_there_is_a_submission_for_each_magic_number(self, api: Api, digits: str, status: str) -> None:
        details = api.get(f"sms/4193366853543{digits}").json()
        assert details["info"]["status"]["status"] == status
        assert bool(details["timestamps"]["done"]) is (status != "SENT")

    @pytest.mark.parametrize("submission_id", ["1", "", "abc", "04193366853543393", "9" * 5000, "4193366853543393/"])
    def test_an_unknown_id_is_404(self, api: Api, submission_id: str) -> None:
        assert api.get(f"sms/{submission_id}").status_code == 404


class TestSendSms:
    def test_one_submission_per_recipient_in_their_order(self, api: Api) -> None:
        api.sandbox.set_timing(pending_for=0, sent_for=0)
        response = api.send("+56900000000", "+56900000005", "+56900000001", "+56900000006", "+56900000008")
        submissions = response.json()["submissions"]
        assert [submission["status"] for submission in submissions] == [
            "submitted", "account_no_balance", "submitted", "unknown_error", "submitted",
        ]  # fmt: skip
        assert ["submissionId" in submission for submission in submissions] == [True, False, True, False, True]
        statuses = [api.status_of(submissions[position]["submissionId"]) for position in (0, 2, 4)]
        assert statuses == ["DELIVERED", "REJECTED", "UNKNOWN"]

    def test_what_was_received_can_be_read(self, api: Api) -> None:
        submission_id = api.send("+56912345678", sender="Acme", text="hola").json()["submissions"][0]["submissionId"]
        (message,) = api.sandbox.state().messages
        assert (message.recipient, message.sender, message.text) == ("+56912345678", "Acme", "hola")
        assert (message.charset, message.status, message.submission_id) == (0, "submitted", submission_id)

    def test_an_unknown_error_can_be_temporary(self, api: Api) -> None:
        statuses = [api.send("+56900000007").json()["submissions"][0]["status"] for _ in range(3)]
        assert statuses == ["unknown_error", "unknown_error", "submitted"]

    @pytest.mark.parametrize(
        ("charset", "encoded", "text", "cost"),
        [
            *((charset, "ñ", "ñ", 1) for charset in (0, "", None)),
            *((1, "a" * length, "a" * length, cost) for length, cost in ((160, 1), (161, 2), (307, 3))),
            *((1, "€" * length, "€" * length, cost) for length, cost in ((80, 1), (81, 2))),
            *((6, "0061" * length, "a" * length, cost) for length, cost in ((70, 1), (71, 2))),
            *((6, "010101090121", "āĉġ", 1), (6, "006800690020D83DDE00", "hi 😀", 1), (8, "%7F%7E", "àü", 1)),
            *((8, "hi+%1Be%20%00", "hi € @", 1), (8, "%1B%0A%1B%1B%1Bz%1B", "\f   ", 1)),
        ],
    )
    def test_each_charset_is_read_and_costs_by_its_parts(
        self, api: Api, charset: Any, encoded: str, text: str, cost: int
    ) -> None:
        api.sandbox.set_balance("10.00")
        assert api.send("+56900000000", text=encoded, charset=charset).status_code == 200
        state = api.sandbox.state()
        assert state.messages[0].text == text
        assert state.balance == f"{10 - cost}.00"

    @pytest.mark.parametrize(
        ("charset", "encoded"),
        [(6, "01"), (6, "010g"), (6, "D83D"), (8, "%80"), (8, "%7"), (8, "ñ"), (2, "x"), ("1", "x"), (True, "x")],
    )
    def test_a_text_that_is_invalid_in_its_charset_is_400(self, api: Api, charset: Any, encoded: str) -> None:
        assert api.send("+56900000000", text=encoded, charset=charset).status_code == 400
        assert api.sandbox.state().messages == []

    @pytest.mark.parametrize(
        "change",
        [
            *({"recipients": value} for value in (None, [], "+56900000000", ["56900000000"], ["+56900000000", 7])),
            *({"sender": 96000}, {"message": "x"}, {"message": {}}),
        ],
    )
    def test_a_malformed_body_is_400(self, api: Api, change: dict[str, Any]) -> None:
        body = {"recipients": ["+56900000000"], "sender": "96000", "message": {"text": "x"}, **change}
        assert api.request("POST", "sms", headers=api.headers, data=json.dumps(body)).status_code == 400
        assert api.sandbox.state().messages == []

    @pytest.mark.parametrize("sender", ["blocked", "", "a" * 12, "Acmé", "a b", "+56900000000"])
    def test_a_refused_sender_is_406(self, api: Api, sender: str) -> None:
        assert api.send("+56900000000", sender=sender).status_code == 406
        assert api.sandbox.state().messages == []


class TestGetBalance:
    def test_it_is_an_exact_decimal_string(self, api: Api) -> None:
        assert api.get("balance").json() == {"balance": "457.00"}
        api.sandbox.set_balance("100000000000000000.10")
        api.send("+56900000000")
        assert api.get("balance").json() == {"balance": "99999999999999999.10"}

    def test_nothing_is_sent_beyond_it(self, api: Api) -> None:
        api.sandbox.set_balance("1.50")
        submissions = api.send("+56900000000", "+56900000009").json()["submissions"]
        assert [submission["status"] for submission in submissions] == ["submitted", "account_no_balance"]
        assert api.get("balance").json() == {"balance": "0.50"}


@pytest.mark.parametrize(
    ("final", "age", "status", "sent", "done"),
    [
        *(("EXPIRED", 0, "PENDING", 0, 0), ("EXPIRED", 9.9, "PENDING", 0, 0), ("EXPIRED", 10, "SENT", 1010, 0)),
        *(("EXPIRED", 29, "SENT", 1010, 0), ("EXPIRED", 30, "EXPIRED", 1010, 1030)),
        *(("PENDING", 1e12, "PENDING", 0, 0), ("SENT", 1e12, "SENT", 1010, 0)),
    ],
)
def test_it_is_pending_then_sent_then_final(final: str, age: float, status: str, sent: int, done: int) -> None:
    details = Submission("1", final, registered=1000.0, pending_for=10, sent_for=20).details(1000.0 + age)
    assert details["info"]["status"]["status"] == status
    assert details["timestamps"] == {"registered": 1000, "sent": sent, "done": done}
