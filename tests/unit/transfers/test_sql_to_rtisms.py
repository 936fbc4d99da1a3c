"""From a table to people, with SQLite; tests/system does the same with PostgreSQL and a whole Airflow."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.hooks.templates import Redacted
from airflow_provider_rtisms.sandbox import Sandbox
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator

pytest.importorskip("airflow.providers.sqlite", reason="the SQLite provider is not installed")

Context = dict[str, Any]
Person = tuple[Any, Any, Any, Any]
PEOPLE: list[Person] = [
    (number, f"+569000001{number:02}", f"Ana {number}", 1000.5 + number) for number in range(10, 16)
]


class Table:
    """A table of people in a database file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._do("CREATE TABLE people (id, phone, name, amount)")

    def fill(self, people: Sequence[Person]) -> None:
        """Replace all rows."""
        self._do("DELETE FROM people")
        with closing(sqlite3.connect(self.path)) as database, database:
            database.executemany("INSERT INTO people VALUES (?, ?, ?, ?)", people)

    def _do(self, sql: str) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute(sql)


@pytest.fixture
def table(rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    table = Table(tmp_path / "people.db")
    table.fill(PEOPLE)
    monkeypatch.setenv("AIRFLOW_CONN_PEOPLE", json.dumps({"conn_type": "sqlite", "host": str(table.path)}))
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


def test_each_row_gets_its_text_and_its_result(rtisms_sandbox: Sandbox, table: Table) -> None:
    results = send().execute({})
    assert [result["reference"] for result in results] == [str(number) for number in range(10, 16)]
    by_id = {one.submission_id: (one.recipient, one.text) for one in rtisms_sandbox.state().messages}
    assert [by_id[result["submission_id"]] for result in results] == [
        (phone, f"Hola {name}: {amount}") for _, phone, name, amount in PEOPLE
    ]


def test_a_column_of_texts_and_parameters(rtisms_sandbox: Sandbox, table: Table) -> None:
    sql = "SELECT phone, name || ' {x}' AS message FROM people WHERE id > :least"
    arguments = {"text": None, "text_column": "message", "reference_column": None, "parameters": {"least": 13}}
    results = send(sql=sql, **arguments).execute({})
    assert texts(rtisms_sandbox) == {"Ana 14 {x}": 1, "Ana 15 {x}": 1}
    assert [result["reference"] for result in results] == [None, None]


def test_all_bad_rows_are_named_in_one_error(rtisms_sandbox: Sandbox, table: Table) -> None:
    bad: list[Person] = [
        (1, "", "Ana", 1),
        (2, PEOPLE[0][1], None, 1),
        (10, PEOPLE[1][1], "Ana", 1),
        ("", PEOPLE[1][1], "Ana", 1),
        (5, "nobody", "a" * 1000, 1),
        (6, PEOPLE[2][1], "\N{PILE OF POO}", 1),
    ]
    table.fill([*PEOPLE, *bad])
    with pytest.raises(AirflowFailException) as caught:
        send(charset=1, max_parts=2).execute({})
    error = str(caught.value)
    assert error.startswith("6 of 12 messages cannot be sent")
    for number, problem in enumerate(
        [
            "has no recipient",
            "has null in name",
            "has the same reference as row 1",
            "has no reference in id",
            "has a recipient that is not a phone number in international form and has a text that cannot be sent",
            "which charset 1 cannot hold",
        ],
        7,
    ):
        assert f"row {number} " in error
        assert problem in error
    assert "90000" not in error
    assert "Ana" not in error
    assert rtisms_sandbox.state().requests == {}


def test_national_numbers_of_a_table(table: Table, rtisms_sandbox: Sandbox) -> None:
    """A column of text; one of numbers has lost leading zeros, and is refused."""
    table.fill([(1, "512 345 678", "Ana “" + "a" * 70, 1), (2, "+48512345679", "Eva", 2)])
    arguments: dict[str, Any] = {"default_region": "PL", "smart_encoding": True, "text": "Hola {name}"}
    send(**arguments).execute({})
    assert sorted((one.recipient, one.text[:10]) for one in rtisms_sandbox.state().messages) == [
        ("+48512345678", 'Hola Ana "'), ("+48512345679", "Hola Eva")
    ]  # fmt: skip
    table.fill([(1, "512345678", "Ana", 1), (2, "22 123 45 67", "Eva", 2), (3, 512345678, "Eva", 2)])
    with pytest.raises(AirflowFailException, match=r"^2 of 3 messages .*row 2 has a recip.* of PL, row 3 has a recip"):
        send(**arguments).execute({})


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
        (
            {"sql": "SELECT id, phone, phone, name, amount FROM people"},
            r"The query has more than one column 'phone' \(recipient_column\).* SELECT column AS other_name\. Nothing",
        ),
        ({"sql": "SELECT id, phone, name, amount, 1 AS id FROM people"}, r"more than one column 'id' \(reference_col"),
        (
            {"sql": "SELECT a.id, a.phone, a.name, b.name, 1 AS amount FROM people a JOIN people b USING (id)"},
            r"more than one column 'name' \(text\)",
        ),
        (
            {"sql": "SELECT id, phone, name, amount AS name FROM people", "text": None, "text_column": "name"},
            r"more than one column 'name' \(text_column\)",
        ),
        ({"sql": "CREATE TABLE other (id)", "text": "hola"}, "returns no table"),
        ({"max_messages": 5}, "There are 6 messages, more than max_messages=5"),
        ({"max_parts_total": 5}, "6 messages take 6 parts"),
        ({"sql_conn_id": "rtisms_default"}, "not one of a database"),
        ({"sql_conn_id": None}, "sql_conn_id is missing"),
        ({"sql_conn_id": ""}, "sql_conn_id is missing"),
        ({"on_uncertain": "retry"}, "on_uncertain"),
        *(({"parameters": one}, "parameters is .*use a list such as") for one in (5, "x", b"x", 5.5, True, "")),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sent(
    rtisms_sandbox: Sandbox, table: Table, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(AirflowFailException) as caught:
        send(**arguments).execute({})
    assert re.search(named, str(caught.value))
    assert rtisms_sandbox.state().requests == {}


@pytest.mark.parametrize(
    ("value", "problem"),
    [("9e999", "row 1 has a number in amount that is not finite"), ("x'00'", "row 1 has bytes in")],
)
def test_a_value_that_no_text_can_hold_is_named(
    rtisms_sandbox: Sandbox, table: Table, value: str, problem: str
) -> None:
    with pytest.raises(AirflowFailException, match=problem):
        send(sql="SELECT id, phone, name, ? AS amount FROM people WHERE id < 11".replace("?", value)).execute({})
    assert rtisms_sandbox.state().requests == {}


def test_an_empty_table_is_nothing_to_send(rtisms_sandbox: Sandbox, table: Table) -> None:
    table.fill([])
    assert send().execute({}) == []
    assert send(wait_for_delivery=True, deferrable=True).execute({}) == []
    assert rtisms_sandbox.state().requests == {}


def test_a_failed_query_repeats_no_values(table: Table) -> None:
    with pytest.raises(AirflowFailException, match=r"The query failed.*no such column: nmae.*Nothing was sent"):
        send(sql="SELECT nmae FROM people").execute({})
    with pytest.raises(AirflowFailException, match=r"The query failed .*unrecognized token") as caught:
        send(sql=f"SELECT '{PEOPLE[0][1]}").execute({})
    assert PEOPLE[0][1] not in str(caught.value)


def test_a_changed_table_sends_what_is_new_and_reports_what_vanished(
    rtisms_sandbox: Sandbox, table: Table, context: Context, logged: Callable[[], str]
) -> None:
    first = send().execute(context)
    changed = [(number, phone, f"{name}!", amount) for number, phone, name, amount in reversed(PEOPLE[2:])]
    table.fill([*changed, (99, "+56900000199", "Eva", 5)])
    results = send().execute(context)
    known = {result["reference"]: result["submission_id"] for result in first}
    assert [known.get(result["reference"]) for result in results[:-1]] == [known[str(row[0])] for row in changed]
    assert len(texts(rtisms_sandbox)) == 7
    assert texts(rtisms_sandbox)["Hola Eva: 5"] == 1
    assert "No longer among the messages: 2 submitted messages" in logged()


def test_a_table_whose_ids_changed_texts_nobody_again(rtisms_sandbox: Sandbox, table: Table, context: Context) -> None:
    send().execute(context)
    table.fill([*PEOPLE[:2], *((id + 100, *rest) for id, *rest in PEOPLE[2:]), (99, "+56900000199", "Eva", 5)])
    with pytest.raises(AirflowFailException, match=r"Messages with a new reference: 4.*set on_uncertain to 'resend'"):
        send().execute(context)
    assert len(texts(rtisms_sandbox)) == 7
    assert set(texts(rtisms_sandbox).values()) == {1}
    send(on_uncertain="resend").execute(context)
    assert Counter(texts(rtisms_sandbox).values()) == {1: 3, 2: 4}


def test_numbers_and_texts_stay_out_of_logs_and_reprs(
    table: Table, context: Context, logged: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    operator = send(parameters={"least": 0}, sql="SELECT * FROM people WHERE id > :least")
    operator.text = operator.text
    operator.parameters = operator.parameters
    assert isinstance(operator.text, Redacted)
    assert isinstance(operator.parameters, Redacted)
    operator.execute(context)
    shown = logged() + repr(context["ti"].pushed) + repr(context["task_state_store"])
    assert "6 messages take 6 parts" in shown
    for _, phone, name, _ in PEOPLE:
        assert phone[1:] not in shown
        assert name not in shown


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
