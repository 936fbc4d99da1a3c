"""
Waiting for delivery: which submissions are still open, and when the wait has failed. Pure, no I/O.

The sensor (poke, reschedule) and the trigger (deferred) both feed it the outcomes of their polls.

Source: API page, "Get SMS info" and the 404 of "Errors".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow_provider_rtisms.api.errors import (
    RtiSmsDeliveryError,
    RtiSmsError,
    RtiSmsInputError,
    RtiSmsNotFoundError,
    RtiSmsTransientError,
    shape,
)
from airflow_provider_rtisms.api.models import OPEN_STATUSES, SmsDetails

#: How many submissions an error message names.
NAMED_IN_MESSAGE = 10

Record = dict[str, Any]


class DeliveryWait:
    """
    The state of a wait for the final outcome of some submissions.

    :param submission_ids: checked ids.
    :param fail_on: final states that fail the wait.
    :param finished: records of submissions that are known to be final already.
    """

    def __init__(self, submission_ids: Sequence[str], fail_on: Iterable[str], finished: Iterable[Record] = ()) -> None:
        self.submission_ids = list(submission_ids)
        self.fail_on = frozenset(fail_on)
        #: The last transient failure, of whichever poll.
        self.trouble: RtiSmsError | None = None
        self._records: dict[str, Record] = {}
        self.restore(finished)
        self._seen: dict[str, str] = {}
        self._missing: dict[str, RtiSmsError] = {}

    @property
    def open_ids(self) -> list[str]:
        """The submissions whose outcome is not known yet, in their order."""
        return [one for one in self.submission_ids if one not in self._records]

    @property
    def records(self) -> list[Record]:
        """The records of the submissions that are final, in their order."""
        return [self._records[one] for one in self.submission_ids if one in self._records]

    def restore(self, finished: Iterable[Record]) -> None:
        """Take in records of submissions that were found to be final elsewhere, in another process or before."""
        self._records.update((record["submission_id"], record) for record in finished)

    def note(self, submission_id: str, outcome: SmsDetails | RtiSmsError) -> None:
        """
        Take in what one poll said of one submission.

        :param submission_id: which.
        :param outcome: its details, or the error that came in their place.
        :raises RtiSmsError: the error is permanent and about more than this submission.
        """
        self._missing.pop(submission_id, None)
        if isinstance(outcome, SmsDetails):
            self._seen[submission_id] = outcome.status or "no status"
            if outcome.is_final:
                self._records[submission_id] = outcome.to_record()
        elif isinstance(outcome, RtiSmsNotFoundError):
            self._seen[submission_id] = "not found yet"
            self._missing[submission_id] = outcome
        elif isinstance(outcome, RtiSmsTransientError):
            self.trouble = outcome
        else:
            raise outcome

    def settle(self, missing_ok: bool) -> bool:
        """
        Say whether the wait is over, once a poll has been noted.

        :param missing_ok: whether submissions that the API does not know may still turn up.
        :return: True if every submission is final.
        :raises RtiSmsDeliveryError: some ended in a state of ``fail_on``.
        :raises RtiSmsNotFoundError: some are unknown and were to be known by now.
        """
        failed = [f"{record['submission_id']} {record['status']}" for record in self._failed()]
        if failed:
            raise RtiSmsDeliveryError(
                f"{len(failed)} of {len(self.submission_ids)} submissions ended in a state of fail_on: {_some(failed)}",
                subject=_some(failed),
            )
        if self._missing and not missing_ok:
            first = next(iter(self._missing.values()))
            raise RtiSmsNotFoundError(
                f"{len(self._missing)} of {len(self.submission_ids)} submissions are unknown to the API (HTTP 404): "
                f"{_some(list(self._missing))}. Check the ids, or raise missing_ok_for if they were sent just now.",
                subject=_some(list(self._missing)),
                status=first.status,
            )
        return not self.open_ids

    def progress(self) -> str:
        """Return a line for the log: how many are final, and what the others were last seen as."""
        still = self.open_ids
        states = Counter(self._seen.get(one, "not seen") for one in still)
        text = f"{len(self.submission_ids) - len(still)} of {len(self.submission_ids)} submissions are final"
        if states:
            text += "; open: " + ", ".join(f"{count} {state}" for state, count in states.most_common())
        return text

    def timeout_message(self) -> str:
        """Return what to say when the time is up: what is open, and the last trouble with asking."""
        text = f"Timed out: {self.progress()} ({_some(self.open_ids)})."
        return f"{text} The last trouble was: {self.trouble}" if self.trouble else text

    def _failed(self) -> list[Record]:
        return [record for record in self.records if record["status"] in self.fail_on]


def check_fail_on(value: Any) -> tuple[str, ...]:
    """
    Return the states of an operator's ``fail_on``.

    :param value: an iterable of names of final states, such as ``("REJECTED", "EXPIRED")``; may be empty.
    :raises RtiSmsInputError: it is anything else, or names a state that is never final.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise RtiSmsInputError(f"fail_on is {shape(value)}: use a list of states such as ['REJECTED', 'EXPIRED'].")
    states = tuple(value)
    for position, state in enumerate(states):
        if not isinstance(state, str) or not state.isupper() or state in OPEN_STATUSES:
            raise RtiSmsInputError(
                f"fail_on[{position}] is {state!r}, no final state: use REJECTED, UNDELIVERED, EXPIRED, UNKNOWN."
            )
    return tuple(str(state) for state in states)


def check_seconds(field_name: str, value: Any) -> float:
    """
    Return a span of time in seconds.

    :param field_name: how the error names it.
    :param value: seconds, 0 or more, or a timedelta.
    :raises RtiSmsInputError: it is anything else.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise RtiSmsInputError(f"{field_name} is {shape(value)}: use seconds, 0 or more, or a timedelta.")
    return float(seconds)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED_IN_MESSAGE
    return ", ".join(names[:NAMED_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")
