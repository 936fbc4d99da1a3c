"""What people and servers may write, property by property: settings, ids, responses, headers, arguments of a wait."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.calls import HttpResponse, parse_retry_after
from airflow_provider_rtisms.api.models import FINAL_STATUSES, SmsDetails, SmsStatus
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.arguments import check_submission_id, parse_submission_ids

TEXT = st.text() | st.sampled_from(["", "1", "0", "4193366853543393", "DELIVERED", "\x00", "\ud800", "1e400", "-5"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
NAMES = "id timestamps info registered sent done status code cost operator name mcc access_token validity_period"
KEYS = TEXT | st.sampled_from(NAMES.split(" "))
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5))


def outcome(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return a result, or our own error that came instead; any other is a failure of the test."""
    try:
        return function(*arguments, **options)
    except errors.RtiSmsError as error:
        return error


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give what was promised more often than not."""
    return values | values | values | JSON


DETAILS = maybe(
    st.fixed_dictionaries(
        {},
        optional={
            "id": maybe(st.just("4193366853543393")),
            "timestamps": maybe(
                st.fixed_dictionaries(
                    {}, optional={name: maybe(st.integers(0, 2**33)) for name in ("registered", "sent", "done")}
                )
            ),
            "info": maybe(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "status": maybe(st.fixed_dictionaries({"status": maybe(st.sampled_from(list(SmsStatus)))})),
                        "cost": maybe(st.floats() | st.integers()),
                        "operator": maybe(st.dictionaries(KEYS, TEXT)),
                    },
                )
            ),
        },
    )
)


class TestDetails:
    @given(DETAILS)
    def test_any_json_gives_a_safe_record_or_a_value_error(self, response: Any) -> None:
        try:
            record = SmsDetails.from_response("4193366853543393", response).to_record()
        except ValueError:
            return
        text = json.dumps(record, allow_nan=False)
        assert json.loads(text) == record
        assert "\\u0000" not in text
        text.encode("utf-8")
        assert record["submission_id"] == "4193366853543393"

    @given(st.binary() | DETAILS.map(lambda response: json.dumps(response).encode()))
    def test_any_body_gives_details_or_an_invalid_response_error(self, body: bytes) -> None:
        came = outcome(endpoints.get_sms("4193366853543393").read, HttpResponse(200, {}, body))
        assert isinstance(came, SmsDetails | errors.RtiSmsInvalidResponseError)

    def test_the_documented_example(self) -> None:
        response = {
            "id": "4193366853543393",
            "timestamps": {"registered": 1600351683, "sent": 1600351694, "done": 1600355610},
            "info": {
                "status": {"code": "1", "status": "DELIVERED"},
                "cost": 1,
                "operator": {"id": "188", "name": "Entel Pcs", "mcc": "730", "mnc": "01"},
            },
        }
        assert SmsDetails.from_response("4193366853543393", response).to_record() == {
            "submission_id": "4193366853543393",
            "status": "DELIVERED",
            "status_code": "1",
            "is_final": True,
            "registered_at": "2020-09-17T14:08:03+00:00",
            "sent_at": "2020-09-17T14:08:14+00:00",
            "done_at": "2020-09-17T15:13:30+00:00",
            "cost": 1,
            "operator_id": "188",
            "operator_name": "Entel Pcs",
            "operator_mcc": "730",
            "operator_mnc": "01",
        }

    @pytest.mark.parametrize("done", [0, None, 1600355610])
    @pytest.mark.parametrize("status", [*SmsStatus, "NEW_WORD", None])
    def test_what_is_final(self, status: str | None, done: int | None) -> None:
        response = {"timestamps": {"done": done}, "info": {"status": {"status": status}}}
        details = SmsDetails.from_response("1", response)
        depends_on_done = status in ("UNKNOWN", "NEW_WORD", None)
        assert details.is_final == (status in FINAL_STATUSES or (depends_on_done and bool(done)))
        assert details.status == status


class TestIds:
    @given(st.integers(0, 10**100 - 1))
    def test_digits_are_kept_as_they_came(self, number: int) -> None:
        assert check_submission_id(number) == check_submission_id(str(number)) == str(number)

    @given(st.integers(0, 10**50 - 1), st.integers(0, 50))
    def test_leading_zeros_are_removed(self, number: int, zeros: int) -> None:
        assert check_submission_id("0" * zeros + str(number)) == str(number)

    @given(SCALARS | JSON | st.binary())
    def test_anything_else_is_refused(self, value: Any) -> None:
        checked = outcome(check_submission_id, value)
        if not isinstance(checked, errors.RtiSmsInputError):
            assert re.fullmatch("[0-9]{1,100}", checked)
            assert isinstance(value, str | int)
            assert not isinstance(value, bool)

    @given(st.lists(st.integers(0, 50) | st.integers(0, 50).map(str)))
    def test_lists_keep_their_order_each_id_once(self, ids: list[Any]) -> None:
        expected = list(dict.fromkeys(map(str, ids)))
        for written in (
            ids,
            tuple(ids),
            iter(ids),
            json.dumps(ids),
            repr(ids),
            [{"submission_id": one} for one in ids],
        ):
            assert parse_submission_ids(written) == expected

    @given(JSON | st.binary() | JSON.map(json.dumps))
    def test_any_value_gives_ids_or_an_input_error(self, value: Any) -> None:
        ids = outcome(parse_submission_ids, value)
        if isinstance(ids, errors.RtiSmsInputError):
            assert "submission_ids" in str(ids)
        else:
            assert all(re.fullmatch("[0-9]{1,100}", one) for one in ids)

    def test_the_position_is_named_and_the_value_is_not(self) -> None:
        with pytest.raises(errors.RtiSmsInputError, match=r"submission_ids\[2\]") as caught:
            parse_submission_ids(["1", "2", "+56912345678"])
        assert "345678" not in str(caught.value)


class TestRetryAfter:
    @given(st.text())
    def test_any_text_gives_seconds_or_nothing(self, value: str) -> None:
        seconds = parse_retry_after(value)
        assert seconds is None or 0 <= seconds < float("inf")

    @given(st.integers(0, 10**9 - 1))
    def test_seconds(self, seconds: int) -> None:
        assert parse_retry_after(f" {seconds} ") == seconds

    @given(st.integers(10**9, 3 * 10**9), st.integers(-(10**6), 10**6))
    def test_dates_count_from_now(self, epoch: int, seconds: int) -> None:
        now = datetime.fromtimestamp(epoch, UTC)
        value = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
        assert parse_retry_after(value, now) == max(0, seconds)


class TestGrant:
    @given(JSON)
    def test_any_response_gives_a_safe_token_or_an_error(self, response: Any) -> None:
        call = endpoints.authenticate(ApiSettings(client_id="me", client_secret="s3cret"))
        granted = outcome(call.read, HttpResponse(200, {}, json.dumps(response).encode()))
        if isinstance(granted, errors.RtiSmsError):
            assert isinstance(granted, errors.RtiSmsInvalidResponseError | errors.RtiSmsUnsafeTokenError)
        else:
            assert re.fullmatch(r"[\x21-\x7e]+", granted.access_token.get_secret_value())

    @given(SCALARS | JSON)
    def test_any_validity_gives_seconds_or_nothing(self, validity: Any) -> None:
        call = endpoints.authenticate(ApiSettings(client_id="me", client_secret="s3cret"))
        granted = call.parse({"access_token": "t", "validity_period": validity})
        assert granted.validity is None or 0 <= granted.validity < 1e12

    @pytest.mark.parametrize(
        ("validity", "seconds"),
        [("1" + " " * 60, 1.0), ("\t60.5\n", 60.5), ("1" + " " * 39 + "x", None), ("0\x1f", None), (True, None)],
    )
    def test_what_is_read_is_the_number(self, validity: Any, seconds: float | None) -> None:
        call = endpoints.authenticate(ApiSettings(client_id="me", client_secret="s3cret"))
        assert call.parse({"access_token": "t", "validity_period": validity}).validity == seconds


@pytest.mark.parametrize("balance", ["457.00", "0", "-3.5", "12345678901234567890.10", 457, 0.1])
def test_balance_is_exact(balance: Any) -> None:
    body = json.dumps({"balance": balance}).encode()
    assert endpoints.get_balance().read(HttpResponse(200, {}, body)) == Decimal(str(balance))


class TestSettings:
    @given(st.text(), st.text())
    def test_any_base_url_leads_nowhere_in_plain_text_by_mistake(self, scheme: str, rest: str) -> None:
        for value in (f"{scheme}://{rest}", f"http://{rest}", scheme):
            settings = outcome(ApiSettings, client_id="me", client_secret="s3cret", base_url=value)
            if isinstance(settings, errors.RtiSmsConfigError):
                continue
            assert settings.is_tls or re.match(r"http://(localhost|127\.|\[::1\])", settings.base_url.lower())

    @given(
        st.sampled_from(["timeout", "max_concurrency", "max_attempts", "requests_per_second"]),
        SCALARS | JSON,
    )
    def test_any_number_is_taken_or_named(self, name: str, value: Any) -> None:
        settings = outcome(ApiSettings, client_id="me", client_secret="s3cret", **{name: value})
        if isinstance(settings, errors.RtiSmsConfigError):
            assert name in str(settings)
        else:
            number = getattr(settings, name)
            assert number is None or 0 < number < float("inf")

    @pytest.mark.parametrize(
        "base_url",
        [
            "http://sms.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://127.0.0.1@evil.example",
            "https://user:s3cret@sms.example",
            "https://sms.example?x=1",
            "https://sms.example#x",
            "https://sms.example:99999",
            "https://",
            "//sms.example",
            "sms.example",
            "ftp://sms.example",
            "https://sms.example/\r\nX: 1",
            "https://[::1",
        ],
    )
    def test_bad_base_urls_are_refused(self, base_url: str) -> None:
        with pytest.raises(errors.RtiSmsConfigError, match="Host") as caught:
            ApiSettings(client_id="me", client_secret="s3cret", base_url=base_url)
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize(
        "base_url", ["http://localhost:1", "http://127.9.9.9", "http://[::1]:1", "https://sms.example"]
    )
    def test_loopback_may_be_plain(self, base_url: str) -> None:
        assert ApiSettings(client_id="me", client_secret="s3cret", base_url=base_url).base_url == base_url

    @pytest.mark.parametrize("value", [None, "", "  "])
    @pytest.mark.parametrize("name", ["client_id", "client_secret"])
    def test_credentials_are_required(self, name: str, value: Any) -> None:
        with pytest.raises(errors.RtiSmsConfigError, match=name):
            ApiSettings(**{"client_id": "me", "client_secret": "s3cret", name: value})

    def test_junk_for_certificates_is_refused(self, tmp_path: Any) -> None:
        junk = tmp_path / "junk.pem"
        junk.write_text("no certificate")
        for value in (str(junk), str(tmp_path / "missing.pem"), 5):
            with pytest.raises(errors.RtiSmsConfigError, match="ca_bundle"):
                ApiSettings(client_id="me", client_secret="s3cret", ca_bundle=value)

    def test_empty_fields_of_a_form_mean_the_defaults(self) -> None:
        empty = dict.fromkeys(("base_url", "timeout", "max_concurrency", "max_attempts", "proxy", "ca_bundle"), "")
        assert ApiSettings(client_id="me", client_secret="s", **empty) == ApiSettings(client_id="me", client_secret="s")  # type: ignore[arg-type]
