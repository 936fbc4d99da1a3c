"""The client secret and the tokens stay out of logs, reprs and errors, whatever the server does."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.auth import Token
from airflow_provider_rtisms.api.calls import HttpResponse
from airflow_provider_rtisms.api.client import RtiSmsClient
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import Secret
from tests.hostile import Step, details, grant, head, raw, response
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

SECRET = "s3cret/+&= ñ\"\\'"
MINTED = "minted.by-the$hostile/server" * 3
ECHO = MINTED.encode()
SMS = endpoints.get_sms("4193366853543393")

pytestmark = pytest.mark.usefixtures("quick_retries", "everything_is_logged")


def assert_redacted(text: str) -> None:
    for secret in (SECRET, quote_plus(SECRET), quote(SECRET, safe=""), "s3cret", "minted", "hostile/server"):
        assert secret not in text


def test_nothing_is_told_when_all_goes_well(
    transport: Transport, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(response(status=401), response(status=503), details(), auth=[grant(MINTED)])
    transport.perform(server, SMS, client_secret=SECRET)
    assert "HTTP 401" in caplog.text
    assert "HTTP 503" in caplog.text
    assert_redacted(caplog.text)


ECHOES = [
    *(
        pytest.param(response(b"who is " + ECHO + b"?", status), id=f"in a {status}")
        for status in (302, 400, 401, 403, 404, 405, 406, 418, 429, 500, 503)
    ),
    pytest.param(response(quote(MINTED, safe="").encode(), 403), id="URL-encoded"),
    pytest.param(response(b" " * 190 + ECHO, 403), id="where the excerpt ends"),
    pytest.param(response(b"<html>" + ECHO), id="in HTML"),
    pytest.param(response({"id": MINTED}), id="as id"),
    pytest.param(response({"info": {"cost": MINTED}}), id="as number"),
    pytest.param(response({"info": {"status": {MINTED: 1, "status": []}}}), id="as name"),
    pytest.param(response({"timestamps": {"done": MINTED}}), id="as time"),
    pytest.param(raw(b"HTTP/1.1 " + ECHO + b"\r\n\r\n", then="close"), id="as status"),
    pytest.param(raw(ECHO + b"\r\n\r\n", then="close"), id="instead of HTTP"),
    pytest.param(raw(head(headers=[("Echo", MINTED)])[:-4], then="close"), id="in cut-off headers"),
    pytest.param(raw(head(headers=[("Content-Length", MINTED)]), then="close"), id="as length"),
    pytest.param(
        raw(head(headers=[("Transfer-Encoding", "chunked")]) + ECHO + b"\r\n", then="close"), id="as chunk length"
    ),
    pytest.param(response(status=302, headers=[("Location", f"http://[{MINTED}")]), id="as location"),
    pytest.param(response(status=429, headers=[("Retry-After", MINTED)]), id="as Retry-After"),
]
ECHOES_OF_AUTH = [
    pytest.param(response(f"client_secret={encoded} is wrong".encode(), status), id=f"{name}, in a {status} of auth")
    for name, encoded in (
        *(("plain", SECRET), ("form", quote_plus(SECRET)), ("URL", quote(SECRET, safe=""))),
        *(("JSON", json.dumps(SECRET)[1:-1]), ("repr", repr(SECRET)[1:-1])),
    )
    for status in (200, 400, 401, 403, 500)
]


@pytest.mark.parametrize("step", [*ECHOES, *ECHOES_OF_AUTH])
def test_a_token_or_a_secret_that_is_echoed_is_not_repeated(
    transport: Transport, serve: Serve, step: Step, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    server = serve(step, auth=[step if "of auth" in request.node.name else grant(MINTED)])
    with pytest.raises(errors.RtiSmsError) as caught:
        transport.perform(server, SMS, client_secret=SECRET, max_attempts=2)
    shown = "".join(traceback.format_exception(caught.value))
    assert_redacted(shown + repr(vars(caught.value)) + repr(caught.value) + caplog.text)


def test_reprs_show_no_secret() -> None:
    settings = ApiSettings(client_id="me", client_secret=SECRET, proxy="http://user:s3cret@proxy.example:3128")
    call = endpoints.authenticate(settings)
    granted = endpoints.TokenGrant(Secret(MINTED), 3600.0)
    values = [
        *(settings, call, call.request(), SMS.request(Secret(MINTED))),
        *(HttpResponse(200, {"Echo": MINTED}, MINTED.encode()), granted, Token(Secret(MINTED), 0.0)),
        RtiSmsClient(settings),
    ]
    for value in values:
        assert_redacted(f"{value!r} {value}")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("refused", ["auth", "sms"])
def test_local_variables_show_no_secret(transport: Transport, serve: Serve, status: int, refused: str) -> None:
    """Error trackers, and ``airflow dags test`` of Airflow 3.0, print those of each frame of a traceback."""
    refusal = response(status=status)
    server = serve(details() if refused == "auth" else refusal, auth=[refusal if refused == "auth" else grant(MINTED)])
    with pytest.raises(errors.RtiSmsError) as caught:
        transport.perform(server, SMS, client_secret=SECRET, max_attempts=1)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in shown.stack if "airflow_provider_rtisms" in frame.filename]
    assert [name for frame in ours for name in frame.locals or () if name in ("attempts", "secrets")]
    assert_redacted("".join(value for frame in ours for value in (frame.locals or {}).values()))


def test_a_bad_setting_shows_no_secret() -> None:
    with pytest.raises(errors.RtiSmsConfigError) as caught:
        ApiSettings(client_id="me", client_secret=Secret(SECRET), base_url="ftp://example")
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "ftp" in "".join(shown.format())
    assert_redacted("".join(value for frame in list(shown.stack)[1:] for value in (frame.locals or {}).values()))


class TestSecret:
    """A value that fails closed."""

    def test_no_text_of_it_shows_the_value(self) -> None:
        secret = Secret(SECRET)
        for shown in (str(secret), f"{secret}", f"{secret:>40}", "%s" % secret):  # noqa: UP031
            assert shown == "***"
        assert (repr(secret), f"{[secret]}") == ("Secret('***')", "[Secret('***')]")

    @pytest.mark.parametrize(
        "use",
        [
            *(lambda secret: secret + "x", lambda secret: "x" + secret, lambda secret: secret.strip()),
            *(lambda secret: secret[0], lambda secret: len(secret), lambda secret: "".join([secret])),
            *(lambda secret: list(secret), json.dumps),
        ],
    )
    def test_using_it_as_a_str_is_an_error(self, use: Callable[[Any], Any]) -> None:
        with pytest.raises((TypeError, AttributeError)) as caught:
            use(Secret(SECRET))
        assert "s3cret" not in str(caught.value)

    def test_it_compares_by_value_with_secrets_only(self) -> None:
        assert Secret("a") == Secret("a") == Secret(Secret("a"))
        assert hash(Secret("a")) == hash(Secret("a"))
        assert Secret("a") != Secret("b")
        assert Secret("a") != "a"


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])  # noqa: S301
def test_errors_can_be_handed_on(again: object) -> None:
    """Threads that wait for one token copy the leader's error; Airflow's processes pickle it."""
    error = errors.RtiSmsRateLimitError("slow down", call="get_sms", subject="1", status=429, retry_after=2.5)
    twin = again(error)  # type: ignore[operator]
    assert type(twin) is type(error)
    assert str(twin) == "slow down"
    assert vars(twin) == vars(error)
