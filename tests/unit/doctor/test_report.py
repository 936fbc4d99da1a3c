"""How a report looks."""

from __future__ import annotations

from airflow_provider_rtisms.doctor import CheckResult, Outcome, Report

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
