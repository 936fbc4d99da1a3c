"""The metrics at an OpenTelemetry collector, to which Airflow exports them over HTTP; and the spans of a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.errors import RtiSmsError
from airflow_provider_rtisms.hooks import metrics
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from tests.hostile import until
from tests.otlp import collector, metrics_in
from tests.patience import PATIENCE

PROGRAM = """
from opentelemetry import metrics

from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

with RtiSmsHook() as hook:
    hook.get_balance()
    hook.send_sms(recipients=["+56912345678"], text="Confidential", sender="96000")
metrics.get_meter_provider().force_flush()
"""


@pytest.mark.slow
@pytest.mark.outer_minors
def test_they_have_tags(rtisms_sandbox: Sandbox) -> None:
    with collector() as (port, bodies):
        settings = {"OTEL_ON": "True", "OTEL_HOST": "127.0.0.1", "OTEL_PORT": str(port)}
        env = {**os.environ, **{f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}}
        subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True, capture_output=True, timeout=PATIENCE)
    found = metrics_in(bodies[-1])
    assert found["airflow.rtisms.balance conn_id=rtisms_default"] == 457
    assert found["airflow.rtisms.messages conn_id=rtisms_default,outcome=submitted"] == 1
    assert found["airflow.rtisms.requests conn_id=rtisms_default,call=get_balance,status=2xx"] == 1
    assert found["airflow.rtisms.tokens conn_id=rtisms_default"] == rtisms_sandbox.state().tokens_issued == 1
    assert not [body for body in bodies if b"56912345678" in body or b"Confidential" in body]


KNOWN, UNKNOWN = "4193366853543393", "9999999999999"
NUMBERS = ["+56912345001", "+56912345005"]  # the sandbox refuses the second one for want of a balance
TEXT = "Confidential"
Spans = Callable[[], list[ReadableSpan]]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch, rtisms_sandbox: Sandbox, quick_retries: None) -> Iterator[Spans]:
    """The spans that have ended, of a process that traces. At the end, nothing in them names anybody."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield lambda: list(exporter.get_finished_spans())
    text = "".join(span.to_json() for span in exporter.get_finished_spans())
    state = rtisms_sandbox.state()
    private = [*NUMBERS, *state.tokens, *state.requests_by_id, rtisms_sandbox.client_secret, "onfidential", KNOWN]
    assert text
    assert [one for one in private if one.removeprefix("+") in text] == []


def blocking(calls: list[Any]) -> None:
    with RtiSmsHook() as hook:
        for call in calls:
            with suppress(RtiSmsError):
                hook.get_conn().perform(call)


def asynchronous(calls: list[Any]) -> None:
    async def main() -> None:
        async with RtiSmsHook().get_async_conn() as client:
            for call in calls:
                with suppress(RtiSmsError):
                    await client.perform(call)

    asyncio.run(main())


@pytest.mark.parametrize("perform", [blocking, asynchronous])
class TestCalls:
    @pytest.mark.parametrize(
        ("call", "faults", "name", "expected"),
        [
            pytest.param(
                endpoints.get_sms(KNOWN),
                [Fault("error", statuses=(503,), times=2, path="sms"), Fault("reset", times=1, path="sms")],
                "GET /api/sms/{submissionId}",
                {"url.template": "/api/sms/{submissionId}", "http.response.status_code": 200}
                | {"http.request.resend_count": 3},
                id="retries",
            ),
            pytest.param(
                endpoints.get_sms(UNKNOWN),
                [],
                "GET /api/sms/{submissionId}",
                {"url.template": "/api/sms/{submissionId}", "http.response.status_code": 404}
                | {"error.type": "RtiSmsNotFoundError"},
                id="unknown",
            ),
            pytest.param(
                endpoints.send_sms(recipients=NUMBERS, text=TEXT, sender="96000"),
                [Fault("lost_response", times=1, path="sms", method="POST")],
                "POST /api/sms",
                {"url.template": "/api/sms", "http.request.method": "POST", "error.type": "RtiSmsUncertainError"},
                id="uncertain",
            ),
            pytest.param(
                endpoints.get_balance(),
                [Fault("error", statuses=(401,), times=1, path="balance")],
                "GET /api/balance",
                {"url.template": "/api/balance", "http.response.status_code": 200, "http.request.resend_count": 1},
                id="a new token",
            ),
            pytest.param(
                endpoints.request("GET", f"/sms/{KNOWN}"), [], "GET", {"http.response.status_code": 200}, id="request"
            ),
        ],
    )
    def test_a_span(
        self,
        spans: Spans,
        rtisms_sandbox: Sandbox,
        perform: Callable[[list[Any]], None],
        call: Any,
        faults: list[Fault],
        name: str,
        expected: dict[str, Any],
    ) -> None:
        rtisms_sandbox.set_faults(*faults)
        perform([call])
        *tokens, span = spans()
        _, address, port = rtisms_sandbox.url.replace("//", "").split(":")
        server = {"server.address": address, "server.port": int(port)}
        assert span.name == name
        assert span.attributes == {"http.request.method": "GET", **server, **expected}
        assert (span.kind, span.status.is_ok) == (trace.SpanKind.CLIENT, "error.type" not in expected)
        assert not span.events, "an exception with its text is an event"
        assert {one.name for one in tokens} == {"POST /api/auth"}
        assert {one.parent and one.parent.span_id for one in tokens} == {span.context.span_id}

    def test_a_process_that_does_not_trace_loads_nothing(
        self, monkeypatch: pytest.MonkeyPatch, rtisms_sandbox: Sandbox, perform: Callable[[list[Any]], None]
    ) -> None:
        for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
            monkeypatch.delitem(sys.modules, name)
        perform([endpoints.get_balance()])
        with metrics.span("rtisms.send", "rtisms_default") as note:
            note({"rtisms.messages": 1})
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]


class TestWork:
    @pytest.mark.parametrize("moment", ["on_start", "on_end", "get_tracer_provider"])
    def test_a_tracer_that_fails_fails_no_call(
        self, spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"{moment} fell over")

        provider: Any = trace.get_tracer_provider()
        with RtiSmsHook() as hook:
            hook.get_balance()
            broken = SpanProcessor()
            monkeypatch.setattr(trace if moment == "get_tracer_provider" else broken, moment, fail)
            provider.add_span_processor(broken)
            submissions = hook.send_sms(recipients=NUMBERS[:1], text=TEXT, sender="96000")
            hook.get_balance()
        assert [one.outcome for one in submissions] == ["submitted"]
        assert not trace.get_current_span().is_recording()
        assert caplog.text.count(f"RuntimeError: {moment} fell over") == 1

    def test_a_send_and_a_bulk_fetch_hold_their_calls(
        self, spans: Spans, rtisms_sandbox: Sandbox, tmp_path: Path
    ) -> None:
        async def on_a_running_loop() -> None:
            RtiSmsHook().send_sms(recipients=NUMBERS, text=TEXT, sender="96000")

        with trace.get_tracer("airflow").start_as_current_span("worker.task") as task:
            asyncio.run(on_a_running_loop())
            RtiSmsHook().bulk_get_sms([KNOWN, UNKNOWN], output_path=tmp_path / "a.jsonl", on_missing="skip")
        by_name = {one.name: one for one in spans()}
        send, bulk = by_name["rtisms.send"], by_name["rtisms.bulk_get"]
        counts = {"messages": 2, "submitted": 1, "refused": 1}
        assert {**send.attributes} | {f"rtisms.{name}": count for name, count in counts.items()} == send.attributes
        assert bulk.attributes == {"rtisms.conn_id": "rtisms_default", "rtisms.submissions": 2}
        assert {one.parent.span_id for one in (send, bulk)} == {task.get_span_context().span_id}
        assert by_name["POST /api/sms"].parent.span_id == send.context.span_id
        assert by_name["GET /api/sms/{submissionId}"].parent.span_id == bulk.context.span_id

    @pytest.mark.parametrize("ending", ["finished", "timeout", "cancelled"])
    def test_a_wait_ends_as_its_trigger_does(self, spans: Spans, rtisms_sandbox: Sandbox, ending: str) -> None:
        is_done = {"pending_for": 0, "sent_for": 0} if ending == "finished" else {"pending_for": 3600}
        submission_id = rtisms_sandbox.add_submission(**is_done)
        deadline = time.time() + (1 if ending == "timeout" else PATIENCE)
        limits = {"poke_interval": 0.1, "deadline": deadline, "missing_until": deadline, "fail_on": []}
        trigger = RtiSmsDeliveryTrigger(rtisms_conn_id="rtisms_default", submission_ids=submission_id, **limits)

        async def main() -> None:
            events = asyncio.ensure_future(anext(trigger.run()))
            if ending == "cancelled":
                await until(lambda: submission_id in rtisms_sandbox.state().requests_by_id)
                events.cancel()
            await asyncio.gather(events, return_exceptions=True)

        asyncio.run(main())
        wait = spans()[-1]
        outcome = {"error.type": "CancelledError"} if ending == "cancelled" else {"rtisms.outcome": ending}
        assert (wait.name, wait.attributes) == ("rtisms.wait", {"rtisms.conn_id": "rtisms_default", **outcome})
