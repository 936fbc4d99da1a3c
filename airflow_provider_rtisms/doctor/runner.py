"""Run the checks one after the other, each within its time, and collect the results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from airflow_provider_rtisms.api import ApiSettings
from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsInputError
from airflow_provider_rtisms.api.values.ids import check_submission_id
from airflow_provider_rtisms.api.values.recipients import parse_recipients
from airflow_provider_rtisms.api.values.redaction import redact
from airflow_provider_rtisms.doctor import account, network
from airflow_provider_rtisms.doctor.examination import (
    ISSUE,
    TIMEOUT_REMEDY,
    Check,
    Examination,
    FailedError,
    Finding,
    failed,
    skipped,
)
from airflow_provider_rtisms.doctor.report import DEFAULT_FOLLOW_FOR, DEFAULT_TIMEOUT, CheckResult, Outcome, Report

#: In the order in which they run.
CHECKS = (*network.CHECKS, *account.CHECKS)


def diagnose(
    settings: ApiSettings | Callable[[], ApiSettings],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    submission_id: str | int | None = None,
    probe_credentials: bool = False,
    send_to: str | None = None,
    sender: str | None = None,
    follow_for: float = DEFAULT_FOLLOW_FOR,
    conn_id: str | None = None,
    on_result: Callable[[CheckResult], Any] = lambda result: None,
) -> Report:
    """
    Check an account, a network and the API. Nothing is changed or sent, unless ``send_to`` asks for it.

    :param settings: where the API is, and the credentials; or a function that returns them, whose RtiSmsConfigError
        becomes a result.
    :param timeout: seconds for one request and its response. Every check takes a few times that at most.
    :param submission_id: a submission of the account, to compare its details with the documentation.
    :param probe_credentials: authenticate once with a wrong secret. It may count against the account.
    :param send_to: a phone number in international form. **One SMS is sent to it, which costs money.**
    :param sender: the sender of that SMS.
    :param follow_for: most seconds to wait until that SMS is final.
    :param conn_id: the Connection that the settings come from; the report names it.
    :param on_result: called with each result as soon as it is there.
    :return: the results.
    :raises RtiSmsInputError: an argument cannot be used; nothing was checked.
    """
    if send_to is not None and not sender:
        raise RtiSmsInputError("sender is missing: a message needs the sender that the recipient sees.")
    if not 0 < timeout <= 3600:
        raise RtiSmsInputError("timeout is not a number of seconds from 0 to 3600.")
    exam = Examination(
        load=settings if callable(settings) else lambda: settings,
        timeout=timeout,
        submission_id=None if submission_id is None else check_submission_id(submission_id),
        probe_credentials=probe_credentials,
        send_to=None if send_to is None else parse_recipients([send_to])[0],
        sender=sender,
        follow_for=follow_for,
    )
    named = "the Connection" if conn_id is None else f"the Connection {conn_id}"
    results: list[CheckResult] = []
    blocked: dict[str, str] = {}
    for check in CHECKS:
        outcome, *texts = _run(exam, check, blocked)
        got, remedy = (redact(text, exam.secrets).replace("the Connection", named) for text in texts)
        results.append(CheckResult(check.name, outcome, check.expected, got, remedy))
        on_result(results[-1])
    exam.close()
    return Report(results)


class _ExpiredError(Exception):
    """A check took too long."""


def _run(exam: Examination, check: Check, blocked: dict[str, str]) -> Finding:
    """Run one check; ``blocked`` names, for each check that failed or was skipped for another one, which is to blame."""
    if blame := blocked.get(check.needs):
        blocked[check.name] = blame
        return skipped(f"not checked, because {blame} failed")
    limit = check.limit(exam)
    try:
        finding = _run_within(limit, lambda: check.run(exam))
    except _ExpiredError:
        finding = failed(f"gave up after {limit:g} s", TIMEOUT_REMEDY)
    except FailedError as error:
        finding = error.finding
    except RtiSmsError as error:
        finding = failed(str(error), "See the message.")
    except Exception as error:
        finding = failed(f"the check itself has a defect: {type(error).__name__}", ISSUE)
    if finding.outcome is Outcome.FAILED:
        blocked[check.name] = check.name
    return finding


def _run_within(seconds: float, work: Callable[[], Finding]) -> Finding:
    """Do some work in a thread, and leave it behind if it takes too long: the lookup of a name has no timeout."""
    done: Future[Finding] = Future()

    def target() -> None:
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=target, name="rtisms-doctor", daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():  # the work itself raised it
            raise
        raise _ExpiredError from None
