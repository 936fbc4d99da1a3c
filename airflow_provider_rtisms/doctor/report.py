"""What the doctor found: one result for each check, as text for a person and as JSON for a program."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from airflow_provider_rtisms.api.models import printable

#: Seconds for one request and its response, and for which a test message is followed.
DEFAULT_TIMEOUT, DEFAULT_FOLLOW_FOR = 10.0, 300.0
#: The widest line, and where the results begin in it, below the outcome and the name.
_WIDTH, _INDENT = 118, 26


class Outcome(StrEnum):
    """
    How a check ended.

    ``ok``: as documented. ``differs``: not as documented, but the package works. ``failed``: the package cannot work
    until somebody changes something. ``skipped``: not checked; the result says why.
    """

    OK = "ok"
    DIFFERS = "differs"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """
    The result of one check. It holds no secret, token, phone number, text or balance.

    :param name: the name of the check.
    :param outcome: how it ended.
    :param expected: what is documented.
    :param got: what came, or why the check was skipped.
    :param remedy: what a person can do; empty if there is nothing to do, or if ``got`` says it.
    """

    name: str
    outcome: Outcome
    expected: str
    got: str
    remedy: str

    def to_line(self) -> str:
        """Return what is wrong and what to do on one line; nothing if the check is ok or skipped."""
        if self.outcome in (Outcome.OK, Outcome.SKIPPED):
            return ""
        remedy = f": {self.remedy[:1].lower()}{self.remedy[1:]}" if self.remedy else ""
        return printable(f"{self.outcome:<8} {self.name:<16} {self.got}{remedy}")

    def to_text(self) -> str:
        """Return the lines of the whole report for this check, with what is expected."""
        parts = [(f"{self.outcome:<8} {self.name:<16} ", self.got)]
        if self.outcome is not Outcome.SKIPPED:
            parts.append(("expected: ", self.expected))
        if self.remedy:
            parts.append(("to do:    ", self.remedy))
        return "\n".join(_wrap(title, text) for title, text in parts)


@dataclass(frozen=True, slots=True)
class Report:
    """
    The results of all checks, in the order in which they ran.

    :param checks: one result for each check.
    """

    checks: Sequence[CheckResult]

    @property
    def exit_status(self) -> int:
        """0 if no check failed, else 1."""
        return int(any(check.outcome is Outcome.FAILED for check in self.checks))

    def summary(self) -> str:
        """Return how many checks ended how, and where to begin."""
        counts = Counter(check.outcome for check in self.checks)
        line = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome)
        if failed := self._names(Outcome.FAILED):
            return f"{line}. Begin with {failed[0]}: other checks may depend on it."
        return f"{line}. Nothing failed."

    def last_line(self) -> str:
        """Return the names of the checks that are ok, for the short report."""
        well, end = ", ".join(self._names(Outcome.OK)), "" if self.exit_status else " Nothing failed."
        return f"{Outcome.OK:<8} {well}.{end}" if well else end.strip()

    def to_text(self, verbose: bool = False) -> str:
        """
        Return the report for a person.

        :param verbose: every check with what is expected. Default: what is wrong, what to do, and what is ok.
        """
        if verbose:
            return "\n".join([*(check.to_text() for check in self.checks), "", self.summary()])
        return "\n".join(filter(None, [*(check.to_line() for check in self.checks), self.last_line()]))

    def to_json(self) -> str:
        """Return ``{"checks": [{"name", "outcome", "expected", "got", "remedy"}, ...]}``."""
        return json.dumps({"checks": [asdict(check) for check in self.checks]}, indent=2)

    def _names(self, outcome: Outcome) -> list[str]:
        return [check.name for check in self.checks if check.outcome is outcome]


def _wrap(title: str, text: str) -> str:
    first = title if len(title) == _INDENT else " " * _INDENT + title
    return textwrap.fill(
        printable(" ".join(text.split())),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
