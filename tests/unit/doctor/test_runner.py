"""How checks run, one after the other, and how a report looks."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from airflow_provider_rtisms.doctor import runner
from airflow_provider_rtisms.doctor.checks.check import Check
from airflow_provider_rtisms.doctor.context import Context, Finding, ProblemError, differs, failed, ok, skipped
from airflow_provider_rtisms.doctor.report import CheckResult, Outcome, Report
from tests.patience import PATIENCE
from tests.unit.doctor.test_checks import context


def check(name: str, run: Callable[[Context], Finding], *needs: str, limit: float = 10.0) -> Check:
    """Return a check that may take some seconds."""
    return Check(name, "what is documented", "Section", run, needs, steps=0, extra_seconds=lambda _: limit)


def outcomes(*checks: Check) -> list[str]:
    """Run checks, and return what they found."""
    ctx = context()
    results = [runner._result(ctx, one, runner._run(ctx, one)) for one in checks]
    return [f"{one.name} {one.outcome}: {one.got}" for one in results]


def test_a_check_that_takes_too_long_is_given_up() -> None:
    never = threading.Event()

    def hang(_: Context) -> Finding:
        never.wait(PATIENCE)
        return ok("at last")

    assert outcomes(check("slow", hang, limit=0.25)) == ["slow failed: gave up after 0.25 s"]
    never.set()


def test_what_a_failed_check_leads_to_names_it() -> None:
    def refuse(_: Context) -> Finding:
        raise ProblemError("HTTP 500", "HTTP 500: an error", "Wait.")

    assert outcomes(
        check("first", lambda _: failed("it is broken", "Mend it.")),
        check("second", lambda _: ok("fine"), "first"),
        check("third", lambda _: ok("fine"), "second"),
        check("fourth", lambda _: ok("fine"), "fifth"),
        check("fifth", refuse),
        check("sixth", refuse),
        check("seventh", lambda _: ok("fine"), "sixth"),
        check("eighth", lambda _: differs("odd"), "fourth"),
    ) == [
        "first failed: it is broken",
        "second skipped: not checked, because first failed",
        "third skipped: not checked, because first failed",
        "fourth ok: fine",
        "fifth failed: HTTP 500: an error",
        "sixth skipped: not checked: HTTP 500: an error, as in fifth",
        "seventh skipped: not checked, because fifth failed",
        "eighth differs: odd",
    ]


def test_a_defect_of_a_check_shows_no_message() -> None:
    def divide(_: Context) -> Finding:
        raise ZeroDivisionError("s3cret")

    assert outcomes(check("defect", divide)) == ["defect failed: the check itself has a defect: ZeroDivisionError"]


@pytest.mark.parametrize(("steps", "limit"), [(1, 3.0), (3, 5.0)])
def test_a_check_gets_the_timeout_for_each_step_and_some_seconds_more(steps: int, limit: float) -> None:
    assert Check("name", "", "", lambda _: skipped("x"), steps=steps).limit(context()) == limit


RESULTS = [
    CheckResult("settings", Outcome.OK, "a base URL", "base URL http://127.0.0.1:1", ""),
    CheckResult("balance", Outcome.FAILED, "a string", "word " * 30, "Open an issue."),
    CheckResult("submission", Outcome.SKIPPED, "fields", "not asked for", ""),
]


def test_a_report_is_printable() -> None:
    odd = "a\x1b[2J\u202e\x9bb"
    report = Report([CheckResult("name", Outcome.FAILED, odd, odd, odd)])
    assert all(line.isprintable() for line in [*report.to_text().splitlines(), *report.to_json().splitlines()])
    assert r"a\x1b[2J\u202e\x9bb" in report.to_text()


def test_a_report_for_a_person() -> None:
    assert Report(RESULTS).to_text().splitlines() == [
        "ok       settings         base URL http://127.0.0.1:1",
        "                          expected: a base URL",
        "failed   balance          " + " ".join(["word"] * 18),
        "                          " + " ".join(["word"] * 12),
        "                          expected: a string",
        "                          to do:    Open an issue.",
        "skipped  submission       not asked for",
        "",
        "1 ok, 0 differs, 1 failed, 1 skipped. Begin with balance: other checks may depend on it.",
    ]
    assert Report(RESULTS[::2]).summary() == "1 ok, 0 differs, 0 failed, 1 skipped. Nothing failed."
    assert [Report(RESULTS).exit_status, Report(RESULTS[::2]).exit_status] == [1, 0]
