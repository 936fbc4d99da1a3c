"""Numbers that are never texted: lists from files and queries, what stops a send, and what is said of them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_rtisms.operators.send import counts_in
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.transfers.sql_to_rtisms import SqlToRtiSmsOperator
from tests.unit.operators.test_send_messages import Context, people, received, send
from tests.unit.sqlite_file import SqliteFile

FIRST, SECOND, THIRD = (one["recipient"] for one in people(3))


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteFile:
    """A database with people and with those who said no, behind the Connection ``shop``."""
    database = SqliteFile(tmp_path / "shop.db", "shop", monkeypatch)
    database.do("CREATE TABLE people (id TEXT, phone TEXT)")
    database.do("CREATE TABLE opted_out (phone TEXT)")
    database.fill("people", [("a", FIRST), ("b", SECOND), ("c", THIRD)])
    return database


def excluding(folder: Path, content: str | bytes, name: str = "list.csv") -> dict[str, str]:
    """Return the argument that names a list of numbers."""
    path = folder / name
    written = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(written) if name.endswith(".gz") else written)
    return {"exclude_path": str(path)}


def send_query(**arguments: Any) -> SqlToRtiSmsOperator:
    fixed = {"task_id": "send", "sql_conn_id": "shop", "sql": "SELECT * FROM people ORDER BY id", "sender": "96000"}
    columns = {"recipient_column": "phone", "reference_column": "id", "text": "hola"}
    return SqlToRtiSmsOperator(**{**fixed, **columns, "exclude_sql": "SELECT phone FROM opted_out", **arguments})


def outcomes(results: Any) -> list[str]:
    return [one["outcome"] for one in results]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", f"phone\n{SECOND[:3]} {SECOND[3:6]}-{SECOND[6:]}\n+48600100200\n"),
        ("list.csv", f"name,recipient\nAna,{SECOND}\n"),
        ("list.jsonl", f'{{"phone": "{SECOND}"}}\n'),
        ("list.jsonl", f'{{"recipient": "{SECOND}", "since": 2024}}\n'),
        ("list.csv.gz", f"phone\n{SECOND}\n"),
        ("list.csv", f"\ufeffsep=;\r\nID;Recipient\r\n1;{SECOND}\r\n;\r\n;\r\n"),
    ],
)
def test_a_file_of_numbers(
    rtisms_sandbox: Sandbox, context: Context, logged: Callable[[], str], tmp_path: Path, name: str, content: str
) -> None:
    """Spaces, hyphens and the like make no difference."""
    results = send(people(3), **excluding(tmp_path, content, name)).execute(context)
    assert outcomes(results) == ["submitted", "excluded", "submitted"]
    assert results[1] == {"reference": "invoice 1", "outcome": "excluded", "status": None, "submission_id": None}
    assert [message.recipient for message in rtisms_sandbox.state().messages] == [FIRST, THIRD]
    assert "never texted): 1 of 3 messages" in logged()
    assert SECOND[-4:] not in logged()


def test_a_query_of_numbers(rtisms_sandbox: Sandbox, context: Context, database: SqliteFile) -> None:
    database.fill("opted_out", [(FIRST,)])
    table = {"results_table": "sent", "create_table": True}
    assert outcomes(send_query(**table).execute(context)) == ["excluded", "submitted", "submitted"]
    rows = database.rows("SELECT reference, outcome FROM sent ORDER BY reference")
    assert rows == [("a", "excluded"), ("b", "submitted"), ("c", "submitted")]
    assert len(rtisms_sandbox.state().messages) == 2
    send_operator = send(people(3), exclude_sql="SELECT phone FROM opted_out", exclude_conn_id="shop")
    assert outcomes(send_operator.execute({})) == ["excluded", "submitted", "submitted"]


def test_national_numbers_are_compared_in_international_form(
    rtisms_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region is that of the task, or of the Connection."""
    pytest.importorskip("phonenumbers")
    (tmp_path / "list.csv").write_text("Name;Recipient \nAna;9 3221 7456\n")
    numbers = ["+56932217456", "9 3221 7457"]
    options = {"recipients": numbers, "text": "hola", "exclude_path": str(tmp_path / "list.csv")}
    assert outcomes(send(default_region="CL", **options).execute({})) == ["excluded", "submitted"]
    found = send(default_region="CL", dry_run=True, **options).execute({})
    assert (found["excluded"], found["completed"]) == (1, 1)
    connection = {**json.loads(rtisms_sandbox.connection_json()), "extra": {"default_region": "CL"}}
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps(connection))
    assert outcomes(send(**options).execute({})) == ["excluded", "submitted"]
    with pytest.raises(AirflowFailException, match="1 of 1 number of exclude_path"):
        send(default_region="PL", **options | {"recipients": numbers[0]}).execute({})


def test_everybody_is_excluded(rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    exclude = excluding(tmp_path, f"phone\n{FIRST}\n{SECOND}\n")
    summary = send(people(2), **exclude, output_path=str(tmp_path / "out.csv")).execute({})
    assert (summary["messages"], summary["excluded"], summary["submitted"]) == (2, 2, 0)
    wait = {"wait_for_delivery": True, "deferrable": False, "min_delivered": 0.9}
    assert send(people(2), **exclude, **wait).execute({}) == []
    assert "POST sms" not in rtisms_sandbox.state().requests


def test_a_share_of_deliveries_is_one_of_those_who_are_texted(rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    wait = {"wait_for_delivery": True, "deferrable": False, "min_delivered": 1.0, "poke_interval": 0.1}
    assert len(send(people(3), **excluding(tmp_path, f"phone\n{FIRST}\n"), **wait).execute({})) == 2


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "exclude_path"),
        ("phone\n", "exclude_path has no numbers"),
        (f"{FIRST}\n{SECOND}\n", "no header line"),
        (f"tel:{FIRST}\n{SECOND}\n", "no header line"),
        (f"phone {FIRST[:4]} {FIRST[4:8]} {FIRST[8:]}\n{SECOND}\n", "no header line"),
        (f'phone\n{FIRST}\n""\n{SECOND}\n', r"1 of 3 numbers of exclude_path .*line 3"),
        ("phone;name\n", "exclude_path"),
        (f"name,phone\nAna,{FIRST}\n", "exclude_path has 2 columns.* recipient"),
        (f"phone\n{FIRST}\n056 12\n\n5\n", r"2 of 3 numbers of exclude_path .*line 3, line 5"),
        (f"recipient,Recipient\n{SECOND},{FIRST}\n", "exclude_path has more than one column 'recipient'"),
        (f"recipient,name\n{FIRST}\n", r"1 of 1 number of exclude_path .*line 2"),
        (f'phone\n"{FIRST}\n', "exclude_path is not a valid CSV"),
        (f"teléfono\n{FIRST}\n".encode("cp1252"), r"\(exclude_path\) is not UTF-8 text. Save it as UTF-8\. Nothing"),
    ],
)
def test_a_list_that_cannot_be_trusted_stops_the_send(
    rtisms_sandbox: Sandbox, tmp_path: Path, content: str | bytes, named: str
) -> None:
    with pytest.raises(AirflowFailException, match=named) as caught:
        send(people(3), **excluding(tmp_path, content)).execute({})
    assert "Nothing was sent" in str(caught.value)
    assert "56900000" not in str(caught.value)
    assert "POST sms" not in rtisms_sandbox.state().requests


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"exclude_path": "nowhere.csv", "exclude_sql": None}, "nowhere.csv"),
        ({"exclude_path": "list.txt", "exclude_sql": None}, "exclude_path does not end in"),
        ({"exclude_path": "list.csv"}, "either exclude_sql or exclude_path"),
        ({"exclude_sql": None, "exclude_conn_id": "shop"}, "exclude_conn_id is for exclude_sql"),
        ({"exclude_sql": "SELECT phone FROM nobody"}, "exclude_sql"),
        ({"exclude_sql": "SELECT phone FROM opted_out"}, "exclude_sql has no numbers"),
        ({"exclude_sql": "SELECT phone, id FROM people"}, "exclude_sql has 2 columns"),
        ({"exclude_sql": "SELECT 56932217456 AS phone", "default_region": "CL"}, "1 of 1 number .* as text: row 1"),
        ({"exclude_sql": "SELECT NULL AS phone"}, "1 of 1 number of exclude_sql .*row 1"),
        ({"exclude_conn_id": "nothing"}, "exclude_conn_id"),
    ],
)
def test_an_argument_that_gives_no_list_stops_the_send(
    rtisms_sandbox: Sandbox, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(AirflowFailException, match=named):
        send_query(**arguments).execute({})
    assert "POST sms" not in rtisms_sandbox.state().requests


def test_a_template_that_renders_to_nothing_excludes_nobody_and_stops_the_send(rtisms_sandbox: Sandbox) -> None:
    operator = send(people(1), exclude_path="{{ none }}")
    operator.exclude_path = None  # as a DAG with native rendering makes it
    with pytest.raises(AirflowFailException, match="exclude_path"):
        operator.execute({})
    assert "POST sms" not in rtisms_sandbox.state().requests


def test_who_is_excluded_after_an_sms_stays_submitted(
    rtisms_sandbox: Sandbox, context: Context, tmp_path: Path
) -> None:
    send(people(2)).execute(context)
    results = send(people(3), **excluding(tmp_path, f"phone\n{FIRST}\n{THIRD}\n")).execute(context)
    assert outcomes(results) == ["submitted", "submitted", "excluded"]
    assert sum(received(rtisms_sandbox).values()) == 2


@pytest.mark.parametrize("on_uncertain", ["resend", "skip"])
def test_who_is_excluded_after_a_lost_response_gets_nothing_more(
    rtisms_sandbox: Sandbox, context: Context, tmp_path: Path, on_uncertain: Any
) -> None:
    rtisms_sandbox.set_faults(Fault("lost_response", path="sms", times=1))
    with pytest.raises(AirflowFailException, match="1 uncertain"):
        send(people(1)).execute(context)
    exclude = excluding(tmp_path, f"phone\n{FIRST}\n")
    results = send(people(2), **exclude, on_uncertain=on_uncertain).execute(context)
    assert outcomes(results) == ["uncertain", "submitted"]
    assert rtisms_sandbox.state().requests["POST sms"] == 2


def test_an_error_counts_the_excluded_and_names_none(rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    rtisms_sandbox.set_balance("0")
    with pytest.raises(AirflowFailException, match=r"Of 3 messages: 2 excluded; 1 refused") as caught:
        send(people(3), **excluding(tmp_path, f"phone\n{FIRST}\n{SECOND}\n")).execute({})
    assert "invoice 0" not in str(caught.value)


def test_the_counts_of_an_attempt_of_an_older_release() -> None:
    """A task that has deferred before an upgrade reads them after it."""
    old = {"path": "a.csv", "messages": 1, "submitted": 1, "refused": 0, "uncertain": 0, "not_sent": 0, "vanished": 0}
    assert counts_in(old) == {
        "messages": 1, "submitted": 1, "refused": 0, "uncertain": 0, "not_sent": 0, "excluded": 0
    }  # fmt: skip


MEMORY = """
import resource, sys
from airflow_provider_rtisms.sending.messages import check_messages, find_excluded, read_excluded_file
messages = check_messages(recipients=[f"+569{n:08}" for n in range(1000)], text="hola")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = find_excluded(read_excluded_file(sys.argv[1]), "exclude_path", messages)
print(len(found), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # it takes 6 s on an idle machine
def test_a_million_numbers_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    with path.open("w") as file:
        file.write("phone\n")
        file.writelines(f"+569{number:08}\n" for number in range(500, 1_000_500))
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    found, mebibytes = map(int, done.stdout.split())
    assert found == 500
    assert mebibytes <= 20
