"""From a Connection to the API: where it leads, what it says when it cannot, and what it never says."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, ClassVar

import pytest
import tenacity
from airflow.providers.common.compat.sdk import Connection, redact
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_2_PLUS

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsError, RtiSmsInputError, RtiSmsUncertainError
from airflow_provider_rtisms.hooks.connection import amask_secret, settings_from_connection
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.operators.rtisms import RtiSmsGetDetailsOperator
from airflow_provider_rtisms.sandbox import Sandbox
from tests.hostile import details, response, until
from tests.unit.conftest import Serve

#: Airflow 3.0 and 3.1 themselves refuse a Connection whose Extra is no JSON object.
AIRFLOW_REFUSES_EXTRA = AIRFLOW_V_3_0_PLUS and not AIRFLOW_V_3_2_PLUS

pytestmark = pytest.mark.usefixtures("quick_retries")


def connection(**fields: Any) -> Connection:
    return Connection(
        **{"conn_id": "rtisms_default", "conn_type": "rtisms", "login": "me", "password": "s3cret", **fields}
    )


class TestWhereItLeads:
    @pytest.mark.parametrize(
        ("fields", "base_url"),
        [
            ({}, "https://www.rti-sms.com"),
            ({"host": "https://sms.example:8443"}, "https://sms.example:8443"),
            ({"host": "sms.example"}, "https://sms.example"),
            ({"host": "sms.example", "port": 8443}, "https://sms.example:8443"),
            ({"host": "sms.example/gateway/api/"}, "https://sms.example/gateway"),
            ({"host": "localhost:8080"}, "http://localhost:8080"),
            ({"host": "localhost", "schema": "https://"}, "https://localhost"),
            ({"host": "::1", "port": 8080}, "http://[::1]:8080"),
            ({"host": "[::1]:8080"}, "http://[::1]:8080"),
            ({"host": "2001:db8::1/gateway"}, "https://[2001:db8::1]/gateway"),
            ({"host": "http://127.0.0.1:1", "port": 2}, "http://127.0.0.1:1"),
            ({"host": "sms.example", "schema": "http", "extra": '{"allow_http": true}'}, "http://sms.example"),
        ],
    )
    def test_host_port_and_schema(self, fields: dict[str, Any], base_url: str) -> None:
        assert settings_from_connection(connection(**fields)).base_url == base_url

    def test_unknown_extras_are_told(self, caplog: pytest.LogCaptureFixture) -> None:
        settings_from_connection(connection(extra='{"time_out": 5, "timeout": "5"}'))
        assert "time_out" in caplog.text

    def test_extras_reach_the_settings(self) -> None:
        extra = {"timeout": "5", "max_concurrency": 3, "requests_per_second": "2.5", "max_attempts": 1.0}
        settings = settings_from_connection(connection(extra=json.dumps(extra)))
        assert {name: getattr(settings, name) for name in extra} == {
            "timeout": 5.0,
            "max_concurrency": 3,
            "requests_per_second": 2.5,
            "max_attempts": 1,
        }


def test_the_logger_may_be_chosen_as_for_every_hook() -> None:
    assert RtiSmsHook(logger_name="mine").log.name.endswith("mine")


class TestCalls:
    def test_one_hook_gets_one_token_for_all_threads(self, serve_default: Serve) -> None:
        server = serve_default(response({"balance": "1"}))
        hook = RtiSmsHook()
        with ThreadPoolExecutor(64) as threads:
            balances = list(threads.map(lambda _: hook.get_balance(), range(64)))
        assert balances == [Decimal(1)] * 64
        assert len(server.grants) == 1

    def test_many_share_the_token_of_the_hook(self, serve_default: Serve) -> None:
        server = serve_default(details())
        hook = RtiSmsHook()
        hook.get_sms("1")
        assert len(hook.bulk_get_sms(["1", "2", "3"])) == 3
        assert hook.run_async(lambda client: client.get_sms("4")).status == "DELIVERED"
        assert len(server.grants) == 1


class TestMasking:
    """What Airflow's masker knows stays out of the logs of the task."""

    def test_the_secrets_of_a_connection_in_every_form_in_which_they_travel(self) -> None:
        fields = {"password": "client s3cret&x", "extra": '{"proxy": "http://user:pr0xy-pass@proxy.example:3128"}'}
        settings_from_connection(connection(**fields))
        for secret in ("client s3cret&x", "client+s3cret%26x", "client%20s3cret%26x", "pr0xy-pass"):
            assert redact(f"it is {secret}.") == "it is ***.", secret

    @pytest.mark.parametrize("is_older", [False, True], ids=["this Airflow", "before 3.3.2"])
    def test_a_token_of_a_trigger(self, monkeypatch: pytest.MonkeyPatch, is_older: bool) -> None:
        if is_older:
            monkeypatch.setitem(sys.modules, "airflow.sdk.log", None)
        token = f"t0ken-{is_older}"
        asyncio.run(amask_secret(token))
        assert redact(f"it is {token}.") == "it is ***."


@pytest.mark.parametrize("conn_id", ["rtisms_default", "nowhere"])
def test_a_failed_task_shows_no_frames_of_the_client(serve_default: Serve, conn_id: str) -> None:
    serve_default(response(status=503), extra={"max_attempts": 1})
    with pytest.raises(Exception, match=r"HTTP 503|no Connection 'nowhere'") as caught:
        RtiSmsGetDetailsOperator(task_id="details", submission_id="1", rtisms_conn_id=conn_id).execute({})
    assert {"client.py", "connection.py"}.isdisjoint(frame.path.name for frame in caught.traceback)
    assert len(caught.traceback) <= 6


@pytest.mark.parametrize("status", [404, 405, 429])
def test_an_error_of_the_api_names_the_connection_once(serve_default: Serve, status: int) -> None:
    serve_default(response(status=status), extra={"max_attempts": 1})
    with pytest.raises(RtiSmsError, match=r"of the Connection rtisms_default[.:]"):
        RtiSmsHook().get_sms("1")
    with pytest.raises(RtiSmsError, match=r"of the Connection rtisms_default[.:]"):
        RtiSmsHook().run_async(lambda client: client.get_sms("1"))


class TestTestConnection:
    def test_tells_the_balance(self, rtisms_sandbox: Sandbox) -> None:
        ok, message = RtiSmsHook().test_connection()
        assert ok
        assert "457.00" in message

    def test_tells_wrong_credentials(self, rtisms_sandbox: Sandbox) -> None:
        rtisms_sandbox.rotate_secret("another")
        ok, message = RtiSmsHook().test_connection()
        assert not ok
        assert "Password" in message

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            (
                {"extra": [1]},
                "The extra of the Connection is JSON, but a value of type list. Use a JSON object",
            ),
            ({"extra": 5}, "The extra of the Connection is JSON, but a value of type int"),
            ({"extra": '"s3cret"'}, "The extra of the Connection is JSON, but a str of 6 characters"),
            ({"extra": '{"timeout": 5, "proxy": "s3cret'}, "that is no JSON. Use a JSON object"),
            ({"extra": "timeout=5"}, "that is no JSON"),
            (
                {"extra": {"timeout": ["s3cret"]}},
                "Field 'timeout' in the extra of the Connection is a value of type list",
            ),
            (
                {"extra": {"ca_bundle": {}}},
                "'ca_bundle' in the extra of the Connection does not name a file",
            ),
            (
                {"extra": {"sender": [96000]}},
                "'sender' in the extra of the Connection is a value of type list",
            ),
            ({"login": "client\n"}, "Login holds a blank, a line end or an invisible character"),
            ({"password": "s3cret\r\n"}, "Password holds a blank"),
            ({"password": "\u200bs3cret"}, "Password holds"),
            ({"login": "client\t", "password": "\ufeffs3cret"}, "Login and Password hold a blank"),
            ({"login": " \n"}, "set Login"),
            ({"password": None}, "set Password"),
            ({"password": ["s3cret"]}, "or Airflow cannot read it"),
            ({"login": 5}, "or Airflow cannot read it"),
            ({"port": "abc"}, "or Airflow cannot read it"),
            ({"host": "127.0.0.1", "port": -1}, "Base URL (Host) of the Connection is"),
            ({"host": "127.0.0.1 x"}, "Base URL (Host) of the Connection is"),
            (
                {"host": "http://me:s3cret@127.0.0.1"},
                "Base URL (Host) of the Connection holds credentials",
            ),
            (
                {"host": "127.0.0.1", "schema": "ftp"},
                "Schema of the Connection is a str of 3 characters: use http or https",
            ),
            ({"unknown": 1}, "or Airflow cannot read it"),
        ],
        ids=repr,
    )
    def test_tells_what_is_wrong_with_a_connection_and_no_value_of_it(
        self, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], said: str
    ) -> None:
        known = json.loads(rtisms_sandbox.connection_json())
        monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps({**known, **fields}))
        ok, message = RtiSmsHook().test_connection()
        assert not ok
        assert said in message or (AIRFLOW_REFUSES_EXTRA and "Extra is a JSON object" in message and "extra" in fields)
        assert "s3cret" not in message
        assert "rtisms_default" not in message  # Airflow tests a form under a name that it has made up

    @pytest.mark.parametrize(
        "fields",
        [
            {"extra": None},
            {"extra": ""},
            pytest.param(
                {"extra": "null"}, marks=pytest.mark.skipif(AIRFLOW_REFUSES_EXTRA, reason="Airflow refuses it")
            ),
            {"extra": "{}"},
            {"extra": {"unknown": [1]}},
            {"extra": {"timeout": "5", "max_attempts": " 1 ", "proxy": None, "sender": ""}},
            {"port": 0},
            {"port": ""},
            {"schema": " http "},
        ],
        ids=repr,
    )
    def test_takes_what_forms_and_files_write(
        self, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
    ) -> None:
        known = json.loads(rtisms_sandbox.connection_json())
        host = known["host"].removeprefix("http://") if "schema" in fields else f" {known['host']}\n"
        monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps({**known, "host": host, **fields}))
        assert RtiSmsHook().test_connection()[0] is True

    @pytest.mark.parametrize(
        ("conn_id", "named"),
        [
            ("nowhere", "^There is no such Connection, or Airflow cannot read it: Port is"),
            ("rtisms_default", "^get_balance: .*HTTP 500"),
        ],
    )
    def test_tells_that_there_is_no_connection_or_that_the_server_is_broken(
        self, serve_default: Serve, conn_id: str, named: str
    ) -> None:
        serve_default(response(status=500), extra={"max_attempts": 1})
        ok, message = RtiSmsHook(conn_id).test_connection()
        assert not ok
        assert re.search(named, message)


def test_logs_and_reprs_hold_no_secret(rtisms_sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hook = RtiSmsHook()
    hook.get_balance()
    text = f"{caplog.text} {hook!r} {vars(hook)} {hook.get_settings()!r}"
    assert "sandbox-secret" not in text
    assert "Bearer" not in text


class TestRequest:
    def test_a_request_shares_the_token_of_the_hook(self, serve_default: Serve) -> None:
        server = serve_default(response({"balance": "1"}))
        with RtiSmsHook() as hook:
            hook.get_balance()
            assert hook.request("POST", "/numbers", json={"name": "x"}) == {"balance": "1"}
        assert len(server.grants) == 1
        assert [f"{call.method} {call.target}" for call in server.calls] == ["GET /api/balance", "POST /api/numbers"]

    def test_nothing_leaves_for_another_server(self, serve_default: Serve) -> None:
        server = serve_default(response({}))
        with pytest.raises(RtiSmsInputError):
            RtiSmsHook().request("GET", "https://evil.example/api/balance")
        assert server.requests == []


def test_the_context_manager_closes_the_sockets(serve_default: Serve) -> None:
    server = serve_default(response({"balance": "1"}))
    with RtiSmsHook() as hook:
        hook.get_balance()
        client = hook.get_conn()  # kept, so that no garbage collection closes the sockets
        assert server.connections_open == 1
    asyncio.run(until(lambda: server.connections_open == 0))
    assert client.settings.base_url == server.url


@pytest.mark.parametrize("name", ["max_concurrency", "requests_per_second"])
def test_a_limit_of_a_bulk_fetch_is_checked_and_named(serve_default: Serve, name: str) -> None:
    server = serve_default(details())
    with pytest.raises(RtiSmsConfigError, match=name):
        RtiSmsHook().bulk_get_sms(["1"], **{name: 0})
    assert server.requests == []


def test_a_preview_shows_three_texts_unless_asked_for_others() -> None:
    rows = [{"name": name} for name in "abcde"]
    shown = RtiSmsHook().preview_sms(text="Hola {name}", rows=rows)
    assert (shown["messages"], [one["text"] for one in shown["samples"]]) == (5, ["Hola a", "Hola b", "Hola c"])
    assert len(RtiSmsHook().preview_sms(text="Hola {name}", rows=rows, samples=1)["samples"]) == 1
    what: Any = {
        "recipients": ["+56900000100", "+56 900000100", "+56900000101"],
        "text": "hola {name}",
        "max_messages": 2,
    }
    assert RtiSmsHook().preview_sms(**what, sender="96000", on_uncertain="skip", chunk_size=5)["messages"] == 2
    with pytest.raises(RtiSmsInputError, match="2 messages take 2 parts, more than max_parts_total=1"):
        RtiSmsHook().preview_sms(**what, max_parts_total=1)
    with pytest.raises(RtiSmsInputError, match=r"recipients\[0\]"):
        RtiSmsHook().preview_sms(recipients="5", text="hola")


def test_airflow_below_3_2_gets_the_labels_of_the_form() -> None:
    behaviour = RtiSmsHook.get_ui_field_behaviour()
    assert behaviour.keys() == {"hidden_fields", "relabeling", "placeholders"}
    assert behaviour["relabeling"]["login"] == "Client ID"


class TestRetryArgs:
    """What a DAG author may tune, with every client of the hook."""

    @staticmethod
    async def in_a_triggerer(hook: RtiSmsHook) -> Any:
        async with hook.get_async_conn() as client:
            return await client.get_balance()

    WAYS: ClassVar[dict[str, Callable[[RtiSmsHook], Any]]] = {
        "blocking": RtiSmsHook.get_balance,
        "asynchronous": lambda hook: hook.run_async(lambda client: client.get_balance()),
        "in a triggerer": lambda hook: asyncio.run(TestRetryArgs.in_a_triggerer(hook)),
    }

    @pytest.mark.parametrize("way", WAYS)
    def test_they_reach_it(self, serve_default: Serve, way: str) -> None:
        waited: list[int] = []

        def wait(state: tenacity.RetryCallState) -> float:
            waited.append(state.attempt_number)
            return 0.0

        server = serve_default(*[response(status=503)] * 7, response({"balance": "1"}))
        with RtiSmsHook(retry_args={"stop": tenacity.stop_after_attempt(8), "wait": wait}) as hook:
            assert self.WAYS[way](hook) == Decimal(1)
        assert waited == [1, 2, 3, 4, 5, 6, 7]
        assert len(server.calls) == 8

    def test_a_send_that_may_have_been_acted_on_is_repeated_by_none(self, serve_default: Serve) -> None:
        server = serve_default(response(status=500))
        with RtiSmsHook(retry_args={"retry": tenacity.retry_always}) as hook, pytest.raises(RtiSmsUncertainError):
            hook.send_sms(recipients="+56912345678", text="hola", sender="96000")
        assert len(server.calls) == 1

    def test_others_are_refused_at_once(self) -> None:
        with pytest.raises(RtiSmsInputError, match="retry_args"):
            RtiSmsHook(retry_args={"max_attempts": 3})  # type: ignore[dict-item]


@pytest.mark.slow
def test_a_send_needs_no_requests(serve_default: Serve) -> None:
    """Neither client is built for the other one's sake."""
    serve_default(response({"submissions": [{"status": "submitted", "submissionId": "42"}]}))
    program = """
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
import sys
with RtiSmsHook() as hook:
    hook.send_sms(recipients="+56912345678", text="hola", sender="96000")
    hook.bulk_get_sms([])
print("airflow_provider_rtisms.api.client" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], env=os.environ, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
