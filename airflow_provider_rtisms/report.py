"""
What became of the messages of a table, by day, network and campaign. See docs/report.md.

One SQL statement counts, in each of the databases. ``airflow rtisms report`` prints its result (Airflow 3.2 and later),
and so does ``python -m airflow_provider_rtisms.report``. ``--view`` prints the statement, as a view for a dashboard.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import literal_column
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql import quoted_name
from sqlalchemy.types import NullType

from airflow_provider_rtisms.api.errors import RtiSmsConfigError, RtiSmsError, RtiSmsInputError, shape
from airflow_provider_rtisms.api.models import FINAL_STATUSES, SendOutcome, printable
from airflow_provider_rtisms.preview import run_command

if TYPE_CHECKING:
    from argparse import Namespace

    from matplotlib.figure import Figure

#: What the lines of a report can be about.
KEYS = ("day", "network", "campaign")
#: States of a submission that failed; ``other`` is any final state but these, such as UNKNOWN.
FAILED = ("rejected", "undelivered", "expired", "other")
#: States of a message without a submission.
UNSENT = tuple(map(str, (SendOutcome.REFUSED, SendOutcome.NOT_SENT, SendOutcome.EXCLUDED, SendOutcome.UNCERTAIN)))
#: Columns that a table must have, and those that a table of details lacks.
_COLUMNS = ("submission_id", "status", "is_final", "registered_at", "sent_at", "done_at", "cost", "operator_name")
_COLUMNS_OF_SENDS = ("reference", "outcome")
#: Seconds that the axis of a plot names.
_TICKS = {1: "1 s", 5: "5 s", 10: "10 s", 30: "30 s", 60: "1 min", 300: "5 min", 600: "10 min", 1800: "30 min"} | {
    hours * 3600: name for hours, name in ((1, "1 h"), (6, "6 h"), (24, "1 day"), (168, "1 week"))
}

#: The options of the command line.
OPTIONS: dict[str, dict[str, Any]] = {
    "--conn-id": {"help": "the Connection of the database"},
    "--table": {"required": True, "help": "table or schema.table, of sends or of details"},
    "--since": {"metavar": "DATE", "help": "the first day, in UTC, such as 2026-11-01"},
    "--until": {"metavar": "DATE", "help": "the last day"},
    "--by": {"metavar": "KEYS", "default": ",".join(KEYS), "help": "some of day,network,campaign (default: all)"},
    "--campaign-separator": {
        "metavar": "TEXT",
        "default": "-",
        "help": "ends the campaign in a reference (default: -)",
    },
    "--campaign-column": {"metavar": "COLUMN", "help": "the column that names the campaign instead"},
    "--output": {"choices": ("table", "json", "csv"), "default": "table", "help": "the form (default: table)"},
    "--plot": {"metavar": "FILE", "help": "draw the days, too: a .png, .svg or .pdf file"},
    "--view": {
        "choices": ("postgresql", "sqlite", "mysql"),
        "help": "print a view for a dashboard, and do not read the table",
    },
}


class _Dialect(NamedTuple):
    """
    What each database says in its own way, as functions of expressions.

    ``prefix`` is a text up to a separator, ``exact`` a text with the difference of upper and lower case, and ``total``
    a sum without errors of rounding.
    """

    compiler: Any
    day: Callable[[Any], Any]
    seconds: Callable[[Any, Any], Any]
    prefix: Callable[[Any, str], Any]
    exact: Callable[[Any], Any]
    total: Callable[[Any], Any]


_DIALECTS = {
    "postgresql": _Dialect(
        postgresql.dialect,
        lambda time: sa.cast(sa.cast(time, sa.DateTime(True)).op("AT TIME ZONE")(literal_column("'UTC'")), sa.Date),
        lambda start, end: sa.cast(sa.extract("epoch", end - start), sa.BigInteger),
        lambda value, separator: sa.func.split_part(value, separator, 1),
        lambda value: value,
        lambda cost: sa.func.sum(sa.cast(cost, sa.Numeric)),
    ),
    "sqlite": _Dialect(
        sqlite.dialect,
        lambda time: sa.func.date(time, type_=sa.Date),
        lambda start, end: (
            sa.cast(sa.func.strftime("%s", end), sa.Integer) - sa.cast(sa.func.strftime("%s", start), sa.Integer)
        ),
        lambda value, separator: sa.func.substr(value, 1, sa.func.instr(value, separator) - 1),
        lambda value: value,
        lambda cost: sa.func.sum(sa.cast(sa.func.round(cost * literal_column("1000000")), sa.Integer)).op("/")(
            literal_column("1000000.0")
        ),
    ),
    "mysql": _Dialect(
        mysql.dialect,
        lambda time: sa.func.date(time, type_=sa.Date),
        lambda start, end: sa.func.timestampdiff(literal_column("SECOND"), start, end),
        lambda value, separator: sa.func.substring_index(value, separator, 1),
        lambda value: sa.collate(sa.cast(value, mysql.CHAR(charset="utf8mb4")), "utf8mb4_bin"),
        lambda cost: sa.func.sum(sa.cast(cost, sa.Numeric(38, 12))),
    ),
}


class _Source(NamedTuple):
    """Which messages a report reads, and where it finds their campaign."""

    schema: str | None
    name: str
    separator: str
    campaign_column: str | None
    since: date | None = None
    until: date | None = None

    def table(self, suffix: str = "") -> Any:
        where = {"schema": quoted_name(self.schema, quote=True)} if self.schema else {}
        return sa.table(quoted_name(self.name + suffix, quote=True), **where)


def _source(table: Any, separator: Any, campaign_column: Any, since: Any = None, until: Any = None) -> _Source:
    from airflow_provider_rtisms.sql.table import parse_table_name  # loads tenacity: not for each `airflow`

    if not isinstance(separator, str) or not separator:
        raise RtiSmsInputError(f'campaign_separator is {shape(separator)}: use a text such as "-".')
    if campaign_column is not None and (not isinstance(campaign_column, str) or not campaign_column):
        raise RtiSmsInputError(f"campaign_column is {shape(campaign_column)}: use the name of a column.")
    days = []
    for name, day in (("since", since), ("until", until)):
        try:
            is_day = isinstance(day, date) and not isinstance(day, datetime)
            days.append(day if day is None or is_day else date.fromisoformat(day))
        except (TypeError, ValueError):
            raise RtiSmsInputError(f"{name} is {shape(day)} that is no day: use one such as 2026-11-30.") from None
    return _Source(*parse_table_name(table), separator, campaign_column, *days)


def _messages(own: _Dialect, source: _Source, known: Iterable[str]) -> Any:
    """Return each message with its day, network, campaign, state, seconds from acceptance to the end, and cost."""
    of = {one: sa.column(one) if one in known else sa.null() for one in (*_COLUMNS, *_COLUMNS_OF_SENDS)}
    day = own.day(sa.func.coalesce(of["registered_at"], of["sent_at"]))
    campaign: Any
    if source.campaign_column:
        campaign = sa.cast(sa.column(quoted_name(source.campaign_column, quote=True)), sa.Text)
    else:  # a reference without the separator has no campaign
        campaign = sa.func.nullif(own.prefix(of["reference"], source.separator), of["reference"])
    unsent = sa.case({one: one for one in UNSENT[:-1]}, value=of["outcome"], else_=UNSENT[-1])
    final = {status: status.lower() for status in sorted(map(str, FINAL_STATUSES))}
    other = sa.case((of["is_final"].is_(literal_column("true")), "other"), else_="open")
    state = sa.case(final, value=own.exact(of["status"]), else_=other)
    columns = {
        "day": day,
        "network": sa.func.nullif(own.exact(of["operator_name"]), ""),
        "campaign": sa.func.nullif(own.exact(campaign), ""),
        "state": sa.case((of["submission_id"].is_(None), unsent), else_=state),
        "seconds": own.seconds(of["registered_at"], of["done_at"]),
        "cost": of["cost"],
    }
    bounds = ([day >= source.since] if source.since else []) + ([day <= source.until] if source.until else [])
    return sa.select(*(value.label(name) for name, value in columns.items())).select_from(source.table()).where(*bounds)


def _summary(own: _Dialect, messages: Any, by: Sequence[str], shown: Sequence[str]) -> Any:
    """Return the lines by some keys. A key that is shown, and that they are not by, is null."""
    group = [*(messages.c[one] for one in (*by, "state")), messages.c.seconds.is_(None)]
    place = sa.func.row_number().over(partition_by=group, order_by=messages.c.seconds)
    places = sa.func.count().over(partition_by=group)
    ranked = sa.select(*messages.c, place.label("place"), places.label("places")).subquery("ranked")
    is_delivered = ranked.c.state == "delivered"

    def count(condition: Any) -> Any:
        return sa.func.count(sa.case((condition, 1)))

    def percentile(percent: int) -> Any:
        """The nearest rank: the least time within which so many percent of the messages were delivered."""
        is_reached = ranked.c.place * 100 >= ranked.c.places * percent
        return sa.func.min(sa.case((sa.and_(is_delivered, is_reached), ranked.c.seconds)))

    sent, delivered = count(ranked.c.state.not_in(UNSENT)), count(is_delivered)
    share = (delivered * literal_column("1.0000")).op("/")(sa.func.nullif(sent, 0))  # no integer division
    columns = {
        **{one: ranked.c[one] if one in by else sa.null() for one in shown},
        "sent": sent,
        "delivered": delivered,
        "share": sa.type_coerce(sa.func.round(share, 4), NullType),
        "median_seconds": percentile(50),
        "p95_seconds": percentile(95),
        **{state: count(ranked.c.state == state) for state in ("open", *FAILED, *UNSENT)},
        "cost": sa.type_coerce(sa.func.coalesce(own.total(ranked.c.cost), 0), NullType),
    }
    return sa.select(*(value.label(one) for one, value in columns.items())).group_by(*(ranked.c[one] for one in by))


def read_report(
    sql_conn_id: str,
    table: str,
    *,
    since: date | str | None = None,
    until: date | str | None = None,
    by: Sequence[str] | str = KEYS,
    campaign_separator: str = "-",
    campaign_column: str | None = None,
) -> list[dict[str, Any]]:
    """
    Return what became of the messages of a table; docs/report.md describes the lines.

    :param sql_conn_id: the Connection of the database: PostgreSQL, SQLite, MySQL or MariaDB.
    :param table: ``table`` or ``schema.table``, of sends with their details, or of details alone.
    :param since: the first day, in UTC: a date, or a str such as ``2026-11-01``; None for no bound.
    :param until: the last day.
    :param by: what the lines are about: some of ``day``, ``network`` and ``campaign``; none for the totals alone.
    :param campaign_separator: what ends the campaign in a reference. A reference without it has no campaign.
    :param campaign_column: the column that names the campaign instead.
    :return: the lines, sorted, and last the totals, with ``total`` as the first key. A share is a float from 0 to 1, a
        time whole seconds, a cost an exact decimal as a str. What is not known is None.
    :raises RtiSmsInputError: an argument is unfit, or the table lacks a column.
    :raises RtiSmsConfigError: the Connection is missing, or its database is another one.
    :raises RtiSmsStorageError: a person has to change the table, its rights or the Connection first.
    :raises RtiSmsStorageUnavailableError: the same may succeed later.
    """
    keys = [one.strip() for one in by.split(",") if one.strip()] if isinstance(by, str) else list(by)
    if not {*keys} <= {*KEYS} or len({*keys}) < len(keys):
        raise RtiSmsInputError(f"by is {shape(by)}: use some of {', '.join(KEYS)}, each once.")
    source = _source(table, campaign_separator, campaign_column, since, until)

    def statement(own: _Dialect, known: Iterable[str]) -> Any:
        messages = _messages(own, source, known).subquery("messages")
        total = _summary(own, messages, (), keys).add_columns(literal_column("1").label("is_total"))
        if not keys:
            return total
        lines = _summary(own, messages, keys, keys).add_columns(literal_column("0").label("is_total"))
        return sa.union_all(lines, total)

    rows = _read(sql_conn_id, source, statement)
    rows.sort(key=lambda row: (row["is_total"], *(str(row[one] or "") for one in keys)))
    return [_line(row, keys) for row in rows]


def _line(row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return a line with the same types from each database."""
    first = {keys[0]: "total"} if row.pop("is_total") and keys else {}
    whole, _, fraction = f"{Decimal(str(row['cost'])):f}".partition(".")
    return {
        **{
            name: None if value is None else str(value) if name in keys else float(value) for name, value in row.items()
        },
        **{
            name: int(value)
            for name, value in row.items()
            if value is not None and name not in (*keys, "share", "cost")
        },
        **first,
        "cost": f"{whole}.{fraction.rstrip('0').ljust(2, '0')}",
    }


def _read(sql_conn_id: str, source: _Source, statement: Callable[[_Dialect, Iterable[str]], Any]) -> list[Any]:
    """Run the statement that a function makes of the dialect and the columns of the table, and return its rows."""
    from airflow_provider_rtisms.sql.databases import LockWaits, explain, get_hook, is_of_database, library_of
    from airflow_provider_rtisms.sql.table import MySql, PostgreSql, Sqlite, layout_of_details, new_engine

    hook, table = get_hook("sql_conn_id", sql_conn_id), source.table()
    try:
        opened = hook.get_conn()
        driver = library_of(opened)
        kind = next((one for one in (PostgreSql, Sqlite, MySql) if driver in one.dialects), None)
        if kind is None:
            raise RtiSmsConfigError(f"The driver {driver} is not one of PostgreSQL, SQLite, MySQL or MariaDB.")
        database = kind(layout_of_details(_COLUMNS))
        database.prepare(opened)
        engine = new_engine(kind.dialects[driver], lambda: opened)
        with engine.connect() as connection:
            waits = LockWaits(opened)
            if kind is PostgreSql:
                database.begin(connection, waits)  # a time without a zone is in UTC
            nothing: Any = sa.select(literal_column("*")).select_from(table).where(sa.false())
            names = list(waits.run(lambda: connection.execute(nothing)).keys())
            known = {*names} if kind is PostgreSql else {*names, *map(str.lower, names)}  # the others ignore case
            if missing := [one for one in (*_COLUMNS, source.campaign_column) if one and one not in known]:
                raise RtiSmsInputError(
                    f"The table {table.fullname} has no column {', '.join(missing)}. It has: {', '.join(names)}."
                )
            query = statement(_DIALECTS[engine.dialect.name], known)
            return [dict(row) for row in waits.run(lambda: connection.execute(query)).mappings()]
    except Exception as error:
        if isinstance(error, RtiSmsError) or not is_of_database(error):
            raise
        words = " ".join(filter(None, (source.schema, source.name, source.campaign_column, *_COLUMNS)))
        failure = explain(
            f"Reading the table {table.fullname}",
            error,
            words,
            {
                "statement": "Name a table or a view that the Connection sees, as it is written there.",
                "rights": "Grant the user of the Connection SELECT on the table, and USAGE on its schema.",
            },
        )
    raise failure  # outside of the block, since a traceback would show the driver's message


def view_sql(dialect: str, table: str, *, campaign_separator: str = "-", campaign_column: str | None = None) -> str:
    """
    Return the statement that makes a view of the lines by day, network and campaign, for a dashboard.

    :param dialect: ``postgresql``, ``sqlite`` or ``mysql`` (also for MariaDB).
    :param table: ``table`` or ``schema.table``; the name of the view is the same with ``_report``.
    :param campaign_separator: as for :func:`read_report`.
    :param campaign_column: as for :func:`read_report`; it is not checked.
    :raises RtiSmsInputError: an argument is unfit.
    """
    if dialect not in _DIALECTS:
        raise RtiSmsInputError(f"dialect is {shape(dialect)}: use {', '.join(_DIALECTS)}.")
    own, source = _DIALECTS[dialect], _source(table, campaign_separator, campaign_column)
    query = _summary(own, _messages(own, source, (*_COLUMNS, *_COLUMNS_OF_SENDS)).subquery("messages"), KEYS, KEYS)
    compiler = own.compiler(paramstyle="named")  # the usual ones write %% for %
    sql = str(query.compile(dialect=compiler, compile_kwargs={"literal_binds": True}))
    sql = re.sub(r" AS (\w+), ", r" AS \1,\n    ", re.sub(r" +$", "", sql, flags=re.MULTILINE))
    return f"CREATE VIEW {compiler.identifier_preparer.format_table(source.table('_report'))} AS\n{sql};"


def plot_report(lines: Sequence[Mapping[str, Any]], path: str | None = None) -> Figure:
    """
    Draw delivery and time to delivery over the days.

    :param lines: of ``read_report(..., by="day")``. Messages without a day are left out.
    :param path: of the file to write, which ends in ``.png``, ``.svg`` or ``.pdf``; None for none.
    :return: the figure, for a notebook.
    :raises RtiSmsConfigError: matplotlib is not installed.
    :raises RtiSmsInputError: the lines are others, none has a day, or the file cannot be written.
    """
    figures, axes_of_dates = _matplotlib("figure"), _matplotlib("dates")
    days = [line for line in lines[:-1] if line.get("day")]
    if not days or {"network", "campaign"} & days[0].keys():
        raise RtiSmsInputError('There is nothing to plot: a plot takes the lines of read_report(..., by="day").')
    figure: Figure = figures.Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    dates = [date.fromisoformat(day["day"]) for day in days]
    counts = {name: [day[name] for day in days] for name in ("delivered", "open")}
    counts["failed"] = [sum(day[state] for state in FAILED) for day in days]
    is_long, base = len(days) > 60, [0] * len(days)
    for (name, values), color in zip(counts.items(), ("#4477aa", "#ccbb44", "#cc3311"), strict=True):
        style = {"width": 1 if is_long else 0.85, "color": color, "snap": not is_long}
        above.bar(dates, values, bottom=base, label=f"{name}: {sum(values):,}", **style)
        base = [one + more for one, more in zip(base, values, strict=True)]
    for key, color, label in (
        ("p95_seconds", "#cc3311", "95 % within"),
        ("median_seconds", "#4477aa", "half within (median)"),
    ):
        times = [float("nan") if day[key] is None else max(day[key], 1) for day in days]
        below.plot(dates, times, "-" if is_long else "o-", color=color, label=label)
    above.set(title="Messages sent on each day (UTC), by what became of them", ylabel="messages")
    below.set(title="Time to delivery of the messages of each day", yscale="log")
    known = [day[key] for day in days for key in ("median_seconds", "p95_seconds") if day[key] is not None]
    below.set_ylim(max(min(known, default=1), 1) / 3, max(known, default=1) * 3 + 3)
    shown = {seconds: name for seconds, name in _TICKS.items() if below.get_ylim()[0] < seconds < below.get_ylim()[1]}
    below.set_yticks([*shown], shown.values())
    below.minorticks_off()
    edge = timedelta(max(1, 4 - (dates[-1] - dates[0]).days // 2))
    below.set_xlim(dates[0] - edge, dates[-1] + edge)
    below.xaxis.set_major_locator(locator := axes_of_dates.AutoDateLocator(minticks=3, maxticks=9))
    below.xaxis.set_major_formatter(axes_of_dates.ConciseDateFormatter(locator))
    for panel in (above, below):
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
        panel.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    try:
        if path is not None:
            figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RtiSmsInputError(f"The plot cannot be written: {error}.") from None
    return figure


def _matplotlib(module: str) -> Any:
    try:
        return import_module(f"matplotlib.{module}")
    except ImportError:
        raise RtiSmsConfigError("Plots take matplotlib: pip install 'airflow-provider-rtisms[plot]'.") from None


def show(options: Namespace) -> str:
    """
    Return what the command line prints, and write the plot.

    :param options: of the command line, see :data:`OPTIONS`.
    :raises RtiSmsError: as :func:`read_report`, :func:`view_sql` and :func:`plot_report`.
    """
    campaign = {name: getattr(options, name) for name in ("campaign_separator", "campaign_column")}
    if options.view:
        return view_sql(options.view, options.table, **campaign)
    if not options.conn_id:
        raise RtiSmsInputError("--conn-id is missing: name the Connection of the database.")
    if options.plot:
        _matplotlib("figure")
    from airflow_provider_rtisms.hooks.connection import export_connection

    export_connection(options.conn_id)
    days = {"since": options.since, "until": options.until}
    lines = read_report(options.conn_id, options.table, by=options.by, **days, **campaign)
    if options.plot:
        plot_report(read_report(options.conn_id, options.table, by="day", **days), options.plot)
    if options.output == "json":
        return json.dumps(lines, indent=2)
    cells = [[*lines[0]], *([_cell(one) for one in line.values()] for line in lines)]
    if options.output == "csv":
        csv.writer(target := io.StringIO(), lineterminator="\n").writerows(cells)
        return target.getvalue().removesuffix("\n")
    columns = [
        [one.ljust(width) if column[0] in KEYS else one.rjust(width) for one in column]
        for column in zip(*cells, strict=True)
        if column[0] not in (*FAILED, *UNSENT) or lines[-1][column[0]]  # a state that no message is in
        for width in [max(map(len, column))]
    ]
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else printable("" if value is None else str(value))


def main(arguments: list[str] | None = None) -> int:
    """
    Run the command line.

    :param arguments: default those of the process.
    :return: the exit status.
    """
    from airflow_provider_rtisms.compat import AirflowException

    what = "Show what became of the messages of a table"
    logging.disable(logging.CRITICAL)  # Airflow 2 logs to where the report goes
    try:
        return run_command("report", what, OPTIONS, show, arguments, (RtiSmsError, AirflowException))
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    sys.exit(main())
