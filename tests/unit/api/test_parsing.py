"""What people and servers may write, property by property: settings, ids, responses, headers."""

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

ID = "4193366853543393"
TEXT = st.text() | st.sampled_from(["", "1", "0", ID, "DELIVERED", "\x00", "\ud800", "1e400", "-5"])
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


def some_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give an object with some of its fields, or something else."""
    return maybe(st.fixed_dictionaries({}, optional={name: maybe(value) for name, value in fields.items()}))


DETAILS = some_of(
    id=st.just(ID),
    timestamps=some_of(**dict.fromkeys(("registered", "sent", "done"), st.integers(0, 2**33))),
    info=some_of(
        status=some_of(status=st.sampled_from(list(SmsStatus))),
        cost=st.floats() | st.integers(),
        operator=st.dictionaries(KEYS, TEXT),
    ),
)


@given(DETAILS)
def test_any_details_give_a_safe_record_or_a_value_error(response: Any) -> None:
    try:
        record = SmsDetails.from_response(ID, response).to_record()
    except ValueError:
        return
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record
    assert "\\u0000" not in text
    text.encode("utf-8")
    assert record["submission_id"] == ID


@given(st.binary() | DETAILS.map(lambda response: json.dumps(response).encode()))
def test_any_body_gives_details_or_an_invalid_response_error(body: bytes) -> None:
    came = outcome(endpoints.get_sms(ID).read, HttpResponse(200, {}, body))
    assert isinstance(came, SmsDetails | errors.RtiSmsInvalidResponseError)


@given(st.lists(st.integers(0, 50) | st.integers(0, 50).map(str)))
def test_lists_of_ids_keep_their_order_each_id_once(ids: list[Any]) -> None:
    records = [{"submission_id": one} for one in ids]
    for written in (ids, tuple(ids), iter(ids), json.dumps(ids), repr(ids), records):
        assert parse_submission_ids(written) == list(dict.fromkeys(map(str, ids)))


@given(JSON | st.binary() | JSON.map(json.dumps))
def test_any_value_gives_ids_or_an_input_error(value: Any) -> None:
    ids = outcome(parse_submission_ids, value)
    if isinstance(ids, errors.RtiSmsInputError):
        assert "submission_ids" in str(ids)
    else:
        assert all(re.fullmatch("[0-9]{1,100}", one) for one in ids)


@given(st.text())
def test_any_retry_after_gives_seconds_or_nothing(value: str) -> None:
    seconds = parse_retry_after(value)
    assert seconds is None or 0 <= seconds < float("inf")


@given(JSON | st.fixed_dictionaries({"access_token": maybe(st.just("t")), "validity_period": JSON}))
def test_any_response_gives_a_safe_token_and_its_seconds_or_an_error(response: Any) -> None:
    call = endpoints.authenticate(ApiSettings(client_id="me", client_secret="s3cret"))
    granted = outcome(call.read, HttpResponse(200, {}, json.dumps(response).encode()))
    if isinstance(granted, errors.RtiSmsError):
        assert isinstance(granted, errors.RtiSmsInvalidResponseError | errors.RtiSmsUnsafeTokenError)
    else:
        assert re.fullmatch(r"[\x21-\x7e]+", granted.access_token.get_secret_value())
        assert granted.validity is None or 0 <= granted.validity < 1e12


@given(st.text(), st.text())
def test_any_base_url_leads_nowhere_in_plain_text_by_mistake(scheme: str, rest: str) -> None:
    for value in (f"{scheme}://{rest}", f"http://{rest}", scheme):
        settings = outcome(ApiSettings, client_id="me", client_secret="s3cret", base_url=value)
        if not isinstance(settings, errors.RtiSmsConfigError):
            assert settings.is_tls or re.match(r"http://(localhost|127\.|\[::1\])", settings.base_url.lower())


@given(st.sampled_from(["timeout", "max_concurrency", "max_attempts", "requests_per_second"]), SCALARS | JSON)
def test_any_number_is_taken_or_named(name: str, value: Any) -> None:
    settings = outcome(ApiSettings, client_id="me", client_secret="s3cret", **{name: value})
    if isinstance(settings, errors.RtiSmsConfigError):
        assert name in str(settings)
    else:
        number = getattr(settings, name)
        assert number is None or 0 < number < float("inf")
