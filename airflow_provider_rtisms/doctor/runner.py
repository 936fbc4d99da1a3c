"""Run the checks one after the other, each within its time, and collect the results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from airflow_provider_rtisms.api.errors import RtiSmsInputError
from airflow_provider_rtisms.api.settings import ApiSettings
from airflow_provider_rtisms.api.values.ids import check_submission_id
from airflow_provider_rtisms.api.values.recipients import parse_recipients
from airflow_provider_rtisms.api.values.redaction import redact
from airflow_provider_rtisms.doctor.arguments import DEFAULT_FOLLOW_FOR, DEFAULT_TIMEOUT
from airflow_provider_rtisms.doctor.checks import CHECKS
from airflow_provider_rtisms.doctor.checks.check import Check
from airflow_provider_rtisms.doctor.context import (
    TIMEOUT_REMEDY,
    Context,
    Finding,
    Options,
    ProblemError,
    failed,
    skipped,
)
from airflow_provider_rtisms.doctor.report import CheckResult, Outcome, Report


def diagnose(
    settings: ApiSettings | Callable[[], ApiSettings],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    submission_id: str | int | None = None,
    probe_credentials: bool = False,
    send_to: str | None = None,
    sender: str | None = None,
    follow_for: float = DEFAULT_FOLLOW_FOR,
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
    :param on_result: called with each result as soon as it is there.
    :return: the results.
    :raises RtiSmsInputError: an argument cannot be used; nothing was checked.
    """
    if send_to is not None and not sender:
        raise RtiSmsInputError("sender is missing: a message needs the sender that the recipient sees.")
    if not 0 < timeout <= 3600:
        raise RtiSmsInputError("timeout is not a number of seconds from 0 to 3600.")
    options = Options(
        timeout=timeout,
        submission_id=None if submission_id is None else check_submission_id(submission_id),
        probe_credentials=probe_credentials,
        send_to=None if send_to is None else parse_recipients([send_to])[0],
        sender=sender,
        follow_for=follow_for,
    )
    ctx = Context(settings if callable(settings) else lambda: settings, options)
    results = []
    for check in CHECKS:
        result = _result(ctx, check, _run(ctx, check))
        results.append(result)
        on_result(result)
    ctx.close()
    return Report(results)


class _ExpiredError(Exception):
    """A check took too long."""


def _result(ctx: Context, check: Check, finding: Finding) -> CheckResult:
    if finding.outcome is Outcome.FAILED:
        ctx.blocked[check.name] = check.name
    got, remedy = (redact(text, ctx.secrets) for text in (finding.got, finding.remedy))
    return CheckResult(check.name, finding.outcome, check.documented, got, remedy)


def _run(ctx: Context, check: Check) -> Finding:
    blame = next((ctx.blocked[name] for name in check.needs if name in ctx.blocked), None)
    if blame is not None:
        ctx.blocked[check.name] = blame
        return skipped(f"not checked, because {blame} failed")
    limit = check.limit(ctx)
    try:
        return _run_within(limit, lambda: check.run(ctx))
    except _ExpiredError:
        return failed(f"gave up after {limit:g} s", TIMEOUT_REMEDY)
    except ProblemError as problem:
        first = ctx.problems.setdefault(problem.kind, check.name)
        if first == check.name:
            return failed(problem.got, problem.remedy)
        ctx.blocked[check.name] = first
        return skipped(f"not checked: {problem.got}, as in {first}")
    except Exception as error:
        return failed(f"the check itself has a defect: {type(error).__name__}", "Open an issue with this report.")


def _run_within(seconds: float, work: Callable[[], Finding]) -> Finding:
    """
    Do some work in a thread, and leave it behind if it takes too long.

    The lookup of a name has no timeout, and neither has a TLS handshake whose bytes come one by one.
    """
    outcome: list[Finding | Exception] = []

    def target() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=target, name="rtisms-doctor", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _ExpiredError
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
