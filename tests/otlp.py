"""An OpenTelemetry collector: it listens on a port of this machine, and keeps what is exported to it over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


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


def metrics_in(body: bytes) -> dict[str, float]:
    """Return the counts of counters and the values of gauges in an export, by name and tags."""
    found = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            for point in (*metric.sum.data_points, *metric.gauge.data_points):
                tags = ",".join(f"{tag.key}={tag.value.string_value}" for tag in point.attributes)
                found[f"{metric.name} {tags}"] = point.as_double or float(point.as_int)
    return found


def spans_in(bodies: Iterable[bytes]) -> dict[bytes, Any]:
    """Return the spans of exports, by their ids."""
    return {
        span.span_id: span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
