"""The commands of ``airflow rtisms``, parsed as Airflow parses them; tests/system calls them from a shell."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_rtisms.cli import get_cli_commands
from airflow_provider_rtisms.sandbox import Sandbox
from tests.hostile import response
from tests.unit.conftest import Serve

pytestmark = pytest.mark.airflow


def run(name: str, *options: str) -> None:
    """Run a command with the words that follow ``airflow rtisms``."""
    [group] = get_cli_commands()
    assert group.name == "rtisms"
    [command] = [one for one in group.subcommands if one.name == name]
    parser = argparse.ArgumentParser()
    for argument in command.args:
        argument.add_to_parser(parser)
    command.func(parser.parse_args(options))  # type: ignore[operator]


Capture = pytest.CaptureFixture[str]


def test_balance_and_get(rtisms_sandbox: Sandbox, capsys: Capture) -> None:
    run("balance", "--output", "json")
    assert json.loads(capsys.readouterr().out) == [{"balance": "457.00"}]
    submission_id = rtisms_sandbox.add_submission("EXPIRED", pending_for=0, sent_for=0)
    read: dict[str, Any] = {"json": json.loads, "yaml": yaml.safe_load}
    for form, load in read.items():
        run("get", submission_id, "--output", form)
        (record,) = load(capsys.readouterr().out)
        assert (record["submission_id"], record["status"]) == (submission_id, "EXPIRED")
        assert (record["is_final"], record["cost"], type(record["cost"])) == (True, 1, int)


def test_a_table_fits_a_terminal(rtisms_sandbox: Sandbox, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run("get", *rtisms_sandbox.seed(2))
    head, _, *lines = capsys.readouterr().out.rstrip().splitlines()
    assert head.split(" | ")[0].strip() == "submission_id"
    assert [line.split(" | ")[1] for line in lines] == ["DELIVERED"] * 2


def test_many_ids_and_a_file_of_ids(rtisms_sandbox: Sandbox, capsys: Capture, tmp_path: Path) -> None:
    ids = rtisms_sandbox.seed(30)
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    (tmp_path / "ids.csv").write_text("\n".join(["submission_id", *ids]))
    for source in (ids[::-1], ["--ids-path", str(tmp_path / "ids.txt")], ["--ids-path", str(tmp_path / "ids.csv")]):
        run("get", *source, "--output", "json")
        shown = [record["submission_id"] for record in json.loads(capsys.readouterr().out)]
        assert shown == (source if len(source) == 30 else ids)
    with pytest.raises(SystemExit, match=r"^Unknown to the API \(HTTP 404\): 1\."):
        run("get", ids[0], "1", "--output", "json")
    assert [record["submission_id"] for record in json.loads(capsys.readouterr().out)] == ids[:1]
    for wrong in ([], [ids[0], "--ids-path", "ids.txt"]):
        with pytest.raises(SystemExit, match=r"^Give ids, or a file of ids"):
            run("get", *wrong)


def test_wait(rtisms_sandbox: Sandbox, capsys: Capture) -> None:
    ids = [rtisms_sandbox.add_submission(pending_for=0.1, sent_for=0.1), *rtisms_sandbox.seed(1)]
    run("wait", *ids, "--poke-interval", "0.1", "--output", "json")
    assert [record["status"] for record in json.loads(capsys.readouterr().out)] == ["DELIVERED"] * 2
    rejected = rtisms_sandbox.add_submission("REJECTED", pending_for=0, sent_for=0)
    with pytest.raises(SystemExit, match=rf"^Not delivered: 1 of 2 submissions: {rejected} REJECTED\.$"):
        run("wait", rejected, ids[0], "--output", "json")
    assert len(json.loads(capsys.readouterr().out)) == 2
    with pytest.raises(SystemExit, match=r"^Timed out: 0 of 1 submission is final; open: 1 SENT"):
        run("wait", rtisms_sandbox.add_submission("SENT", pending_for=0), "--timeout", "0.2", "--poke-interval", "0.1")
    with pytest.raises(SystemExit, match=r"^--timeout is "):
        run("wait", ids[0], "--timeout", "-1")


def test_sandbox_refuses_a_wrong_value() -> None:
    with pytest.raises(SystemExit, match=r"^balance must be a decimal string"):
        run("sandbox", "--balance", "much", "--fault", "latency:seconds=1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["get", "1"], "get_sms 1: the server returned HTTP 404"),
        (["wait", "1", "abc"], "^ID 2 is a str of 3 characters: "),
        (["balance", "--conn-id", "nowhere"], "^There is no Connection 'nowhere' that Airflow can read: add it"),
    ],
)
def test_an_error_is_one_line(rtisms_sandbox: Sandbox, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message) as ended:
        run(*options)
    assert "\n" not in str(ended.value)


@pytest.mark.parametrize("form", ["json", "table", "plain", "yaml"])
@pytest.mark.parametrize("name", ["\x1b]0;gotcha\x07", "\u202epmoc", "[red]Entel[/red]", "[/red]", "\x9b2J"])
def test_what_the_server_writes_reaches_a_terminal_as_text(
    serve_default: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch, form: str, name: str
) -> None:
    serve_default(response({"id": "7", "info": {"operator": {"name": name}}}))
    monkeypatch.setenv("COLUMNS", "300")
    run("get", "7", "--output", form)
    shown = capsys.readouterr().out
    assert not [one for one in shown if not one.isprintable() and one != "\n"]
    words = re.sub(r"\W+", " ", name.encode("unicode_escape").decode()).split()
    assert all(word in shown for word in words)
    assert name.startswith("[") is (name in shown)


def test_an_error_is_printable(serve_default: Serve) -> None:
    for options in (
        ["get", "7\x1b[2J"],
        ["balance", "--conn-id", "no\x1b[2Jwhere\u202e"],
        ["preview", "--rows", "\x1b[2J.csv"],
    ):
        with pytest.raises(SystemExit) as ended:
            run(*options)
        assert str(ended.value).isprintable()


def test_doctor(rtisms_sandbox: Sandbox, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        run("doctor", "--json", "--submission-id", "4193366853543393")
    outcomes = {check["name"]: check["outcome"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert (ended.value.code, outcomes["submission"]) == (0, "ok")
    rtisms_sandbox.rotate_secret("another")
    with pytest.raises(SystemExit) as ended:
        run("doctor", "--conn-id", "rtisms_default")
    assert (ended.value.code, "failed   authentication" in capsys.readouterr().out) == (1, True)


def test_the_doctor_names_a_connection_that_leads_elsewhere(serve_default: Serve, capsys: Capture) -> None:
    serve_default(response(b"", 404))
    with pytest.raises(SystemExit):
        run("doctor", "--conn-id", "rtisms_default")
    wrong, _ = capsys.readouterr().out.splitlines()
    assert wrong.endswith("this is not the RTI SMS API: check Base URL (Host) of the Connection rtisms_default.")


def test_preview(rtisms_sandbox: Sandbox, capsys: Capture) -> None:
    run("preview", "--text", "hola", "--max-parts", "1")
    assert capsys.readouterr().out.splitlines()[0] == "1 message, 1 part"
    with pytest.raises(SystemExit, match="Give either text or messages"):
        run("preview")
    assert rtisms_sandbox.state().requests == {}
