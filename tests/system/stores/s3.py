"""An S3 server (moto) that misbehaves as a test says."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from tests.patience import PATIENCE

BUCKET = "bucket"
#: What S3 sends with an error status.
ERRORS = {
    403: ("403 Forbidden", "AccessDenied", "Access Denied"),
    503: ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
}

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class S3Fault:
    """One way to misbehave, for the requests whose method and ``bucket/key?query`` match; None times for all."""

    action: int | str  # a status of ERRORS, "drop" (the connection) or "hang"
    method: str = "."
    key: str = ""
    times: int | None = None

    def strikes(self, method: str, target: str) -> bool:
        """Return whether it strikes a request, and count it."""
        is_struck = self.times != 0 and re.match(self.method, method) and re.search(self.key, target)
        if is_struck and self.times is not None:
            self.times -= 1
        return bool(is_struck)


@dataclass
class S3Server:
    """moto behind an HTTP server of its own; a context manager. The first fault that matches strikes."""

    faults: list[S3Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """``METHOD bucket/key?query`` of each request, those that a fault struck included."""

    def __enter__(self) -> Self:
        # Not every environment has them; the tests are skipped there.
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._lock = threading.Lock()
        self._released = threading.Event()
        self._moto: Application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def connection_json(self) -> str:
        """Return an Airflow Connection that leads here. botocore repeats nothing; s3fs repeats 503 a few times."""
        config = {"retries": {"max_attempts": 0}, "read_timeout": PATIENCE}
        extra = {"endpoint_url": self.url, "region_name": "us-east-1", "config_kwargs": config}
        return json.dumps({"conn_type": "aws", "login": "key", "password": "not-secret", "extra": extra})

    def reset(self) -> None:
        """Forget all objects, faults and requests, and create an empty bucket."""
        from moto.s3.models import s3_backends

        self.faults, self.requests = [], []
        for backends in s3_backends.values():
            for backend in backends.values():
                backend.reset()
        self._backend.create_bucket(BUCKET, "us-east-1")

    def objects(self) -> dict[str, bytes]:
        """Return the content of every object, by key."""
        return {key: value.value for key, value in self._backend.buckets[BUCKET].keys.items()}

    def write(self, key: str, content: bytes) -> None:
        """Write an object."""
        self._backend.put_object(BUCKET, key, content)

    def delete(self, key: str) -> None:
        """Delete an object."""
        self._backend.delete_object(BUCKET, key)

    @property
    def _backend(self) -> Any:
        from moto.s3.models import s3_backends

        return s3_backends["123456789012"]["aws"]

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        target = unquote(environ["PATH_INFO"]).lstrip("/")
        if environ["QUERY_STRING"]:
            target += f"?{environ['QUERY_STRING']}"
        with self._lock:
            self.requests.append(f"{environ['REQUEST_METHOD']} {target}")
            fault = next((one for one in self.faults if one.strikes(environ["REQUEST_METHOD"], target)), None)
        if fault is None:
            return self._moto(environ, start_response)
        if isinstance(fault.action, int):
            status, code, message = ERRORS[fault.action]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            start_response(status, [("Content-Type", "application/xml")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        if fault.action == "hang":
            self._released.wait()
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)  # what follows reaches nobody
        start_response("500 Dropped", [])
        return []
