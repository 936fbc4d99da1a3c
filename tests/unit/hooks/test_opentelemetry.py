"""The metrics at an OpenTelemetry collector, to which Airflow exports them over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.outer_minors]

PROGRAM = """
from opentelemetry import metrics

from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook

with RtiSmsHook() as hook:
    hook.get_balance()
    hook.send_sms(recipients=["+56912345678"], text="Confidential", sender="96000")
metrics.get_meter_provider().force_flush()
"""


@contextmanager
def collector() -> Iterator[tuple[int, list[bytes]]]:
    """Listen on a port; yield it and the bodies of the exports."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, bodies
        server.shutdown()
        thread.join()


def values(body: bytes) -> dict[str, float]:
    """Return the counts of counters and the values of gauges in an export, by name and tags."""
    found = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            for point in (*metric.sum.data_points, *metric.gauge.data_points):
                tags = ",".join(f"{tag.key}={tag.value.string_value}" for tag in point.attributes)
                found[f"{metric.name} {tags}"] = point.as_double or float(point.as_int)
    return found


@pytest.mark.usefixtures("rtisms_sandbox")
def test_they_have_tags(rtisms_sandbox: Sandbox) -> None:
    with collector() as (port, bodies):
        settings = {"OTEL_ON": "True", "OTEL_HOST": "127.0.0.1", "OTEL_PORT": str(port)}
        env = {**os.environ, **{f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}}
        subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True, capture_output=True, timeout=PATIENCE)
    found = values(bodies[-1])
    assert found["airflow.rtisms.balance conn_id=rtisms_default"] == 457
    assert found["airflow.rtisms.messages conn_id=rtisms_default,outcome=submitted"] == 1
    assert found["airflow.rtisms.requests conn_id=rtisms_default,call=get_balance,status=2xx"] == 1
    assert found["airflow.rtisms.tokens conn_id=rtisms_default"] == rtisms_sandbox.state().tokens_issued == 1
    assert not [body for body in bodies if b"56912345678" in body or b"Confidential" in body]
