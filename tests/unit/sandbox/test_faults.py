"""Faults: which requests they affect, and what a client sees."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_rtisms.sandbox import Fault
from airflow_provider_rtisms.sandbox.settings import KINDS, ActiveFault

if TYPE_CHECKING:
    from tests.unit.sandbox.conftest import Api

faults = st.builds(
    Fault,
    kind=st.sampled_from([kind for kind in KINDS if kind != "interim"]),
    probability=st.floats(0, 1),
    times=st.none() | st.integers(0, 1000),
    path=st.sampled_from([None, "auth", "sms", "balance"]),
    method=st.sampled_from([None, "GET", "POST"]),
    seconds=st.floats(0, 1000),
    statuses=st.lists(st.integers(200, 599), min_size=1).map(tuple),
    per_second=st.floats(0.001, 1e6),
    retry_after=st.sampled_from([None, "120", "Wed, 21 Oct 2037 07:28:00 GMT"]),
)


@given(faults | st.builds(Fault, st.just("interim"), statuses=st.none() | st.just((102, 103))))
def test_a_fault_parses_back_from_its_text(fault: Fault) -> None:
    assert Fault.parse(str(fault)) == fault


INVALID = [
    *("", "quake", "error:x", "error:colour=red", "error:probability=2", "error:statuses=", "error:statuses=99"),
    *("error:statuses=103", "interim:statuses=101", "interim:statuses=200", "latency:seconds=-1"),
    *("reset:path=pets", "reset:method=PUT", "reset:times=-1", "rate_limit:per_second=0"),
]


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each has a message of its own
        Fault.parse(text)


def statuses_of(api: Api, *calls: tuple[str, str]) -> list[int]:
    return [api.request(method, path, headers=api.headers).status_code for method, path in calls]


def test_it_affects_only_its_path_and_method_and_only_so_often(api: Api) -> None:
    api.sandbox.set_faults(Fault("error", times=2, path="sms", method="POST", statuses=(503,)))
    post, get, other = ("POST", "sms"), ("GET", "sms/4193366853543393"), ("GET", "balance")
    assert statuses_of(api, get, other, post, get, post, post) == [200, 200, 503, 200, 503, 400]


def test_a_probability_affects_its_share_of_the_requests(api: Api) -> None:
    api.sandbox.set_faults(Fault("error", probability=0.3, path="balance", statuses=(503,)))
    assert 60 < statuses_of(api, *[("GET", "balance")] * 300).count(503) < 120


def test_latencies_add_up_and_the_first_other_fault_applies(api: Api) -> None:
    first, second = (Fault("error", path="balance", statuses=(status,)) for status in (501, 502))
    latencies = [Fault("latency", seconds=seconds, path="balance") for seconds in (0.1, 0.2)]
    _ = api.headers
    api.sandbox.set_faults(latencies[0], replace(first, times=1), second, latencies[1])
    start = time.monotonic()
    assert statuses_of(api, ("GET", "balance"), ("GET", "balance")) == [501, 502]
    assert time.monotonic() - start >= 0.6


def test_a_rate_limit_lets_one_second_worth_through_and_then_its_rate() -> None:
    now = 0.0
    limit = ActiveFault(Fault("rate_limit", per_second=10), Random(0), clock=lambda: now)

    def let_through(count: int) -> int:
        return sum(not limit.applies("GET", "sms") for _ in range(count))

    assert let_through(50) == 10
    now += 0.5
    assert let_through(50) == 5
    now += 60
    assert let_through(50) == 10


def exchange(connection: socket.socket, version: bytes = b"1.1") -> bytes:
    """Ask for the balance without a token, and return all that comes until the end of the 401, which has no body."""
    connection.sendall(b"GET /api/balance HTTP/" + version + b"\r\nHost: sandbox\r\n\r\n")
    received = b""
    while b" 401 " not in received or not received.endswith(b"\r\n\r\n"):
        part = connection.recv(65536)
        assert part, received
        received += part
    return received


class TestOnTheWire:
    def test_errors_come_in_turn_with_retry_after(self, api: Api) -> None:
        rate_limit = Fault("rate_limit", per_second=0.001, path="balance", retry_after="Wed, 21 Oct 2037 07:28:00 GMT")
        api.sandbox.set_faults(Fault("error", times=4, path="balance", retry_after=7), rate_limit)
        responses = [api.get("balance") for _ in range(6)]
        assert [response.status_code for response in responses] == [500, 502, 503, 500, 200, 429]
        came = [response.headers.get("Retry-After") for response in responses]
        assert came == ["7", "7", "7", "7", None, "Wed, 21 Oct 2037 07:28:00 GMT"]

    @pytest.mark.parametrize(("kind", "received"), [("reset", 0), ("lost_response", 1)])
    def test_a_connection_is_reset_before_or_after_the_request_is_processed(
        self, api: Api, kind: str, received: int
    ) -> None:
        _ = api.headers
        api.sandbox.set_faults(Fault(kind, times=1, path="sms"))
        with pytest.raises(requests.ConnectionError, match="ConnectionResetError"):
            api.send("+56900000000")
        state = api.sandbox.state()
        assert len(state.messages) == received
        assert state.responses["POST sms"] == {kind: 1}

    def test_a_body_is_cut_off_below_its_content_length(self, api: Api) -> None:
        _ = api.headers
        api.sandbox.set_faults(Fault("cut_off", times=1))
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            api.get("balance")
        assert api.get("balance").json() == {"balance": "457.00"}

    def test_an_outage_resets_every_connection_idle_ones_too(self, api: Api) -> None:
        with api.connect() as connection:
            assert exchange(connection).startswith(b"HTTP/1.1 401")
            api.sandbox.set_faults(Fault("outage"))
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        with pytest.raises(requests.ConnectionError, match="ConnectionResetError"):
            api.authenticate()
        assert api.sandbox.state().sockets == 0

    @pytest.mark.parametrize(
        ("statuses", "interim"),
        [
            (None, b"HTTP/1.1 103 Early Hints\r\n\r\n"),
            ((102,), b"HTTP/1.1 102 Processing\r\n\r\n"),
            ((100, 199), b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 199 \r\n\r\n"),
        ],
    )
    def test_interim_responses_go_out_before_the_response(
        self, api: Api, statuses: tuple[int, ...] | None, interim: bytes
    ) -> None:
        api.sandbox.set_faults(Fault("interim", times=2, statuses=statuses))
        with api.connect() as connection:
            assert exchange(connection).startswith(interim + b"HTTP/1.1 401 ")
            assert exchange(connection, version=b"1.0").startswith(b"HTTP/1.0 401 ")  # which knows no such responses
        assert api.sandbox.state().responses == {"GET balance": {"401": 2}}

    def test_an_interim_response_does_not_wait_for_the_latency_of_the_response(self, api: Api) -> None:
        api.sandbox.set_faults(Fault("latency", seconds=3600), Fault("interim"))
        with api.connect() as connection:
            connection.sendall(b"GET /api/balance HTTP/1.1\r\nHost: sandbox\r\n\r\n")
            assert connection.recv(65536) == b"HTTP/1.1 103 Early Hints\r\n\r\n"

    def test_control_calls_are_not_affected_and_end_them(self, api: Api) -> None:
        for end in (api.sandbox.set_faults, api.sandbox.reset):
            api.sandbox.set_faults(*map(Fault, KINDS))
            assert api.sandbox.state().count_responses("outage") == 0
            end()
            api._token = None
            assert api.get("balance").status_code == 200
