"""What is repeated, how often, and after which pause, on both transports."""

from __future__ import annotations

import time

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.calls import Call
from tests.hostile import Step, details, grant, hang, raw, reset, response
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

SMS = endpoints.get_sms("4193366853543393")
ONCE = Call(name="once", method="POST", path="/api/once", parse=lambda content: content, body=b"{}", idempotent=False)

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_transient_statuses_are_retried(transport: Transport, serve: Serve, status: int) -> None:
    server = serve(*[response(b"try later", status)] * 4, details())
    assert transport.perform(server, SMS).status == "DELIVERED"
    assert len(server.calls) == 5
    assert len(server.grants) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_transient_statuses_are_retried_at_auth(transport: Transport, serve: Serve, status: int) -> None:
    server = serve(details(), auth=[response(status=status), response(b"<html>"), reset, grant()])
    assert transport.perform(server, SMS).status == "DELIVERED"
    assert len(server.grants) == 4


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406, 201, 204, 418, 501])
def test_permanent_statuses_fail_at_once(transport: Transport, serve: Serve, status: int) -> None:
    server = serve(response(b"" if status == 204 else b"no such thing" + b"." * 300, status))
    what = rf"^get_sms 4193366853543393: the server returned HTTP {status}"
    with pytest.raises(errors.RtiSmsPermanentError, match=what) as caught:
        transport.perform(server, SMS)
    assert (caught.value.status, caught.value.subject) == (status, "4193366853543393")
    assert len(str(caught.value)) < 400
    assert len(server.calls) == 1


@pytest.mark.parametrize("status", [400, 401])
def test_wrong_credentials_fail_at_once(transport: Transport, serve: Serve, status: int) -> None:
    server = serve(details(), auth=[response(b"nobody", status)])
    what = rf"^authenticate: .*HTTP {status}.*Login.*Password.*Password holds a blank"
    with pytest.raises(errors.RtiSmsAuthenticationError, match=what):
        transport.perform(server, SMS, client_secret="s3cret ")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_the_seconds_of_retry_after_are_waited(transport: Transport, serve: Serve, status: int) -> None:
    server = serve(response(status=status, headers=[("Retry-After", "1")]), details())
    began = time.monotonic()
    transport.perform(server, SMS)
    assert time.monotonic() - began >= 1


class TestNotRepeatable:
    """A call that does harm where it is acted on twice."""

    @pytest.mark.parametrize("status", [401, 429])
    def test_is_repeated_after_a_refusal(self, transport: Transport, serve: Serve, status: int) -> None:
        server = serve(response(status=status), response({"done": 1}))
        assert transport.perform(server, ONCE) == {"done": 1}
        assert len(server.calls) == 2

    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(reset, id="reset"),
            pytest.param(raw(b"", then="close"), id="closed"),
            pytest.param(response(status=500), id="500"),
            pytest.param(response(status=503), id="503"),
            pytest.param(response(b"<html>"), id="HTML"),
            pytest.param(response(status=302), id="redirect"),
            pytest.param(response(status=418), id="418"),
            pytest.param(response(b"1", headers=[("Content-Encoding", "gzip")]), id="compressed"),
        ],
    )
    def test_is_uncertain_after_anything_else(self, transport: Transport, serve: Serve, step: Step) -> None:
        server = serve(step, response({"done": 2}))
        with pytest.raises(errors.RtiSmsUncertainError, match=r"^once: .* uncertain whether the server acted"):
            transport.perform(server, ONCE)
        assert len(server.calls) == 1

    def test_is_uncertain_without_a_response(self, transport: Transport, serve: Serve) -> None:
        server = serve(hang, response({"done": 2}))
        error = transport.give_up(server, ONCE)
        assert isinstance(error, errors.RtiSmsUncertainError)
        assert "uncertain whether the server acted" in str(error)
        assert len(server.calls) == 1

    def test_is_certain_where_the_token_is_missing(self, transport: Transport, serve: Serve) -> None:
        server = serve(auth=[response(status=500)])
        with pytest.raises(errors.RtiSmsServerError):
            transport.perform(server, ONCE, max_attempts=2)
        assert server.calls == []
