"""What answers at the Base URL is not the API: the doctor says so in one line, and keeps the credentials if it can."""

from __future__ import annotations

import pytest

from airflow_provider_rtisms.doctor import Report
from tests.hostile import Request, raw
from tests.unit.conftest import Serve
from tests.unit.doctor.vendor import TOKEN, Reply, examine, not_ok, result, vendor


def assert_one_line(report: Report, check: str = "http") -> None:
    """One line names the field and the Connection, and one what is well; nobody is sent elsewhere."""
    assert not_ok(report) == {check: "failed"}, report.to_text(verbose=True)
    wrong, well = report.to_text().splitlines()
    assert wrong.startswith(f"failed   {check} ")
    assert "this is not the RTI SMS API: check Base URL (Host) of the Connection my_sms." in wrong
    assert well.startswith("ok       settings, name_resolution, tcp, proxy")
    assert check not in well
    assert not [words for words in ("skipped", "not checked", "RealTime", "submission id") if words in report.to_text()]


JSON, HTML, TEXT = ({"Content-Type": kind} for kind in ("application/json; charset=utf-8", "text/html", "text/plain"))
#: The status, the body and the headers of each response.
SAME_FOR_ALL = {
    "a page": (200, b"<!doctype html><title>Welcome</title>", HTML),
    "a page without its type": (200, b"\n<html></html>", {"Content-Type": ""}),
    "a page that forbids": (403, b"<html>Forbidden</html>", HTML),
    "a login page": (401, b"<html>Log in</html>", {**HTML, "WWW-Authenticate": "Basic"}),
    "XML": (403, b"<?xml version='1.0'?><Error/>", {"Content-Type": "application/xml"}),
    "a redirect": (301, b"", {"Location": f"https://elsewhere.example/{TOKEN}"}),
    "no such path": (404, b"404 page not found", TEXT),
    "no such path in JSON": (404, {"detail": "Not Found"}, JSON),
    "no such method": (405, {"detail": "Method Not Allowed"}, JSON),
    "method not implemented": (501, b"", {}),
    "another API": (200, {"status": "up", "version": "2.1"}, JSON),
    "another API's list": (200, [{"id": 1}], JSON),
    "another API without a token": (401, {"message": "Unauthorized"}, JSON),
    "another API's gateway": (403, {"message": "Missing Authentication Token"}, JSON),
    "another API's refusal": (400, {"error": "bad request"}, JSON),
    "no content": (204, b"", {}),
    "plain text": (200, b"It works!", TEXT),
    "a large file": (200, b"x" * 3_000_000, {}),
}
#: What the API might send too, if it had changed. The credentials decide.
AMBIGUOUS = {"a login page", "another API without a token", "another API's gateway", "another API's refusal"}


@pytest.mark.parametrize("name", SAME_FOR_ALL)
def test_another_server(name: str) -> None:
    status, body, headers = SAME_FOR_ALL[name]
    with vendor(lambda request, documented: Reply(status, body, headers)) as server:
        assert_one_line(examine(server.url))
    assert bool(server.grants) is (name in AMBIGUOUS)


AT_AUTH = {
    "no such path": Reply(404, {"detail": "Not Found"}, JSON),
    "no such method": Reply(405),
    "a page": Reply(200, b"<html></html>", HTML),
    "a redirect": Reply(302, b"", {"Location": "/login"}),
    "JSON without a token": Reply(200, {"user": "me"}, JSON),
    "a list": Reply(200, [], JSON),
}


@pytest.mark.parametrize("name", AT_AUTH)
def test_another_api_whose_401_is_empty_too(name: str) -> None:
    with vendor(lambda request, documented: AT_AUTH[name] if request.is_grant else Reply(401)) as server:
        assert_one_line(examine(server.url), "authentication")


def test_a_server_that_does_not_speak_http(serve: Serve) -> None:
    assert_one_line(examine(serve(raw(b"SSH-2.0-OpenSSH_9.2\r\n", then="close")).url))


@pytest.mark.parametrize("status", [400, 401, 403])
def test_the_api_whose_refusal_of_a_token_has_changed(status: int) -> None:
    """A token for the credentials shows that it is the API."""

    def deviate(request: Request, documented: Reply) -> Reply:
        is_refused = documented.status == 401 and not request.is_grant
        return Reply(status, {"message": "Unauthorized"}, JSON) if is_refused else documented

    with vendor(deviate) as server:
        report = examine(server.url)
    assert not_ok(report) == {"unknown_token": "differs" if status == 401 else "failed"}
    assert result(report, "http").got.startswith(f"HTTP {status} to a request with a made-up token")
