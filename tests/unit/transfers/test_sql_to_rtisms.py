"""From a table to people, with SQLite; tests/system does the same with PostgreSQL and a whole Airflow."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.hooks.templates import Redacted
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from tests.unit.sqlite_file import SqliteFile

Context = dict[str, Any]
#: id, phone, name, amount
PEOPLE: list[tuple[Any, ...]] = [
    (number, f"+569000001{number:02}", f"Ana {number}", 1000.5 + number) for number in range(10, 16)
]


@pytest.fixture
def table(rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteFile:
    table = SqliteFile(tmp_path / "people.db", "people", monkeypatch)
    table.do("CREATE TABLE people (id, phone, name, amount)")
    table.fill("people", PEOPLE)
    return table


def send(**arguments: Any) -> SqlToRtiSmsOperator:
    defaults = {
        "task_id": "send",
        "sql": "SELECT id, phone, name, amount FROM people",
        "sql_conn_id": "people",
        "recipient_column": "phone",
        "text": "Hola {name}: {amount}",
        "reference_column": "id",
        "sender": "96000",
    }
    return SqlToRtiSmsOperator(**{**defaults, **arguments})


def texts(sandbox: Sandbox) -> Counter[str]:
    return Counter(message.text for message in sandbox.state().messages)


@pytest.mark.usefixtures("table")
def test_each_row_gets_its_text_and_its_result(rtisms_sandbox: Sandbox) -> None:
    results = send().execute({})
    assert [result["reference"] for result in results] == [str(number) for number in range(10, 16)]
    by_id = {one.submission_id: (one.recipient, one.text) for one in rtisms_sandbox.state().messages}
    assert [by_id[result["submission_id"]] for result in results] == [
        (phone, f"Hola {name}: {amount}") for _, phone, name, amount in PEOPLE
    ]


@pytest.mark.usefixtures("table")
def test_a_column_of_texts_and_parameters(rtisms_sandbox: Sandbox) -> None:
    sql = "SELECT phone, name || ' {x}' AS message FROM people WHERE id > :least"
    arguments = {"text": None, "text_column": "message", "reference_column": None, "parameters": {"least": 13}}
    results = send(sql=sql, **arguments).execute({})
    assert texts(rtisms_sandbox) == {"Ana 14 {x}": 1, "Ana 15 {x}": 1}
    assert [result["reference"] for result in results] == [None, None]


def test_all_bad_rows_are_named_in_one_error_by_position(rtisms_sandbox: Sandbox, table: SqliteFile) -> None:
    bad: list[tuple[Any, ...]] = [
        (1, "", "Ana", 1),
        (2, PEOPLE[0][1], None, b"1"),
        (10, PEOPLE[1][1], "Ana", 1),
        ("", PEOPLE[1][1], "Ana", 1),
        (5, "nobody", "a" * 1000, 1),
        (6, PEOPLE[2][1], "Ana", float("inf")),
    ]
    table.fill("people", [*PEOPLE, *bad])
    with pytest.raises(AirflowFailException) as caught:
        send(charset=1, max_parts=2).execute({})
    error = str(caught.value)
    assert error.startswith("6 of 12 messages cannot be sent")
    problems = [
        "row 7 has no recipient",
        "row 8 has null in name, which the text needs and has bytes in amount",
        "row 9 has the same reference as row 1",
        "row 10 has no reference in id",
        "row 11 has a recipient that is not a phone number in international form and has a text that cannot be sent",
        "row 12 has a number in amount that is not finite",
    ]
    assert [one for one in problems if one not in error] == []
    assert "90000" not in error
    assert "Ana" not in error
    assert rtisms_sandbox.state().requests == {}


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            {"text": "Hola {nmae}"},
            r"The query has no column 'nmae' \(text\)\. The columns are: id, phone, name, amount\. Nothing was sent",
        ),
        ({"text": "Hola {name.x}"}, "placeholder or a brace"),
        ({"recipient_column": "telephone"}, r"has no column 'telephone' \(recipient_column\)"),
        ({"reference_column": "key"}, r"has no column 'key' \(reference_column\)"),
        ({"text": None, "text_column": "message"}, r"has no column 'message' \(text_column\)"),
        ({"text_column": "name"}, "Give either text or text_column"),
        ({"text": None}, "either text or text_column"),
        ({"sql": "SELECT id, phone, phone, name, amount FROM people"}, r"one column 'phone' \(recipient_column\).*AS"),
        ({"sql": "SELECT id, phone, name, amount, 1 AS id FROM people"}, r"more than one column 'id' \(reference_col"),
        ({"sql": "SELECT *, name FROM people"}, r"more than one column 'name' \(text\)"),
        ({"sql": "SELECT *, name FROM people", "text": None, "text_column": "name"}, r"column 'name' \(text_column\)"),
        ({"sql": "CREATE TABLE other (id)", "text": "hola"}, "returns no table"),
        ({"sql": "SELECT nmae FROM people"}, r"The query failed.*no such column: nmae.*Nothing was sent"),
        ({"sql": f"SELECT '{PEOPLE[0][1]}"}, "The query failed .*unrecognized token"),
        ({"max_messages": 5}, "There are 6 messages, more than max_messages=5"),
        ({"sql_conn_id": "rtisms_default"}, "not one of a database"),
        *(({"sql_conn_id": value}, "sql_conn_id is missing") for value in (None, "")),
        *(({"parameters": one}, "parameters is .*use a list such as") for one in (5, "x", b"x", 5.5, True, "")),
    ],
)
def test_what_gives_no_messages_is_refused_before_anything_is_sent(
    rtisms_sandbox: Sandbox, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(AirflowFailException, match=named) as caught:
        send(**arguments).execute({})
    assert "56900000" not in str(caught.value)
    assert rtisms_sandbox.state().requests == {}


def test_an_empty_table_is_nothing_to_send(rtisms_sandbox: Sandbox, table: SqliteFile) -> None:
    table.fill("people", [])
    assert send().execute({}) == []
    assert send(wait_for_delivery=True, deferrable=True).execute({}) == []
    assert rtisms_sandbox.state().requests == {}


def test_a_changed_table_sends_what_is_new_and_reports_what_vanished(
    rtisms_sandbox: Sandbox, table: SqliteFile, context: Context, logged: Callable[[], str]
) -> None:
    known = {result["reference"]: result["submission_id"] for result in send().execute(context)}
    changed = [(number, phone, f"{name}!", amount) for number, phone, name, amount in reversed(PEOPLE[2:])]
    table.fill("people", [*changed, (99, "+56900000199", "Eva", 5)])
    results = send().execute(context)
    assert [known.get(result["reference"]) for result in results[:-1]] == [known[str(row[0])] for row in changed]
    assert len(texts(rtisms_sandbox)) == 7
    assert texts(rtisms_sandbox)["Hola Eva: 5"] == 1
    assert "No longer among the messages: 2 submitted messages" in logged()


@pytest.mark.usefixtures("table")
def test_numbers_and_texts_stay_out_of_logs_and_reprs(
    context: Context, logged: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    operator = send(parameters={"least": 0}, sql="SELECT * FROM people WHERE id > :least")
    operator.text = operator.text
    operator.parameters = operator.parameters
    assert isinstance(operator.text, Redacted)
    assert isinstance(operator.parameters, Redacted)
    operator.execute(context)
    shown = logged() + repr(context["ti"].pushed) + repr(context["task_state_store"])
    assert "submitted" in shown
    assert not [word for _, phone, name, _ in PEOPLE for word in (phone[1:], name) if word in shown]


@pytest.mark.parametrize("name", ["recipients", "messages", "messages_path"])
def test_arguments_of_another_source_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"takes no {name}:"):
        send(**{name: []})


@pytest.mark.slow
def test_importing_it_loads_no_provider_of_a_database() -> None:
    code = (
        "import sys\nfrom airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator, conf\n"
        "heavy = ('airflow.providers.common.sql.hooks', 'sqlparse', 'sqlite3', 'aiohttp', 'requests')\n"
        "before = set(sys.modules)\nimport airflow_provider_rtisms.transfers.sql_to_rtisms\n"
        "print([one for one in set(sys.modules) - before if one.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
