"""
Wait for delivery: which submissions are open, and when the wait has failed. Pure, no I/O.

Source: docs/vendor-api.md, "Get SMS info" and "Errors" (404).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_provider_rtisms.api.errors import (
    RtiSmsDeliveryError,
    RtiSmsError,
    RtiSmsInputError,
    RtiSmsNotFoundError,
    RtiSmsTransientError,
    shape,
)
from airflow_provider_rtisms.api.models import OPEN_STATUSES, RECORD_FIELDS, SmsDetails, SmsStatus
from airflow_provider_rtisms.api.values.lists import name_some
from airflow_provider_rtisms.waiting.quota import Quota

Record = dict[str, Any]


class DeliveryWait:
    """
    The state of a wait for the final outcome of some submissions.

    :param submission_ids: checked ids.
    :param fail_on: final states that fail the wait.
    :param finished: records of submissions that are known to be final already.
    :param quota: how many have to be delivered. Then ``fail_on`` is not used.
    """

    def __init__(
        self,
        submission_ids: Sequence[str],
        fail_on: Iterable[str],
        finished: Iterable[Record] = (),
        quota: Quota | None = None,
    ) -> None:
        self.submission_ids = list(submission_ids)
        self.fail_on = frozenset(fail_on)
        self.quota = quota
        #: The last transient error, of any poll.
        self.last_error: RtiSmsError | None = None
        self._records: dict[str, Record] = {}
        self.restore(finished)
        self._seen: dict[str, str] = {}
        self._missing: dict[str, RtiSmsError] = {}

    @property
    def open_ids(self) -> list[str]:
        """The submissions that are not known to be final, in their order."""
        return [one for one in self.submission_ids if one not in self._records]

    @property
    def records(self) -> list[Record]:
        """The records of the submissions that are final, in their order."""
        return [self._records[one] for one in self.submission_ids if one in self._records]

    @property
    def quota_of_open(self) -> Quota | None:
        """The quota of a wait for the open submissions alone."""
        if self.quota is None:
            return None
        delivered = sum(record["status"] == SmsStatus.DELIVERED for record in self.records)
        return replace(self.quota, delivered=self.quota.delivered + delivered)

    def restore(self, finished: Iterable[Record]) -> None:
        """Add records of submissions that another process, or an earlier one, found to be final."""
        self._records.update((record["submission_id"], record) for record in finished)

    def note(self, submission_id: str, outcome: SmsDetails | RtiSmsError) -> None:
        """
        Add what a poll found for one submission.

        :param submission_id: which.
        :param outcome: its details, or the error that its fetch gave.
        :raises RtiSmsError: the error is permanent and concerns more than this submission.
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
            self.last_error = outcome
        else:
            raise outcome

    def is_over(self, missing_ok: bool) -> bool:
        """
        Return whether the wait is over, after a poll.

        :param missing_ok: whether submissions that the API does not know yet are accepted.
        :return: whether every submission is final.
        :raises RtiSmsDeliveryError: some reached a state of ``fail_on``, or the quota can no longer be reached.
        :raises RtiSmsNotFoundError: the API does not know some of them, and ``missing_ok`` is False.
        """
        if self.quota is not None:
            return self._is_over_with(self.quota, 0 if missing_ok else len(self._missing))
        failed = [f"{record['submission_id']} {record['status']}" for record in self._failed()]
        if failed:
            count = f"{len(failed)} of {len(self.submission_ids)}"
            raise RtiSmsDeliveryError(
                f"{count} submissions reached a state of fail_on: {name_some(failed)}", subject=name_some(failed)
            )
        if self._missing and not missing_ok:
            first = next(iter(self._missing.values()))
            raise RtiSmsNotFoundError(
                f"{len(self._missing)} of {len(self.submission_ids)} submissions are unknown to the API (HTTP 404): "
                f"{name_some(list(self._missing))}. Check the ids, or raise missing_ok_for if they were sent just now.",
                subject=name_some(list(self._missing)),
                status=first.status,
            )
        return not self.open_ids

    def _is_over_with(self, quota: Quota, missing: int) -> bool:
        """
        Return whether the wait is over, if a number of deliveries is enough.

        :param quota: that number.
        :param missing: submissions that the API does not know and that are no longer waited for.
        """
        undelivered = [record for record in self.records if record["status"] != SmsStatus.DELIVERED]
        possible = quota.delivered + len(self.submission_ids) - len(undelivered) - missing
        if possible < quota.needed:
            names = [f"{record['submission_id']} {record['status']}" for record in undelivered]
            names += [f"{one} not found" for one in self._missing] if missing else []
            named = f"Not delivered: {name_some(names)}" if names else "The others have no submission id"
            raise RtiSmsDeliveryError(
                f"min_delivered can no longer be reached: it needs {quota.needed} of {quota.total} messages, and at "
                f"most {possible} can be delivered. {named}",
                subject=name_some(names),
            )
        return len(self.open_ids) <= missing

    def progress(self) -> str:
        """Return a line for the log: how many are final, with their states, and the last state of the others."""
        final = Counter(record["status"] or "no status" for record in self.records)
        still_open = Counter(self._seen.get(one, "not fetched yet") for one in self.open_ids)
        text = f"{final.total()} of {len(self.submission_ids)} submissions are final"
        if final:
            text += f" ({_count(final)})"
        return f"{text}; open: {_count(still_open)}" if still_open else text

    def timeout_message(self) -> str:
        """Return the message of a timeout: what is open, and the last error."""
        text = f"Timed out: {self.progress()} ({name_some(self.open_ids)})."
        return f"{text} The last error was: {self.last_error}" if self.last_error else text

    def _failed(self) -> list[Record]:
        return [record for record in self.records if record["status"] in self.fail_on]


def _count(states: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.most_common())


def check_records(value: Any) -> list[Record]:
    """
    Check records that another process has written: into the event of a trigger, or into a store.

    :param value: decoded JSON.
    :raises ValueError: it is not a list of records of submissions, see
        :meth:`~airflow_provider_rtisms.api.models.SmsDetails.to_record`.
    """
    if not isinstance(value, list):
        raise ValueError("'records' is not a list")
    for position, record in enumerate(value):
        if not isinstance(record, dict) or not record.keys() >= RECORD_FIELDS:
            raise ValueError(f"'records[{position}]' lacks fields of a record")
        if not isinstance(record["submission_id"], str) or not isinstance(record["status"], str | None):
            raise ValueError(f"'records[{position}]' has a field of another type")
    return value


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
                f"fail_on[{position}] is {shape(state)} that is not a final state: use REJECTED, UNDELIVERED, EXPIRED "
                "or UNKNOWN."
            )
    return tuple(str(state) for state in states)
