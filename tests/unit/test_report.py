"""Reports of tables whose truth is counted here, without SQL; tests/system has the same on PostgreSQL and MariaDB."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import random
import shlex
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsError, RtiSmsInputError
from airflow_provider_rtisms.cli import get_cli_commands
from airflow_provider_rtisms.report import main, plot_report, read_report, view_sql
from tests.documents import BLOCKS, blocks

pytestmark = pytest.mark.airflow

Row = dict[str, Any]
ALL = ("day", "network", "campaign")
#: Columns of a table of sends with their details, without those that a report does not read.
COLUMNS = (
    *("message_key", "reference", "submission_id", "outcome", "status", "sent_at", "is_final", "registered_at"),
    *("done_at", "cost", "operator_name", "team"),
)
TIMES = ("sent_at", "registered_at", "done_at")
STATES = ["DELIVERED"] * 5 + ["REJECTED", "UNDELIVERED", "EXPIRED", "UNKNOWN", "SENT", "PENDING", "submitted", None]


def make_rows(seed: int, count: int = 200) -> list[Row]:
    """Return random rows, as a ledger may have them."""
    chance = random.Random(seed)
    start = datetime(2026, 10, 30, 22, tzinfo=UTC)
    rows = []
    for number in range(count):
        sent_at = start + timedelta(minutes=chance.randrange(4 * 24 * 60))
        row = dict.fromkeys(COLUMNS) | {
            "message_key": f"key {number}",
            "reference": chance.choice(
                [None, *(f"{one}{number}" for one in ("", "march-", "March-x-", "-", "o'neil é-"))]
            ),
            "sent_at": chance.choice([sent_at, sent_at, None]),
            "team": chance.choice([None, "", "sales", "Sales", "100% 'us'"]),
            "outcome": chance.choice(["submitted"] * 8 + ["refused", "not_sent", "excluded", "uncertain", None]),
        }
        if row["outcome"] == "submitted" or chance.random() < 0.02:
            status = chance.choice(STATES)
            row |= {"submission_id": str(4193366853543393 + number), "status": status, "is_final": False}
            if chance.random() < 0.9:
                registered_at = sent_at + timedelta(seconds=chance.choice([0, 1, -86400, 7200]))
                is_final = status not in ("SENT", "PENDING", "submitted", None) and (
                    status != "UNKNOWN" or chance.random() < 0.5
                )
                row |= {
                    "is_final": is_final,
                    "registered_at": registered_at,
                    "done_at": registered_at + timedelta(seconds=chance.randrange(1, 9000)) if is_final else None,
                    "cost": chance.choice([None, Decimal(1), Decimal("0.1"), Decimal("0.7"), Decimal("12.345678")]),
                    "operator_name": chance.choice([None, "", "Entel Pcs", "entel pcs", "WOM ñ"]),
                }
        rows.append(row)
    return rows


def truth(
    rows: Iterable[Row],
    by: Sequence[str] = ALL,
    campaign: Any = None,
    since: str = "",
    until: str = "9999",
    separator: str = "-",
) -> list[Row]:
    """Count rows as the page describes it."""
    groups: dict[tuple[str | None, ...], list[Row]] = {}
    everything = []
    for row in rows:
        moment = row["registered_at"] or row["sent_at"]
        day = str(moment.astimezone(UTC).date()) if moment else None
        if (since or until != "9999") and not (day and since <= day <= until):
            continue
        prefix, found, _ = (row.get("reference") or "").partition(separator)
        name = row[campaign] if campaign else prefix if found else None
        keys = {"day": day, "network": row["operator_name"] or None, "campaign": name or None}
        groups.setdefault(tuple(keys[one] for one in by), []).append(row)
        everything.append(row)
    lines = [dict(zip(by, key, strict=True)) | count(group) for key, group in groups.items()]
    lines.sort(key=lambda line: [line[one] or "" for one in by])
    total = dict.fromkeys(by) | ({by[0]: "total"} if by else {}) | count(everything)
    return [*(lines if by else []), total]


def count(rows: Sequence[Row]) -> Row:
    """Count the rows of one line."""
    sent = [row for row in rows if row["submission_id"]]
    unsent = [row.get("outcome") for row in rows if not row["submission_id"]]
    delivered = [row for row in sent if row["status"] == "DELIVERED"]
    failed = {
        one: [row for row in sent if row["status"] == one.upper()] for one in ("rejected", "undelivered", "expired")
    }
    other = [row for row in sent if row["is_final"] and row["status"] not in ("DELIVERED", *map(str.upper, failed))]
    times = sorted((row["done_at"] - row["registered_at"]).total_seconds() for row in delivered if row["done_at"])
    counts = {name: len(found) for name, found in failed.items()} | {"other": len(other)}
    known = {outcome: unsent.count(outcome) for outcome in ("refused", "not_sent", "excluded")}
    return {
        "sent": len(sent),
        "delivered": len(delivered),
        "share": pytest.approx(len(delivered) / len(sent), abs=6e-5) if sent else None,
        "median_seconds": times[math.ceil(0.5 * len(times)) - 1] if times else None,
        "p95_seconds": times[math.ceil(0.95 * len(times)) - 1] if times else None,
        "open": len(sent) - len(delivered) - sum(counts.values()),
        **counts,
        **known,
        "uncertain": len(unsent) - sum(known.values()),
        "cost": cost(sum(((row["cost"] or Decimal(0)) for row in rows), Decimal("0.00"))),
    }


def cost(value: Decimal) -> str:
    """Return a cost with the decimals that it has, and with cents."""
    shown = f"{value:f}"
    while shown.endswith("0") and len(shown.partition(".")[2]) > 2:
        shown = shown[:-1]
    return shown


def example(days: int) -> list[Row]:
    """Return the messages of the page: a reminder on each day, an offer on Thursdays, Claro in trouble on the third."""
    chance = random.Random(7)
    rows = []
    for day in range(days):
        start = datetime(2026, 11, 3, 12, tzinfo=UTC) + timedelta(days=day)
        for number in range(chance.randrange(150, 200) + 250 * (start.weekday() == 3)):
            campaign = "reminder" if number < 150 else "offer"
            network = chance.choice(["Claro", "Entel Pcs", "Movistar"])
            is_late = chance.random() < (0.6 if (day, network) == (2, "Claro") else 0.02)
            status = chance.choices(["EXPIRED" if is_late else "DELIVERED", "UNDELIVERED"], [97, 3])[0]
            done_at = start + timedelta(seconds=round(chance.lognormvariate(6 if is_late else 3, 1)))
            is_final = day < days - 1 or chance.random() < 0.8
            rows.append(
                {"team": None, "message_key": f"{day} {number}", "reference": f"{campaign}-{day}-{number}"}
                | {"submission_id": f"{4193366853540000 + len(rows)}", "outcome": "submitted", "sent_at": start}
                | {"status": status if is_final else "SENT", "is_final": is_final, "registered_at": start}
                | {"done_at": done_at if is_final else None, "cost": Decimal("0.75"), "operator_name": network}
            )
    unsent = {"team": None, "message_key": "x", "reference": "reminder-x", "outcome": "not_sent", "sent_at": start}
    return [*rows, dict.fromkeys(COLUMNS) | unsent]


class Ledger:
    """A file of SQLite behind the Connection ``db``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def do(self, sql: str, rows: Iterable[Sequence[Any]] | None = None) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return (connection.execute(sql) if rows is None else connection.executemany(sql, rows)).fetchall()

    def create(self, rows: Iterable[Row], name: str = "ledger", columns: Sequence[str] = COLUMNS) -> None:
        """Create a table as the package does: times are ISO 8601 texts in UTC."""
        types = {"is_final": "BOOLEAN", "cost": "NUMERIC"}
        quoted = '"' + name.replace('"', '""') + '"'
        self.do(f"CREATE TABLE {quoted} ({', '.join(f'{one} ' + types.get(one, 'TEXT') for one in columns)})")
        marks = ", ".join("?" * len(columns))
        values = [[stored(row[one]) for one in columns] for row in rows]
        self.do(f"INSERT INTO {quoted} VALUES ({marks})", values)  # noqa: S608


def stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    pytest.importorskip("airflow.providers.sqlite.hooks.sqlite", reason="no SQLite provider")
    monkeypatch.setenv("AIRFLOW_CONN_DB", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "db")}))
    return Ledger(tmp_path / "db")


@pytest.mark.parametrize("seed", range(5))
def test_lines_are_what_the_rows_say(ledger: Ledger, seed: int) -> None:
    rows = make_rows(seed)
    ledger.create(rows)
    for by in (ALL, ("day",), ("campaign", "network"), ("network",), ()):
        assert read_report("db", "ledger", by=",".join(by)) == truth(rows, by)
    assert read_report("db", "ledger", campaign_column="team") == truth(rows, campaign="team")
    days = {"since": "2026-10-31", "until": "2026-11-01"}
    assert read_report("db", "ledger", **days) == truth(rows, **days)  # type: ignore[arg-type]
    since = datetime(2026, 11, 1, tzinfo=UTC).date()
    assert read_report("db", "ledger", since=since) == truth(rows, since="2026-11-01")
    details = [row for row in rows if row["submission_id"]]  # a table of details alone has no campaign
    ledger.create(
        details, "details", [one for one in COLUMNS if one not in ("message_key", "reference", "outcome", "team")]
    )
    assert read_report("db", "details") == truth([row | {"reference": None} for row in details])


@pytest.mark.parametrize("count", [*range(4), 19, 20, 21, 100])
def test_percentiles_are_the_nearest_rank(ledger: Ledger, count: int) -> None:
    rows = [row for seed in range(9) for row in make_rows(seed) if row["status"] == "DELIVERED" and row["done_at"]]
    ledger.create(rows[:count])
    assert read_report("db", "ledger", by=()) == truth(rows[:count], [])


def test_costs_add_up_exactly(ledger: Ledger) -> None:
    one = next(row for row in make_rows(1) if row["registered_at"])
    ledger.create([one | {"cost": Decimal("0.1")}] * 10_000 + [one | {"cost": Decimal("0.000001")}])
    assert read_report("db", "ledger", by=())[0]["cost"] == "1000.000001"


@pytest.mark.parametrize("name", ["messages", "ranked", 'a"b', "100%s", "select", "Ledger ; x", "a'b"])
def test_names_are_quoted(ledger: Ledger, name: str) -> None:
    ledger.create(make_rows(1, 3), name)
    quoted = '"' + name.replace('"', '""') + '"'
    assert read_report("db", quoted) == truth(make_rows(1, 3))
    ledger.do(view_sql("sqlite", quoted))
    assert ledger.do(f'SELECT sum(sent) FROM "{(name + "_report").replace(chr(34), chr(34) * 2)}"')  # noqa: S608


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": "nowhere"}, "no such table: nowhere.*Name a table or a view"),
        ({"table": "a.b.c"}, "use table or schema.table"),
        ({"sql_conn_id": "nothing"}, "There is no Connection 'nothing'"),
        ({"sql_conn_id": None}, "sql_conn_id is missing"),
        *(({"by": by}, "use some of day, network, campaign, each once") for by in ("day,week", ["day", "day"])),
        ({"since": "yesterday"}, "since is a str of 9 characters that is no day"),
        ({"until": datetime(2026, 11, 1, tzinfo=UTC)}, "until is a value of type datetime that is no day"),
        *(({name: ""}, f"{name} is a str of 0 characters") for name in ("campaign_separator", "campaign_column")),
        ({"campaign_column": "taem"}, "The table ledger has no column taem. It has: message_key, .*, team"),
        ({"table": "people"}, "The table people has no column submission_id, .*operator_name. It has: phone"),
    ],
)
def test_what_is_wrong_is_named(ledger: Ledger, arguments: Mapping[str, Any], message: str) -> None:
    ledger.create(make_rows(1, 3))
    ledger.create([{"phone": "+56912345678"}], "people", ["phone"])
    with pytest.raises(RtiSmsError, match=message) as caught:
        read_report(**{"sql_conn_id": "db", "table": "ledger", **arguments})
    assert "12345678" not in str(caught.value)


def run(*options: str) -> None:
    """Run the command with the words that follow ``airflow rtisms report``."""
    (command,) = [one for one in get_cli_commands()[0].subcommands if one.name == "report"]
    parser = argparse.ArgumentParser()
    for argument in command.args:
        argument.add_to_parser(parser)
    command.func(parser.parse_args(options))  # type: ignore[operator]


Capture = pytest.CaptureFixture[str]


def test_outputs(ledger: Ledger, capsys: Capture) -> None:
    ledger.create(make_rows(1))
    options = ("--conn-id", "db", "--table", "ledger", "--since", "2026-10-31", "--by", "day,campaign")
    expected = truth(make_rows(1), ["day", "campaign"], since="2026-10-31")
    run(*options, "--output", "json")
    assert json.loads(capsys.readouterr().out) == expected
    assert main([*options, "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    run(*options, "--output", "csv")
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["cost"] for line in lines] == [line["cost"] for line in expected]
    assert [line["campaign"] for line in lines] == [line["campaign"] or "" for line in expected]
    run(*options)
    head, *_, total = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["day", "campaign", "sent", "delivered", "share"]
    assert total.split()[0] == "total"
    assert total.split()[-1] == expected[-1]["cost"]


def test_the_page_shows_what_runs_print(ledger: Ledger, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", os.environ["AIRFLOW_CONN_DB"])
    ledger.create(example(4), "messages")
    for command in blocks("report", document="report.md"):
        run(*shlex.split(command.code.replace("\\\n", ""))[3:])
        output = next(one for one in BLOCKS[BLOCKS.index(command) :] if one.language in ("text", "sql"))
        assert capsys.readouterr().out == output.code


def test_the_script_of_the_page(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", os.environ["AIRFLOW_CONN_DB"])
    monkeypatch.chdir(tmp_path)
    ledger.create(example(4), "messages")
    (script,) = blocks("report-script")
    exec(script.code, {})  # noqa: S102
    assert (tmp_path / "report.png").exists()


def test_a_terminal_gets_text(ledger: Ledger, capsys: Capture) -> None:
    row = next(row for row in make_rows(1) if row["operator_name"])
    ledger.create([row | {"operator_name": "\x1b[2J", "reference": "\u202e-1", "status": "DELIVERED"}])
    for form in ("table", "csv", "json"):
        run("--conn-id", "db", "--table", "ledger", "--output", form)
        shown = capsys.readouterr().out
        assert not [one for one in shown if not one.isprintable() and one != "\n"]
        assert "1b[2J" in shown
        head = shown.splitlines()[0]
        # In the table, a state that no message is in has no column.
        assert form != "table" or ("open" in head and not {"rejected", "uncertain"} & {*head.split()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--conn-id db --table no\x1b[2Jwhere", "nowhere|names no table"),
        ("--conn-id nothing --table ledger", "nothing"),
        ("--table ledger", "--conn-id is missing"),
        ("--conn-id db --table ledger --until May", "until is a str of 3 characters"),
        ("--conn-id db --table ledger --plot picture.txt", "The plot cannot be written"),
        ("--conn-id db --table ledger --plot no/folder.png", "The plot cannot be written"),
    ],
)
def test_an_error_is_one_line(ledger: Ledger, options: str, message: str, capsys: Capture) -> None:
    if "--plot" in options:
        pytest.importorskip("matplotlib")
    ledger.create(make_rows(1))
    with pytest.raises(SystemExit, match=message) as ended:
        run(*options.split())
    assert str(ended.value).isprintable()
    assert main(options.split()) == 1
    assert capsys.readouterr().err == f"{ended.value}\n"


class TestPlot:
    def test_it_shows_the_numbers_of_the_lines(self, ledger: Ledger, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        ledger.create(make_rows(3))
        lines = read_report("db", "ledger", by="day")
        days = [line for line in lines[:-1] if line["day"]]
        figure = plot_report(lines, str(tmp_path / "report.png"))
        assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
        above, below = figure.axes
        stacked = [[bar.get_height() for bar in bars] for bars in above.containers]
        failed = ("rejected", "undelivered", "expired", "other")
        expected = [[day["delivered"], day["open"], sum(day[one] for one in failed)] for day in days]
        assert [list(one) for one in zip(*stacked, strict=True)] == expected
        assert [sum(one) for one in expected] == [day["sent"] for day in days]
        assert [list(line.get_ydata()) for line in below.lines] == [
            pytest.approx([math.nan if day[key] is None else day[key] for day in days], nan_ok=True)
            for key in ("p95_seconds", "median_seconds")
        ]

    def test_the_command_draws_days_whatever_its_lines_are(
        self, ledger: Ledger, tmp_path: Path, capsys: Capture
    ) -> None:
        pytest.importorskip("matplotlib")
        ledger.create(make_rows(3))
        run("--conn-id", "db", "--table", "ledger", "--plot", str(tmp_path / "a.svg"))
        assert "</svg>" in (tmp_path / "a.svg").read_text()
        assert "network" in capsys.readouterr().out

    def test_other_lines_are_refused(self, ledger: Ledger) -> None:
        pytest.importorskip("matplotlib")
        ledger.create(make_rows(3))
        for by in ("day,network", "network", ""):
            with pytest.raises(RtiSmsInputError, match='by="day"'):
                plot_report(read_report("db", "ledger", by=by))
        with pytest.raises(RtiSmsInputError, match="nothing to plot"):
            plot_report(read_report("db", "ledger", by="day", since="2030-01-01"))

    def test_without_matplotlib(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(RtiSmsConfigError, match=r"pip install 'airflow-provider-rtisms\[plot\]'"):
            plot_report([])
        with pytest.raises(SystemExit, match=r"airflow-provider-rtisms\[plot\]"):  # before the table is read
            run("--conn-id", "db", "--table", "nowhere", "--plot", "report.png")


class TestView:
    def test_the_page_has_what_the_command_prints(self, capsys: Capture) -> None:
        shown = [block.code for block in blocks("view", document="report-views.md")]
        for dialect, code in zip(("postgresql", "sqlite", "mysql"), shown, strict=True):
            assert main(["--view", dialect, "--table", "messages"]) == 0
            assert capsys.readouterr().out == code

    def test_another_dialect_is_refused(self) -> None:
        with pytest.raises(RtiSmsInputError, match="use postgresql, sqlite, mysql"):
            view_sql("oracle", "messages")
