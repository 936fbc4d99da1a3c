"""The calls of the API without a network: the bytes that go out, and what each response means."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_rtisms import __version__
from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.calls import (
    Call,
    HttpResponse,
    parse_retry_after,
)
from airflow_provider_rtisms.api.models import SmsDetails
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.recipients import Recipient, parse_recipients
from airflow_provider_rtisms.api.values.secret import Secret
from airflow_provider_rtisms.api.values.text import SmsText

AUTH = endpoints.authenticate(ApiSettings(client_id="me & you", client_secret="s3cret/+&= ñ"))
SMS = endpoints.get_sms("4193366853543393")
SEND = endpoints.send_sms(recipients=["+56900000001", "+56900000002"], text="hola, mundo", sender="96000")
BALANCE = endpoints.get_balance()
ANY = Call(name="any", method="GET", path="/api/any", parse=lambda content: content)


def response(body: Any = b"", status: int = 200, **headers: str) -> HttpResponse:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


class TestRequests:
    def test_authenticate(self) -> None:
        request = AUTH.request()
        assert (request.method, request.path, request.on_new_connection) == ("POST", "/api/auth", False)
        assert request.body == (
            b"grant_type=client_credentials&client_id=me+%26+you&client_secret=s3cret%2F%2B%26%3D+%C3%B1"
        )
        assert request.headers == {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"airflow-provider-rtisms/{__version__}",
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
        }
        assert str(AUTH) == "authenticate"

    def test_get_sms(self) -> None:
        request = SMS.request(Secret("t0ken"))
        assert (request.method, request.path, request.body) == ("GET", "/api/sms/4193366853543393", None)
        assert request.on_new_connection is False
        assert request.headers["Authorization"] == "Bearer t0ken"
        assert request.headers["Content-Type"] == "application/json"
        assert str(SMS) == "get_sms 4193366853543393"

    def test_send_sms(self) -> None:
        request = SEND.request(Secret("t0ken"))
        assert (request.method, request.path, request.on_new_connection) == ("POST", "/api/sms", True)
        assert json.loads(request.body or b"") == {
            "recipients": ["+56900000001", "+56900000002"],
            "sender": "96000",
            "message": {"charset": 1, "text": "hola, mundo"},
        }
        assert str(SEND) == "send_sms to 2 recipients"
        assert (SEND.idempotent, SEND.is_confidential) == (False, True)

    def test_get_balance(self) -> None:
        request = BALANCE.request(Secret("t0ken"))
        assert (request.method, request.path, request.body) == ("GET", "/api/balance", None)
        assert str(BALANCE) == "get_balance"

    @pytest.mark.parametrize(
        ("recipients", "sent"),
        [
            (iter(["+56900000001", "+56900000002"]), 2),
            (["+56900000001", "+56900000001"], 1),
            ([Recipient("+56900000001")] * 2, 2),
            ((Recipient("+56900000001"),), 1),
            ("+56 9 0000 0001", 1),
            (parse_recipients("+56900000001"), 1),
        ],
    )
    def test_each_recipient_is_sent_to(self, recipients: Any, sent: int) -> None:
        body = endpoints.send_sms(recipients=recipients, text="x", sender="96000").body
        assert len(json.loads(body or b"")["recipients"]) == sent

    @pytest.mark.parametrize("recipients", [[], "", None, ["+569"], [Recipient("+56900000001"), "junk"]])
    def test_recipients_that_are_none_are_refused(self, recipients: Any) -> None:
        with pytest.raises(errors.RtiSmsInputError, match=r"recipients|phone number"):
            endpoints.send_sms(recipients=recipients, text="x", sender="96000")

    @pytest.mark.parametrize(
        ("text", "charset", "sent"),
        [
            ("hola", 6, {"charset": 6, "text": "0068006F006C0061"}),
            (SmsText.of("hola", 8), None, {"charset": 8, "text": "hola"}),
            (Secret("hola"), None, {"charset": 1, "text": "hola"}),
        ],
    )
    def test_a_text_is_sent_in_its_charset(self, text: Any, charset: Any, sent: dict[str, Any]) -> None:
        body = endpoints.send_sms(recipients="+56900000001", text=text, sender="96000", charset=charset).body
        assert json.loads(body or b"")["message"] == sent

    @pytest.mark.parametrize("sender", ["", "  ", None, 96000])
    def test_a_sender_that_is_none_is_refused(self, sender: Any) -> None:
        with pytest.raises(errors.RtiSmsInputError, match=r"^sender is .*: use a str that is not empty\.$"):
            endpoints.check_sender(sender)


class TestResults:
    @pytest.mark.parametrize(
        ("value", "validity"),
        [
            *(("3600", 3600.0), ("0", 0.0), (60, 60.0), (" 1.5 ", 1.5), ("9" * 12, 999999999999.0), ("9" * 13, None)),
            *((True, None), ("-1", None), ("\t60.5\n", 60.5), ("1" + " " * 39 + "x", None), ("0\x1f", None)),
            ("٣٦٠٠", None),
        ],
    )
    def test_a_grant_has_a_token_and_its_validity(self, value: Any, validity: float | None) -> None:
        granted = AUTH.read(response({"access_token": "t0ken", "validity_period": value}))
        assert (granted.access_token, granted.validity) == (Secret("t0ken"), validity)

    @pytest.mark.parametrize("token", ["a b", "a\r\nb", "é", "a\x7f", " "])
    def test_a_token_that_could_end_a_header_is_refused(self, token: str) -> None:
        with pytest.raises(errors.RtiSmsUnsafeTokenError) as caught:
            AUTH.read(response({"access_token": token}))
        assert (caught.value.call, caught.value.status) == ("authenticate", 200)
        assert str(caught.value).startswith("authenticate: the access token holds characters")

    def test_submissions_are_matched_by_position(self) -> None:
        items = [{"status": "submitted", "submissionId": "1"}, {"status": "unknown_error"}]
        assert [one.submission_id for one in SEND.read(response({"submissions": items}))] == ["1", None]

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_another_number_of_submissions_is_refused_and_kept(self, count: int) -> None:
        items = [{"status": "submitted", "submissionId": str(number)} for number in range(count)]
        with pytest.raises(errors.RtiSmsInvalidResponseError) as caught:
            SEND.read(response({"submissions": items}))
        assert f"send_sms: the response lists {count} submissions for 2 recipients" in str(caught.value)
        assert (len(caught.value.submissions), caught.value.call, caught.value.status) == (count, "send_sms", 200)

    @pytest.mark.parametrize(
        ("call", "bodies", "what"),
        [
            (BALANCE, [{}, [], {"balance": "much"}], "'balance' is not a decimal string"),
            (SEND, [{}, [], {"balance": "much"}], "'submissions' is missing or not a list"),
            (AUTH, [{}, [], {"access_token": ""}, {"access_token": 7}], "'access_token' is missing or not a string"),
        ],
    )
    def test_a_response_without_its_field_is_refused(self, call: Call[Any], bodies: list[Any], what: str) -> None:
        for body in bodies:
            with pytest.raises(errors.RtiSmsInvalidResponseError, match=what):
                call.read(response(body))

    def test_a_byte_order_mark_is_ignored_and_a_compressed_response_is_refused(self) -> None:
        assert ANY.read(response(b"\xef\xbb\xbf[1]", Content_Encoding="Identity")) == [1]
        with pytest.raises(errors.RtiSmsInvalidResponseError, match="the response is compressed") as caught:
            ANY.read(response(b"1", Content_Encoding="gzip"))
        assert caught.value.status == 200


class TestEchoes:
    """Results go to XCom, so they must not repeat what was sent."""

    @pytest.mark.parametrize("status", ["s3cret-token", "S3CRET-TOKEN"])
    def test_an_undocumented_status_with_a_secret_is_refused(self, status: str) -> None:
        with pytest.raises(errors.RtiSmsInvalidResponseError, match="repeats confidential values"):
            SMS.read(response({"info": {"status": {"status": status}}}), [Secret("s3cret-token")])

    @pytest.mark.parametrize("echo", ["s3cret-token", "s3cret\\u002dtoken", "S3CRET token"])
    def test_a_kept_text_with_a_secret_is_refused(self, echo: str) -> None:
        call, secrets = endpoints.get_sms("1", raw=True), [Secret("s3cret-token")]
        with pytest.raises(errors.RtiSmsInvalidResponseError, match="it repeats the client secret or the token"):
            call.read(response(f'{{"id": "1", "new": "{echo}"}}'.encode()), secrets)
        text = '{"id": "1", "new": "\\u00e9"}'
        details = call.read(response(text.encode()), secrets)
        assert (details.raw, details) == (text, SmsDetails("1"))

    def test_other_statuses_are_read(self) -> None:
        for status in ("DELIVERED", "NEW_WORD", None):
            assert SMS.read(response({"info": {"status": {"status": status}}}), [Secret("DELIVERED")]).status == status

    @pytest.mark.parametrize(
        "item",
        [{"status": "n56900000002"}, {"status": "hola_mundo"}, {"status": "submitted", "submissionId": "56900000001"}],
    )
    def test_a_submission_with_a_number_or_the_text_is_refused(self, item: dict[str, str]) -> None:
        items = [item, {"status": "submitted", "submissionId": "1"}]
        with pytest.raises(errors.RtiSmsInvalidResponseError, match="repeats confidential values"):
            SEND.read(response({"submissions": items}))

    def test_documented_words_may_be_in_the_text(self) -> None:
        call = endpoints.send_sms(recipients="+56900000001", text="submitted", sender="96000")
        assert call.read(response({"submissions": [{"status": "submitted", "submissionId": "1"}]}))[0].is_submitted


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "status", "kind"),
        [
            (AUTH, 400, errors.RtiSmsAuthenticationError),
            (AUTH, 401, errors.RtiSmsAuthenticationError),
            (AUTH, 403, errors.RtiSmsForbiddenError),
            (SMS, 400, errors.RtiSmsBadRequestError),
            (SMS, 401, errors.RtiSmsTokenExpiredError),
            (SMS, 299, errors.RtiSmsUnexpectedStatusError),
            (SMS, 300, errors.RtiSmsRedirectError),
            (SMS, 399, errors.RtiSmsRedirectError),
            (SMS, 402, errors.RtiSmsUnexpectedStatusError),
            (SMS, 201, errors.RtiSmsUnexpectedStatusError),
        ],
    )
    def test_a_status_has_its_class(self, call: Call[Any], status: int, kind: type[errors.RtiSmsError]) -> None:
        with pytest.raises(errors.RtiSmsError) as caught:
            call.read(response(status=status, Retry_After="7"))
        assert type(caught.value) is kind
        assert caught.value.status == status
        assert caught.value.retry_after == 7.0
        assert (caught.value.call, caught.value.subject) == (call.name, call.subject)
        assert str(caught.value).startswith(f"{call}: the server returned HTTP {status}. ")
        assert str(caught.value).endswith("The response was an empty body.")

    def test_a_message_ends_with_what_to_do(self) -> None:
        assert str(ANY.error(errors.RtiSmsForbiddenError, "what came")) == (
            "any: what came. The account may not do this; ask RealTime to allow it."
        )
        assert str(ANY.error(errors.RtiSmsServerError, "what came")) == "any: what came."

    @pytest.mark.parametrize(
        ("body", "shown"),
        [
            (b"a" * 200, repr("a" * 200)),
            (b"a" * 201, repr("a" * 200 + "...")),
            (b" a\n\n b\xff ", repr("a b\ufffd")),
            (b" " * 3999 + b"a" * 9, "'a'"),
            (b"me s3cret-token me", "'me *** me'"),
        ],
    )
    def test_the_beginning_of_a_body_is_shown(self, body: bytes, shown: str) -> None:
        with pytest.raises(errors.RtiSmsForbiddenError) as caught:
            ANY.read(response(body, 403), [Secret("s3cret-token")])
        remedy = errors.REMEDIES[errors.RtiSmsForbiddenError]  # comes first: Airflow's page cuts a long line
        assert str(caught.value) == f"any: the server returned HTTP 403. {remedy} The response was {shown}."

    def test_of_a_confidential_body_known_words_are_shown(self) -> None:
        with pytest.raises(errors.RtiSmsSenderRefusedError) as caught:
            SEND.read(response(b"Invalid SENDER 56900000001: hola, mundo", 406))
        assert str(caught.value).startswith("send_sms to 2 recipients: ")
        assert (
            str(endpoints.send_sms(recipients=["+56900000001"], text="hola", sender="96000"))
            == "send_sms to 1 recipient"
        )
        assert "a body of 39 bytes that mentions: invalid, sender (not shown, since" in str(caught.value)
        with pytest.raises(errors.RtiSmsSenderRefusedError, match=r"a body of 4 bytes \(not shown"):
            SEND.read(response(b"hola", 406))

    def test_the_reason_may_repeat_bytes_so_it_is_left_out_where_they_are_confidential(self) -> None:
        with pytest.raises(errors.RtiSmsInvalidResponseError, match=r"cannot be read\. It was a body of 1 bytes"):
            SEND.read(response(b"\xff"))
        with pytest.raises(errors.RtiSmsInvalidResponseError, match=r"cannot be read \(.*codec can't decode"):
            ANY.read(response(b"\xff"))
        with pytest.raises(errors.RtiSmsInvalidResponseError, match=r"\(Expecting.*\). It was '<html>'") as caught:
            ANY.read(response(b"<html>"))
        assert caught.value.status == 200
        with pytest.raises(errors.RtiSmsInvalidResponseError, match=r"cannot be read \('submissions' is missing"):
            SEND.read(response({}))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((None, None), ("7", 7.0), (" 7.25 ", 7.25), ("9" * 9, 999999999.0), ("9" * 10, None), ("-1", None)),
        *(("", None), ("soon", None), ("Wed, 25 Nov 2026 12:00:10 GMT", 10.0)),
        *(("Wed, 25 Nov 2026 12:00:10", 10.0), ("Wed, 25 Nov 2026 12:00:10 +0100", 0.0)),
        ("Wed, 25 Nov 2026 11:59:59 GMT", 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, datetime(2026, 11, 25, 12, tzinfo=UTC)) == seconds
