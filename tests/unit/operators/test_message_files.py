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


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeffrecipient;text;reference\r\n{NUMBER};José, a;a\r\n",
        f'\ufeffsep=;\r\nrecipient;text;reference\r\n{NUMBER};"José, a";a\r\n',
        f'Recipient,TEXT, reference\n{NUMBER},"José, a",a\n',
        f"\u00a0recipient ; text;Reference\n{NUMBER};José, a;a\r\n;;\r\n\r\n;;;\r\n",
    ],
)
def test_a_file_of_a_spreadsheet(tmp_path: Path, content: str) -> None:
    (message,) = check_rows(read_message_file(write(tmp_path, "a.csv", content)))
    assert message.recipient.get_secret_value() == NUMBER
    assert (message.text.characters, message.reference) == ("José, a", "a")


@pytest.mark.parametrize(
    ("options", "content"),
    [
        ({"csv_encoding": "utf-16"}, f"recipient\ttext\r\n{NUMBER}\tJosé 5 €\r\n".encode("utf-16")),
        ({"csv_delimiter": "|"}, f"recipient|text\r\n{NUMBER}|José 5 €\r\n".encode()),
    ],
)
def test_the_operator_takes_separator_and_encoding(
    rtisms_sandbox: Sandbox, tmp_path: Path, options: dict[str, str], content: bytes
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    operator = RtiSmsSendOperator(task_id="send", messages_path=str(tmp_path / "a.csv"), sender="acme", **options)
    assert len(operator.execute({})) == 1
    assert [one.text for one in rtisms_sandbox.state().messages] == ["José 5 €"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.csv", "telefono;mensaje\n1;2\n", r"It has 2 columns: telefono, mensaje\. .*set csv_delimiter"),
        ("a.csv", f"{NUMBER},hola\n", "first line of messages_path must name the columns"),
        ("a.csv", "recipient,text,refrence\n", "and no others"),
        ("a.csv", f"recipient;text\n;\n\n;;\n{NUMBER};hola\n;\n", r"^2 of 3 messages .*line 2 has no.*line 4 has more"),
        ("a.jsonl", f'{{"recipient": "{NUMBER}", "text": "hola", "reference": 1E+300000}}', "type Decimal"),
        ("a.jsonl", f'{{"recipient": "{NUMBER}", "text": {{"a": "hola"}}}}', "line 1 has a text .*of type dict"),
        ("a.jsonl", "[1]\n", "line 1 is a value of type list"),
        ("a.txt", "hola", r"^messages_path does not end in \.csv, \.csv\.gz, \.jsonl or \.jsonl\.gz:"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(RtiSmsInputError, match=problem) as caught:
        check_rows(read_message_file(write(tmp_path, name, text)))
    assert "hola" not in str(caught.value)
    assert NUMBER not in str(caught.value)


def test_what_cannot_be_decoded_is_refused(rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"recipient,text\n\xff\xfehola")
    operator = RtiSmsSendOperator(task_id="send", messages_path=str(tmp_path / "a.csv"), sender="acme")
    with pytest.raises(AirflowFailException, match=r"\(messages_path\) is .* Save it .*Nothing was sent") as caught:
        operator.execute({})
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
        fields = {"outcome": "submitted", "status": "submitted", "submission_id": "42"}
        assert [json.loads(first), json.loads(second)] == [
            {"reference": "a, ñ", **fields},
            {"reference": None, **fields},
        ]
        assert end == ""
    assert [one.name for one in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["results.parquet", "results.csv.zip", "the-name-of-a-file-that-is-long.txt"])
def test_results_go_to_no_other_kind_of_file(name: str) -> None:
    with pytest.raises(RtiSmsInputError, match=r"^output_path does not end in \.csv, \.csv\.gz, \.jsonl or"):
        check_output_path(f"/data/{name}")
