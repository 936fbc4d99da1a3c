"""``python -m airflow_provider_rtisms.preview``: what it shows of a text, of rows and of messages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_rtisms.preview import main
from tests.patience import PATIENCE

ROWS = "name,amount\nAna,1\nŁukasz,2\nőŁ,3\nEva,4\n"
MESSAGES = "recipient,text,reference\n+56900000100,hola,a\n+56900000101,hola ā,b\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text(ROWS)
    Path("excel.csv").write_bytes("\r\n".join(["Name;Amount", "Zoé,;1,5", "José;2"]).encode("cp1252"))
    national = ["recipient;text", "9 8765 4321;hola", f"987654322;“{'a' * 70}”", f"+56987654323;“{'ā' * 70}"]
    Path("national.csv").write_text("\n".join(national))
    Path("rows.jsonl").write_text('{"name": "Ana"}\n[1]\n')
    Path("numbers.jsonl").write_text(
        '{"name": 7, "amount": 12345678901234567890.50000000}\n{"name": 1e5, "amount": 1E-4}\n'
    )
    Path("twice.csv").write_text("name,name,amount,amount\nAna,Eva,1,2\n")
    Path("twice.jsonl").write_text('{"name": "Ana", "name": "Eva"}\n')
    Path("values.jsonl").write_text('{"name": {"a": 1}}\n{"name": NaN}\n{"name": [1]}\n{"name": true}\n')
    Path("broken.jsonl").write_text("{\n")
    Path("messages.csv").write_text(MESSAGES)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("control", ["\x1b[2J", "\x9b", "\x7f", "\u202e", "\u200b", "\u2028"])
def test_what_people_wrote_is_shown_as_text(capsys: pytest.CaptureFixture[str], control: str) -> None:
    Path("odd.csv").write_text(f"name\nAna{control}\n", newline="")
    for options in (
        ["--text", f"a{control}b"],
        ["--text", "{name}", "--rows", "odd.csv"],
        ["--rows", f"{control}.csv"],
    ):
        main(options)
        shown = "".join(capsys.readouterr())
        assert all(line.isprintable() for line in shown.splitlines())
        assert control not in shown


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (
            ["--text", "Hola {name}"],
            [
                "1 message, 1 part",
                "charset 1 (GSM 7-bit): 1 message",
                'message 1: 11 characters, 1 part, charset 1: "Hola {name}"',
            ],
        ),
        (
            ["--text", "Hola {name}", "--rows", "rows.csv"],
            [
                "4 messages, 4 parts, at most 1 each",
                "charset 1 (GSM 7-bit): 2 messages",
                "charset 6 (UCS-2): 2 messages",
                "Ł (U+0141) is not in GSM 7-bit: 2 messages",
                "ő (U+0151) is not in GSM 7-bit: 1 message",
                'message 1: 8 characters, 1 part, charset 1: "Hola Ana"',
                'message 2: 11 characters, 1 part, charset 6: "Hola Łukasz"',
                'message 3: 7 characters, 1 part, charset 6: "Hola őŁ"',
            ],
        ),
        (
            ["--text", "{name}", "--rows", "excel.csv", "--csv-encoding", "cp1252", "--samples", "1"],
            [
                "2 messages, 2 parts, at most 1 each",
                "charset 1 (GSM 7-bit): 2 messages",
                'message 1: 4 characters, 1 part, charset 1: "Zoé,"',
            ],
        ),
        (
            ["--text", "a" * 161, "--samples", "0", "--max-parts", "3", "--charset", "6"],
            ["1 message, 3 parts", "charset 6 (UCS-2): 1 message"],
        ),
        (
            ["--text", "{name} {amount}", "--rows", "numbers.jsonl"],
            [
                "2 messages, 2 parts, at most 1 each",
                "charset 1 (GSM 7-bit): 2 messages",
                'message 1: 31 characters, 1 part, charset 1: "7 12345678901234567890.50000000"',
                'message 2: 13 characters, 1 part, charset 1: "100000 0.0001"',
            ],
        ),
        (
            ["--messages", "national.csv", "--default-region", "CL", "--smart-encoding", "--samples", "0"],
            [
                "3 messages, 4 parts, at most 2 each",
                "charset 1 (GSM 7-bit): 2 messages",
                "charset 6 (UCS-2): 1 message",
                "“ (U+201C) is not in GSM 7-bit: 1 message",
                "ā (U+0101) is not in GSM 7-bit: 1 message",
                "phone numbers without + that are completed: 2",
                "parts that smart encoding saves: 1",
                "“ (U+201C) is replaced: 1 message",
                "” (U+201D) is replaced: 1 message",
            ],
        ),
        (
            ["--messages", "messages.csv", "--samples", "1"],
            [
                "2 messages, 2 parts, at most 1 each",
                "charset 1 (GSM 7-bit): 1 message",
                "charset 6 (UCS-2): 1 message",
                "ā (U+0101) is not in GSM 7-bit: 1 message",
                'message 1: 4 characters, 1 part, charset 1: "hola"',
            ],
        ),
    ],
)
def test_what_it_shows(files: None, capsys: pytest.CaptureFixture[str], options: list[str], shown: list[str]) -> None:
    status = main(options)
    out, err = capsys.readouterr()
    assert (status, out.splitlines(), err) == (0, shown, "")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "Give either text or messages."),
        (["--messages", "messages.csv", "--rows", "rows.csv"], "Give either --messages, or --text and maybe --rows."),
        (["--text", "Hola {nmae}", "--rows", "rows.csv"], "--rows has no column 'nmae' \\(text\\)"),
        (
            ["--text", "{name}", "--rows", "rows.jsonl"],
            "line 2 of --rows is a value of type list where an object was expected.",
        ),
        (["--text", "{name}", "--rows", "broken.jsonl"], "line 1 of --rows is not JSON."),
        (
            ["--text", "{name}", "--rows", "twice.csv"],
            "^--rows has more than one column 'name' .text.. Rename or remove",
        ),
        (["--text", "{name}", "--rows", "twice.jsonl"], "^line 1 of --rows has the key 'name' more than once"),
        (
            ["--text", "{name}", "--rows", "values.jsonl"],
            "row 1 has a value of type dict in name.*row 2 has a number in name that is not.*row 3.*list.*row 4.*bool",
        ),
        (["--text", "a" * 161, "--max-parts", "1"], "max_parts"),
        (["--text", "a", "--rows", "rows.xlsx"], "^--rows is a spreadsheet .* Save it as CSV"),
        (["--text", "a", "--rows", "rows.txt"], "^--rows does not end in .csv"),
        (["--text", "a", "--default-region", "CL"], "^default_region is for recipients and messages"),
        (["--messages", "national.csv", "--default-region", "PL"], "line 2 has a recipient that is neither .* of PL"),
        (["--messages", "national.csv"], "line 2 has a recipient that is not a phone number in international form"),
        (["--text", "a", "--csv-delimiter", ";"], "^csv_delimiter and csv_encoding are for --rows and --messages"),
        (["--messages", "rows.csv"], "The first line of messages_path must name the columns"),
    ],
)
def test_what_cannot_be_shown(
    files: None, capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    status = main(options)
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert re.search(problem, err)


def test_an_option_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--text", "hola", "--max", "1"])
    assert "unrecognized arguments: --max 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("options", "status"), [(["--text", "hola"], 0), ([], 1)])
def test_it_runs_as_a_module(options: list[str], status: int) -> None:
    command = [sys.executable, "-m", "airflow_provider_rtisms.preview", *options]
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode == status
