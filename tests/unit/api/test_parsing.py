"""What people and servers may write, property by property: settings, ids, responses, headers, arguments of a wait."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.calls import HttpResponse, parse_retry_after
from airflow_provider_rtisms.api.models import SmsDetails, SmsStatus
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.arguments import parse_submission_ids

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
        details = SmsDetails.from_response("4193366853543393", response)
        assert SmsDetails.from_record(details.to_record()) == details
        assert details.to_record() == {
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


class TestIds:
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


class TestRetryAfter:
    @given(st.text())
    def test_any_text_gives_seconds_or_nothing(self, value: str) -> None:
        seconds = parse_retry_after(value)
        assert seconds is None or 0 <= seconds < float("inf")


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

    def test_empty_fields_of_a_form_mean_the_defaults(self) -> None:
        empty = dict.fromkeys(("base_url", "timeout", "max_concurrency", "max_attempts", "proxy", "ca_bundle"), "")
        assert ApiSettings(client_id="me", client_secret="s", **empty) == ApiSettings(client_id="me", client_secret="s")  # type: ignore[arg-type]
