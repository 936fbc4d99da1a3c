"""``python -m airflow_provider_rtisms.doctor`` as a person and as a script run it."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from airflow_provider_rtisms.doctor import CheckResult, Outcome, Report
from airflow_provider_rtisms.doctor.command import main
from airflow_provider_rtisms.sandbox import Sandbox
from tests.patience import PATIENCE
from tests.unit.doctor.vendor import BALANCE, CLIENT_ID, NAMES, NUMBER, SECRET, port_of, vendor

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[3] / "docs"
PAGE = "".join((DOCS / name).read_text() for name in ("doctor.md", "doctor-checks.md"))


class Done(NamedTuple):
    """How the command ended."""

    returncode: int
    stdout: str
    stderr: str


Doctor = Callable[..., Done]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command as where Airflow is not installed: importing it fails."""
    monkeypatch.setitem(sys.modules, "airflow", None)

    def doctor(*arguments: str, secret: str | None = SECRET, stdin: int | str = os.devnull) -> Done:
        monkeypatch.delenv("RTISMS_CLIENT_SECRET", raising=False)
        if secret is not None:
            monkeypatch.setenv("RTISMS_CLIENT_SECRET", secret)
        with open(stdin, closefd=isinstance(stdin, str)) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            try:
                status = main(list(arguments))
            except SystemExit as ended:
                status = int(str(ended.code))
        return Done(status, *capsys.readouterr())

    return doctor


def test_it_runs_as_a_module_without_airflow(api: str) -> None:
    code = "import sys, runpy; sys.modules['airflow'] = None; runpy.run_module('airflow_provider_rtisms.doctor', alter_sys=True, run_name='__main__')"  # noqa: E501
    command = [sys.executable, "-c", code, "--client-id", CLIENT_ID, "--base-url", api]
    for secret, status in ((SECRET, 0), ("another", 1)):
        environment = {**os.environ, "RTISMS_CLIENT_SECRET": secret}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE, check=False)
        assert done.returncode == status, done


@pytest.fixture
def api() -> Iterator[str]:
    with vendor() as server:
        yield server.url


def test_the_report_is_short_unless_it_is_verbose(api: str, doctor: Doctor) -> None:
    short, verbose = (doctor("--client-id", CLIENT_ID, "--base-url", api, *more) for more in ((), ("--verbose",)))
    assert (short.returncode, verbose.returncode, short.stderr, verbose.stderr) == (0, 0, "", "")
    (line,) = short.stdout.splitlines()
    assert re.fullmatch(r"ok       settings, name_resolution, tcp, .*, balance, .*\. Nothing failed\.", line)
    lines = verbose.stdout.splitlines()
    assert lines[0].startswith("airflow-provider-rtisms ")
    assert lines[2].startswith("ok       settings         base URL http://127.0.0.1:")
    assert lines[-1].endswith("0 failed, 5 skipped. Nothing failed.")
    assert max(len(line) for line in lines) <= 118
    assert BALANCE not in short.stdout + verbose.stdout


def test_the_report_for_a_program(api: str, doctor: Doctor) -> None:
    done = doctor("--client-id", CLIENT_ID, "--base-url", api, "--json", "--probe-credentials")
    report = json.loads(done.stdout)
    assert list(report) == ["checks"]
    assert {tuple(check) for check in report["checks"]} == {("name", "outcome", "expected", "got", "remedy")}
    assert {check["outcome"] for check in report["checks"]} == {"ok", "skipped"}
    assert all(check["expected"] and "docs/" not in check["expected"] for check in report["checks"])


def test_a_failure_is_one_line_and_exit_status_1(api: str, doctor: Doctor) -> None:
    arguments = ("--client-id", CLIENT_ID, "--base-url", api)
    short, verbose = doctor(*arguments, secret="another"), doctor(*arguments, "-v", secret="another")
    assert (short.returncode, verbose.returncode) == (1, 1)
    wrong, well = short.stdout.splitlines()
    assert wrong == (
        "failed   authentication   the server refused the credentials: HTTP 401: check Login (client id) and Password "
        "(client secret) of the Connection. A client secret that was replaced no longer works."
    )
    assert well == "ok       settings, name_resolution, tcp, proxy, http, clock, unknown_token, rate_limit."
    assert "skipped  balance          not checked, because authentication failed" in verbose.stdout
    assert verbose.stdout.endswith("Begin with authentication: other checks may depend on it.\n")


def test_a_report_is_printable() -> None:
    odd = "a\x1b[2J\u202e\x9b\nb"
    report = Report([CheckResult("name", Outcome.FAILED, odd, odd, odd)])
    shown = [report.to_text(), report.to_text(verbose=True), report.to_json()]
    assert all(line.isprintable() for text in shown for line in text.splitlines())
    assert all(r"a\x1b[2J\u202e\x9b" in text for text in shown[:2])
    assert len(shown[0].splitlines()) == 1


def test_the_page_shows_the_reports_of_the_sandbox(doctor: Doctor) -> None:
    shown = [block.partition("```")[0] for block in PAGE.split("```text\n")[1:]]
    with Sandbox() as sandbox:
        options = ["--client-id", "sandbox-client", "--base-url", sandbox.url]
        short, refused = doctor(*options, secret="sandbox-secret"), doctor(*options, secret="another")
        more = ["--submission-id", "4193366853543393", "--probe-credentials", "--verbose"]
        verbose = doctor(*options, *more, secret="sandbox-secret")
    reports = [short.stdout, refused.stdout, verbose.stdout]
    assert [without_figures(text) for text in shown[:3]] == [without_figures(text) for text in reports]


def without_figures(report: str) -> str:
    """Return a report without line breaks, times, ports, versions and the results of timed calls."""
    text = re.sub(r"latency   .*?expected", "latency expected", report, flags=re.DOTALL)
    return re.sub(r"[0-9][0-9.-]*", "#", " ".join(text.partition("UTC")[2].split() if "UTC" in text else text.split()))


def test_the_page_lists_the_checks() -> None:
    table = PAGE.partition("## What it checks")[2].partition("## Options")[0]
    cells = " ".join(re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE))
    assert re.findall(r"`(\w+)`", cells) == NAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--client-id is missing"),
        (("--client-id", "me", "--client-secret", "s3cret"), "unrecognized arguments"),
        (("--client-id", "me", "--conn-id", "rtisms_default"), "do not give them as well"),
        (("--conn-id", "rtisms_default", "--ca-bundle", "ca.pem"), "do not give them as well"),
        (("--conn-id", "rtisms_default"), "needs Airflow"),
        (("--client-id", "me", "--submission-id", "../balance"), "submission_id is a str"),
        (("--client-id", "me", "--send-to", "5691112", "--sender", "1", "--yes"), "Not a phone number"),
        (("--client-id", "me", "--send-to", NUMBER, "--yes"), "sender is missing"),
        (("--client-id", "me", "--send-to", NUMBER, "--sender", "1"), "add --yes"),
        (("--client-id", "me", "--timeout", "0"), "timeout"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: tuple[str, ...], message: str, doctor: Doctor) -> None:
    done = doctor(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert NUMBER not in done.stderr


def test_certificates_to_trust(doctor: Doctor, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with vendor(context=context) as server:
        arguments = ["--client-id", CLIENT_ID, "--base-url", f"https://localhost:{port_of(server)}"]
        refused, trusted = doctor(*arguments), doctor(*arguments, "--ca-bundle", str(tmp_path / "ca.pem"))
    assert "failed   tls" in refused.stdout
    assert (trusted.returncode, trusted.stdout.count("\n")) == (0, 1)


def test_plain_http_to_another_machine_has_to_be_allowed(doctor: Doctor) -> None:
    arguments = ["--client-id", CLIENT_ID, "--base-url", "http://192.0.2.1", "--timeout", "0.1"]
    refused = doctor(*arguments).stdout
    assert refused.startswith("failed   settings         Base URL (Host) of the Connection uses plain http, ")
    assert refused.endswith("use https, or set the field 'allow_http' in the extra of the Connection to true.\n")
    assert "ok       settings" in doctor(*arguments, "--allow-http").stdout


def test_without_a_secret_nothing_happens(doctor: Doctor) -> None:
    done = doctor("--client-id", CLIENT_ID, secret=None)
    assert done.returncode == 2
    assert "RTISMS_CLIENT_SECRET" in done.stderr


@pytest.mark.parametrize(
    ("options", "reply", "status", "sent"), [(["--yes"], "", 0, 1), ([], "y", 0, 1), ([], "n", 2, 0), ([], "", 2, 0)]
)
def test_a_message_is_sent_and_followed_once_a_person_agrees(
    options: list[str], reply: str, status: int, sent: int, doctor: Doctor
) -> None:
    terminal, stdin = os.openpty()
    with Sandbox(pending_for=0.1, sent_for=0.1) as sandbox:
        os.write(terminal, f"{reply}\n".encode())
        arguments = ["--base-url", sandbox.url, "--send-to", NUMBER, "--sender", "96000", "--verbose", *options]
        done = doctor("--client-id", "sandbox-client", *arguments, secret="sandbox-secret", stdin=stdin)
        messages = sandbox.state().messages
    os.close(terminal)
    os.close(stdin)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("one SMS to ***233, which costs money" in done.stderr) is not bool(options)
    assert len(messages) == sent
    assert ("DELIVERED after" in done.stdout) is bool(sent)
    assert NUMBER[1:] not in done.stdout + done.stderr


def test_the_help_and_the_page_list_the_same_options(doctor: Doctor) -> None:
    shown = " ".join(doctor("--help").stdout.split())
    options = re.findall(r"^\| `(--.*?)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(options) == 10
    for names, meaning in options:
        for option in re.findall(r"--[a-z-]+(?: [A-Z]+)?", names):
            assert f" {option} " in shown
        for default in re.findall(r"default ([0-9]+)", meaning):
            assert f"(default: {default})" in shown.partition(f" {names} ")[2][:100]
    assert all(f" {option} " in shown for option in ("--client-id ID", "--base-url URL", "--conn-id ID"))
