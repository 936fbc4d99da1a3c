"""Messages that come from a file, and results that go to one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, ObjectStoragePath

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.bulk.store import RtiSmsStorageError
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator
from airflow_provider_rtisms.operators.send import check_output_path, write_results
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.sending.messages import check_rows, read_message_file

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach  # type: ignore[no-redef,import-not-found,unused-ignore]

NUMBER = "+56900000100"
FORMATS = pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
LONG_NAME = "the-name-of-a-file-that-is-long.txt"


def row(**changes: Any) -> dict[str, Any]:
    return {"recipient": NUMBER, "text": "hola", "reference": "a", **changes}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@FORMATS
def test_each_format_gives_the_same(tmp_path: Path, name: str) -> None:
    rows = [row(text="línea 1\nlínea 2, {€}"), row(reference="b")]
    csv = f'reference,recipient,text\r\na,{NUMBER},"línea 1\nlínea 2, {{€}}"\r\nb,{NUMBER},hola\r\n'
    json_lines = "\n \n".join(map(json.dumps, rows))
    messages = check_rows(read_message_file(write(tmp_path, name, csv if ".csv" in name else json_lines)))
    assert [(one.text.characters, one.reference) for one in messages] == [("línea 1\nlínea 2, {€}", "a"), ("hola", "b")]
    assert [one.position for one in messages] == (["line 2", "line 4"] if ".csv" in name else ["line 1", "line 3"])


def test_a_file_of_excel_without_references(tmp_path: Path) -> None:
    """It begins with a byte order mark."""
    (message,) = check_rows(read_message_file(write(tmp_path, "a.csv", f"\ufeffrecipient,text\r\n{NUMBER},hola\r\n")))
    assert (message.text.characters, message.reference) == ("hola", None)


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeffrecipient;text;reference\r\n{NUMBER};José, a;a\r\n".encode(),
        f"recipient\ttext\treference\n{NUMBER}\tJosé, a\ta\n".encode(),
        f'sep=,\r\nrecipient,text,reference\r\n{NUMBER},"José, a",a\r\n'.encode(),
        f'\ufeffsep=;\r\nrecipient;text;reference\r\n{NUMBER};"José, a";a\r\n'.encode(),
        f'Recipient,TEXT, reference\n{NUMBER},"José, a",a\n'.encode(),
        f"\u00a0recipient ; text;Reference\n{NUMBER};José, a;a\n".encode(),
        f"recipient;text;reference\r\n{NUMBER};José, a;a\r\n;;\r\n\r\n;;;\r\n".encode(),
        f'recipient,text,reference\n{NUMBER},"José, a",a\n,,\n"","",""'.encode(),
    ],
)
def test_a_file_of_a_spreadsheet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    (message,) = check_rows(read_message_file(tmp_path / "a.csv"))
    assert (message.recipient.get_secret_value(), message.text.characters, message.reference) == (
        NUMBER, "José, a", "a"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({"csv_encoding": "cp1252"}, f"recipient;text\r\n{NUMBER};José 5 €\r\n".encode("cp1252")),
        ({"csv_encoding": "utf-16"}, f"recipient\ttext\r\n{NUMBER}\tJosé 5 €\r\n".encode("utf-16")),
        ({"csv_delimiter": "|"}, f"recipient|text\r\n{NUMBER}|José 5 €\r\n".encode()),
    ],
)
def test_the_operator_takes_separator_and_encoding(
    rtisms_sandbox: Sandbox, tmp_path: Path, options: dict[str, str], content: bytes
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    sent = RtiSmsSendOperator(task_id="send", messages_path=str(tmp_path / "a.csv"), sender="acme", **options).execute(
        {}
    )
    assert len(sent) == 1
    assert [one.text for one in rtisms_sandbox.state().messages] == ["José 5 €"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"messages_path": "a.xlsx"}, r"^messages_path is a spreadsheet \(\.xlsx\).* as CSV"),
        ({"messages_path": "a.csv", "csv_delimiter": "ab"}, "^csv_delimiter is a str of 2 characters"),
        ({"messages": [row()], "csv_delimiter": ";"}, "^csv_delimiter and csv_encoding are for messages_path: leave"),
        ({"recipients": NUMBER, "text": "hola", "csv_encoding": "cp1252"}, "are for messages_path: leave"),
    ],
)
def test_what_does_not_fit_a_file_is_refused(rtisms_sandbox: Sandbox, arguments: Any, problem: str) -> None:
    with pytest.raises(AirflowFailException, match=problem):
        RtiSmsSendOperator(task_id="send", sender="acme", **arguments).execute({})
    assert "POST sms" not in rtisms_sandbox.state().requests


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "telefono;mensaje\n1;2\n", r"It has 2 columns: telefono, mensaje\. .*set csv_delimiter"),
        ("a.csv", f",recipient,text\n0,{NUMBER},hola\n", r"It has 3 columns: \(no name\), recipient, text\."),
        ("a.csv", f"{NUMBER};hola, José\n", r"It has 2 columns\. .*set csv_delimiter"),
        ("a.csv", f"recipient,Recipient,text\n{NUMBER},{NUMBER},hola\n", "more than one column 'recipient'.*Ren"),
        ("a.csv", f"{NUMBER},hola\n", "first line of messages_path must name the columns"),
        ("a.csv", "recipient,text,refrence\n", "and no others"),
        ("a.csv", f"recipient;text\n;\n\n;;\n{NUMBER};hola\n;\n", r"^2 of 3 messages .*line 2 has no.*line 4 has more"),
        ("a.csv", f"recipient,text\n{NUMBER}\n", "line 2 has more or fewer fields"),
        ("a.csv", f'recipient,text\n{NUMBER},"hola\n', r"messages_path is not a valid CSV: .* begins on line 2\."),
        ("a.csv", f"recipient,text,text\n{NUMBER},hola,chao\n", r"messages_path has more than one column 'text'.*Ren"),
        ("a.jsonl", f'{{"recipient": "{NUMBER}", "text": "hola", "text": "b"}}', "line 1 has the key 'text' more than"),
        (
            "a.jsonl",
            f'{{"recipient": "{NUMBER}", "text": "hola", "reference": 1e999999999999999999999}}',
            "is not JSON",
        ),
        ("a.jsonl", f'{{"recipient": "{NUMBER}", "text": "hola", "reference": 1E+300000}}', "type Decimal"),
        ("a.jsonl", f'{{"recipient": "{NUMBER}", "text": {{"a": "hola"}}}}', "line 1 has a text .*of type dict"),
        ("a.jsonl", f'{{"recipient": "{NUMBER}", "text": "hola", "reference": 900000100}}', "repeats its recipient"),
        ("a.jsonl", "[1]\n", "line 1 is a value of type list"),
        ("a.txt", "hola", r"^messages_path does not end in \.csv, \.csv\.gz, \.jsonl or \.jsonl\.gz:"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(RtiSmsInputError, match=problem) as caught:
        check_rows(read_message_file(write(tmp_path, name, text)))
    assert "hola" not in str(caught.value)
    assert NUMBER not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"recipient,text\n\xff\xfe"),
        ("a.csv.gz", gzip.compress(b"recipient,text,reference\n+56900000100,hola,a\n" * 100, mtime=0)[:-9]),  # cut off
        ("a.jsonl.gz", b""),
    ],
)
def test_what_cannot_be_decoded_is_refused(rtisms_sandbox: Sandbox, tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        AirflowFailException, match=r"\(messages_path\) is .*(Make|Save) it .*Nothing was sent"
    ) as caught:
        RtiSmsSendOperator(task_id="send", messages_path=str(path), sender="acme").execute({})
    assert "hola" not in str(caught.value)
    assert "POST sms" not in rtisms_sandbox.state().requests


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RtiSmsStorageError, match=r"^Reading /\S+/a\.csv \(messages_path\) failed"):
        list(read_message_file(tmp_path / "a.csv"))


@pytest.fixture(params=["local", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A folder on disk, or one of fsspec's own object store in memory."""
    if request.param == "local":
        return tmp_path / "new" / "folder"
    attach(protocol="memory", fs=fsspec.filesystem("memory"))
    return ObjectStoragePath(f"memory://bucket/{tmp_path.name}")


RECORD = {"outcome": "submitted", "status": "submitted", "submission_id": "42", "recipient": NUMBER}


@FORMATS
def test_results_are_written(folder: Any, name: str) -> None:
    path = check_output_path(str(folder / name))
    for _ in range(2):  # the second attempt replaces the file
        write_results(path, [{"reference": "a, ñ", **RECORD}, RECORD])
    content = path.read_bytes()
    lines = (gzip.decompress(content) if name.endswith(".gz") else content).decode().split("\n")
    if ".csv" in name:
        head = "reference,outcome,status,submission_id"
        assert lines == [head, '"a, ñ",submitted,submitted,42', ",submitted,submitted,42", ""]
    else:
        first, second, end = lines
        assert json.loads(first) == {
            "reference": "a, ñ", "outcome": "submitted", "status": "submitted", "submission_id": "42"
        }  # fmt: skip
        assert (json.loads(second)["reference"], end) == (None, "")
    assert [one.name for one in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["results.parquet", "results.csv.zip", LONG_NAME])
def test_results_go_to_no_other_kind_of_file(name: str) -> None:
    with pytest.raises(RtiSmsInputError, match=r"^output_path does not end in \.csv, \.csv\.gz, \.jsonl or"):
        check_output_path(f"/data/{name}")
