"""What a bulk fetch counts, for the lines of progress, the summary and the errors."""

from __future__ import annotations

import collections
import copy
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_rtisms.api.errors import (
    RtiSmsError,
    RtiSmsNotFoundError,
    RtiSmsRateLimitError,
    RtiSmsTransientError,
)
from airflow_provider_rtisms.api.models import SmsDetails

if TYPE_CHECKING:
    from airflow_provider_rtisms.api.retrying import Stats

log = logging.getLogger(__name__)

#: Seconds between two lines of progress.
PROGRESS_EVERY = 5.0
#: How many ids an error message names.
NAMED_IN_MESSAGE = 10
#: After this many submissions in a row that could not be fetched, the fetch ends: the API is down.
GIVE_UP_AFTER = 50
#: The part of :meth:`FetchStats.summary` that describes the records. It names no id and no path.
COUNTS = ("requested", "fetched", "missing", "duplicates", "by_status", "by_operator", "cost", "bytes")


class Progress:
    """Logs a line every few seconds, from a thread of its own, until its ``with`` block ends."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self.describe = describe
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rtisms-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(PROGRESS_EVERY):
            log.info("%s", self.describe())


class Counter:
    """Counts something since now, and tells how fast it grows."""

    def __init__(self) -> None:
        self.count = 0
        self._started = time.monotonic()

    def __str__(self) -> str:
        return f"{self.count:,}"

    @property
    def per_second(self) -> str:
        return f"{self.count / max(time.monotonic() - self._started, 0.001):,.0f} a second"


class FetchStats:
    """Counts of one bulk fetch."""

    def __init__(self, requested: int, duplicates: int) -> None:
        self.requested = requested
        self.duplicates = duplicates
        self.fetched = self.resumed = self.missing = self.failed = 0
        #: What ends the fetch before all is done.
        self.fatal: RtiSmsError | None = None
        self._failed_in_a_row = 0
        self._first_failure: RtiSmsError | None = None
        self._first_missing: RtiSmsError | None = None
        self._named_missing: list[str] = []
        self._by_status: collections.Counter[str] = collections.Counter()
        self._by_operator: collections.Counter[str] = collections.Counter()
        self._cost: int | Decimal = 0
        self._started = time.monotonic()

    def note(self, submission_id: str, outcome: SmsDetails | RtiSmsError) -> dict[str, Any] | None:
        """Count what came for an id, and return the record to keep, if there is one."""
        if isinstance(outcome, SmsDetails):
            self._failed_in_a_row = 0
            record = outcome.to_record()
            self.add(record)
            return record
        if isinstance(outcome, RtiSmsNotFoundError):
            self._failed_in_a_row = 0
            self.missing += 1
            self._first_missing = self._first_missing or outcome
            if self.missing <= NAMED_IN_MESSAGE:
                self._named_missing.append(submission_id)
            return None
        self.failed += 1
        self._failed_in_a_row += 1
        self._first_failure = self._first_failure or outcome
        # A rate limit that persists concerns the other ids as well, like every permanent error.
        concerns_all = isinstance(outcome, RtiSmsRateLimitError) or not isinstance(outcome, RtiSmsTransientError)
        if concerns_all or self._failed_in_a_row >= GIVE_UP_AFTER:
            self.fatal = self.fatal or outcome
        return None

    def add(self, record: Mapping[str, Any], count: int = 1) -> None:
        """Count records, as many as there are with this status, network and cost."""
        self.fetched += count
        self._by_status[record["status"] or "no status"] += count
        self._by_operator[record["operator_name"] or "no operator"] += count
        if cost := record["cost"]:
            self._cost += count * (cost if type(cost) is int else Decimal(str(cost)))

    def raise_for_failures(self) -> None:
        """Raise, with the class of the first failure, if any submission is neither fetched nor unknown to the API."""
        if (first := self._first_failure) is not None:
            raise _like(
                first, f"{self.failed} of {self.requested} submissions could not be fetched. The first: {first}"
            )
        if lost := self.requested - self.fetched - self.missing:
            raise RtiSmsTransientError(
                f"{lost} of {self.requested} submissions got no response. This is a defect of this package: report it."
            )

    def handle_missing(self, *, missing_ok: bool, missing_path: str | None) -> None:
        """Log the ids that the API does not know, or raise RtiSmsNotFoundError for them; it names the first few."""
        if self._first_missing is not None:
            more = self.missing - len(self._named_missing)
            names = ", ".join(self._named_missing) + (f" and {more} more" if more else "")
            what = f"{self.missing} of {self.requested} submissions are unknown to the API (HTTP 404): {names}."
            what += f" All of them are in {missing_path}." if missing_path else ""
            if not missing_ok:
                raise _like(self._first_missing, f'{what} Check the ids, or set on_missing="skip".')
            log.warning("%s", what)

    def progress(self, stats: Stats) -> str:
        """Return a line for people: done, total, per second, retries, time left."""
        done = self.fetched + self.missing + self.failed
        per_second = (done - self.resumed) / max(time.monotonic() - self._started, 0.001)
        left = f"about {(self.requested - done) / per_second:,.0f} s left" if per_second else "time left unknown"
        return (
            f"{done:,} of {self.requested:,} submissions done ({done / max(1, self.requested):.0%}), "
            f"{per_second:,.0f} a second, {stats.retries:,} retries, {left}"
        )

    def summary(self, stats: Stats, path: str | None, missing_path: str | None) -> dict[str, Any]:
        """
        Return the counts, JSON-safe.

        :param stats: of the client that has fetched.
        :param path: where the records are, or None.
        :param missing_path: where the missing ids are, or None.
        :return: ``path``, ``requested`` (distinct ids), ``fetched`` (records, those of earlier attempts included),
            ``missing`` (how many ids the API does not know), ``missing_ids`` (the first 10 of them), ``missing_path``,
            ``by_status``, ``by_operator``, ``cost`` (total), ``duplicates``, ``bytes`` (size of the file of records);
            and of this attempt alone ``resumed`` (records taken over), ``requests``, ``tokens``, ``retries``,
            ``throttled`` (429), ``seconds``.
        """
        return {
            "path": path,
            "requested": self.requested,
            "fetched": self.fetched,
            "missing": self.missing,
            "missing_ids": list(self._named_missing),
            "missing_path": missing_path,
            **self.totals(),
            "bytes": None,
            "resumed": self.resumed,
            "requests": stats.requests,
            "tokens": stats.tokens,
            "retries": stats.retries,
            "throttled": stats.throttled,
            "seconds": round(time.monotonic() - self._started, 3),
        }

    def totals(self) -> dict[str, Any]:
        """Return ``by_status``, ``by_operator``, ``cost`` and ``duplicates`` of :meth:`summary`."""
        return {
            "by_status": dict(self._by_status.most_common()),
            "by_operator": dict(self._by_operator.most_common()),
            "cost": int(self._cost) if self._cost == int(self._cost) else float(self._cost),
            "duplicates": self.duplicates,
        }


def counts_in(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the :data:`COUNTS` of a summary, which may be shown wherever it goes, without those that are None."""
    return {name: summary[name] for name in COUNTS if summary[name] is not None}


def counts_of(records: Iterable[Mapping[str, Any]], requested: int, duplicates: int) -> dict[str, Any]:
    """Return the same for a fetch into memory that has succeeded."""
    stats = FetchStats(requested, duplicates)
    for record in records:
        stats.add(record)
    missing = requested - stats.fetched
    return {"requested": requested, "fetched": stats.fetched, "missing": missing, **stats.totals()}


def _like(error: RtiSmsError, message: str) -> RtiSmsError:
    made = copy.copy(error)
    made.args = (message,)
    return made
