"""Run the doctor with all checks, and look for leaks."""

from __future__ import annotations

from typing import Any

from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.secret import encodings
from airflow_provider_rtisms.doctor import CheckResult, Report, diagnose
from airflow_provider_rtisms.doctor.checks import CHECKS, TEXT
from tests.patience import PATIENCE, with_more_time
from tests.unit.doctor.vendor import BALANCE, CLIENT_ID, NUMBER, SECRET, SUBMISSION_ID, TOKEN

ALL: dict[str, Any] = {
    **{"submission_id": SUBMISSION_ID, "probe_credentials": True, "send_to": NUMBER, "sender": "96000"},
    "conn_id": "my_sms",
}
NAMES = [check.name for check in CHECKS]


def examine(base_url: str, options: dict[str, Any] | None = None, timeout: float = PATIENCE, **settings: Any) -> Report:
    """Run the doctor with all checks, and look for leaks in each form of the report."""
    values = {"client_id": CLIENT_ID, "client_secret": SECRET, "base_url": base_url, **settings}
    report = diagnose(ApiSettings(**values), timeout=timeout, **(ALL if options is None else options))
    assert [check.name for check in report.checks] == NAMES
    text = report.to_text() + report.to_text(verbose=True) + report.to_json()
    leaks = [SECRET, TOKEN, BALANCE, NUMBER, NUMBER[1:], TEXT, "proxy-pass", CLIENT_ID]
    assert [leak for leak in leaks if any(one in text for one in encodings(leak))] == []
    return report


def examine_slow(base_url: str, finds: dict[str, str]) -> Report:
    """Run the doctor with a timeout that something exceeds, and look for what it has to find."""
    return with_more_time(
        lambda timeout: examine(base_url, timeout=2 * timeout), was_enough=lambda report: not_ok(report) == finds
    )


def not_ok(report: Report) -> dict[str, str]:
    """Return the checks that found something."""
    return {check.name: str(check.outcome) for check in report.checks if check.outcome in ("differs", "failed")}


def result(report: Report, name: str) -> CheckResult:
    return next(check for check in report.checks if check.name == name)


def got(report: Report, name: str) -> str:
    return result(report, name).got


def remedy(report: Report, name: str) -> str:
    return result(report, name).remedy


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
