"""What a check is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_rtisms.doctor.context import Context, Finding

#: The page that the checks compare with.
PAGE = "docs/vendor-api.md"


@dataclass(frozen=True, slots=True)
class Check:
    """
    One check.

    :param name: its name in the report.
    :param expected: what is documented.
    :param section: the section of docs/vendor-api.md that documents it.
    :param run: does it.
    :param needs: names of earlier checks. If one of them failed, this check is skipped.
    :param steps: most requests or connections, each of which takes at most the timeout.
    :param extra_seconds: how much longer it may take.
    """

    name: str
    expected: str
    section: str
    run: Callable[[Context], Finding]
    needs: tuple[str, ...] = ()
    steps: int = 1
    extra_seconds: Callable[[Context], float] = lambda ctx: 2.0

    @property
    def documented(self) -> str:
        """What is documented, and where."""
        return f'{self.expected} ({PAGE}, "{self.section}")'

    def limit(self, ctx: Context) -> float:
        """Return the seconds after which the check is given up."""
        return self.steps * (ctx.options.timeout + ctx.pause) + self.extra_seconds(ctx)
