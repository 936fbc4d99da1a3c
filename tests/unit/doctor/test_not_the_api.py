"""What answers at the Base URL is not the API: the doctor says so in one line, and keeps the credentials if it can."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from airflow_provider_rtisms.doctor import Report
from tests.hostile import raw
from tests.unit.conftest import Serve
from tests.unit.doctor.examination import examine, got, not_ok, url
from tests.unit.doctor.vendor import TOKEN, Reply, Request, vendor


def assert_one_line(report: Report, check: str = "http") -> None:
    """One line names the field and the Connection, and one what is well; nobody is sent elsewhere."""
    assert not_ok(report) == {check: "failed"}, report.to_text(verbose=True)
    wrong, well = report.to_text().splitlines()
    assert wrong.startswith(f"failed   {check} ")
    assert "this is not the RTI SMS API: check Base URL (Host) of the Connection my_sms." in wrong
    assert well.startswith("ok       settings, name_resolution, tcp, proxy")
    assert check not in well
    assert not [words for words in ("skipped", "not checked", "RealTime", "submission id") if words in report.to_text()]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


@contextmanager
def file_server(folder: Path) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("size", [None, 5, 3_000_000])
def test_a_file_server(tmp_path: Path, size: int | None) -> None:
    (tmp_path / "api").mkdir()
    if size is not None:
        (tmp_path / "api" / "balance").write_text("x" * size)
    with file_server(tmp_path) as port:
        assert_one_line(examine(url(port)))


JSON = {"Content-Type": "application/json; charset=utf-8"}
SAME_FOR_ALL = {
    "a page": Reply(200, b"<!doctype html><title>Welcome</title>", {"Content-Type": "text/html"}),
    "a page without its type": Reply(200, b"\n<html></html>", {"Content-Type": ""}),
    "a page that forbids": Reply(403, b"<html>Forbidden</html>", {"Content-Type": "text/html"}),
    "a login page": Reply(401, b"<html>Log in</html>", {"Content-Type": "text/html", "WWW-Authenticate": "Basic"}),
    "XML": Reply(403, b"<?xml version='1.0'?><Error/>", {"Content-Type": "application/xml"}),
    "a redirect": Reply(301, b"", {"Location": f"https://elsewhere.example/{TOKEN}"}),
    "a temporary redirect": Reply(307, b"", {"Location": "/login"}),
    "no such path": Reply(404, b"404 page not found", {"Content-Type": "text/plain"}),
    "no such path in JSON": Reply(404, {"detail": "Not Found"}, JSON),
    "no such method": Reply(405, {"detail": "Method Not Allowed"}, JSON),
    "method not implemented": Reply(501),
    "another API": Reply(200, {"status": "up", "version": "2.1"}, JSON),
    "another API's list": Reply(200, [{"id": 1}], JSON),
    "another API without a token": Reply(401, {"message": "Unauthorized"}, JSON),
    "another API's gateway": Reply(403, {"message": "Missing Authentication Token"}, JSON),
    "another API's refusal": Reply(400, {"error": "bad request"}, JSON),
    "no content": Reply(204),
    "an empty response": Reply(200),
    "plain text": Reply(200, b"It works!", {"Content-Type": "text/plain"}),
}


#: What the API might send too, if it had changed. The credentials decide.
AMBIGUOUS = {"a login page", "another API without a token", "another API's gateway", "another API's refusal"}


@pytest.mark.parametrize("name", SAME_FOR_ALL)
def test_another_server(name: str) -> None:
    reply = SAME_FOR_ALL[name]
    with vendor(lambda request, documented: Reply(reply.status, reply.body, dict(reply.headers))) as (port, requests):
        assert_one_line(examine(url(port)))
    assert any(request.path == "/api/auth" for request in requests) is (name in AMBIGUOUS)


AT_AUTH = {
    "no such path": Reply(404, {"detail": "Not Found"}, JSON),
    "no such method": Reply(405),
    "a page": Reply(200, b"<html></html>", {"Content-Type": "text/html"}),
    "a redirect": Reply(302, b"", {"Location": "/login"}),
    "JSON without a token": Reply(200, {"user": "me"}, JSON),
    "a list": Reply(200, [], JSON),
}


@pytest.mark.parametrize("name", AT_AUTH)
def test_another_api_whose_401_is_empty_too(name: str) -> None:
    def deviate(request: Request, documented: Reply) -> Reply:
        return AT_AUTH[name] if request.path == "/api/auth" else Reply(401)

    with vendor(deviate) as (port, _):
        assert_one_line(examine(url(port)), "authentication")


def test_a_server_that_does_not_speak_http(serve: Serve) -> None:
    assert_one_line(examine(serve(raw(b"SSH-2.0-OpenSSH_9.2\r\n", then="close")).url))


@pytest.mark.parametrize("status", [400, 401, 403])
def test_the_api_whose_refusal_of_a_token_has_changed(status: int) -> None:
    """A token for the credentials shows that it is the API."""

    def deviate(request: Request, documented: Reply) -> Reply:
        is_refused = documented.status == 401 and request.path != "/api/auth"
        return Reply(status, {"message": "Unauthorized"}, JSON) if is_refused else documented

    with vendor(deviate) as (port, _):
        report = examine(url(port))
    assert not_ok(report) == {"unknown_token": "differs" if status == 401 else "failed"}
    assert got(report, "http").startswith(f"HTTP {status} to a request with a made-up token")
