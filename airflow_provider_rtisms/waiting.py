"""
Waits: which submissions are open, when a wait is over or has failed, one poll, and the event that ends a trigger.

Airflow stores and logs events, so they hold ids and records, and no secret, number or text. Worker and triggerer may
run different releases of this package, so the worker refuses an event that it does not know. Importing this module
loads no HTTP library.

Source: docs/vendor-api.md, "Get SMS info" and "Errors" (404).
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

from airflow_provider_rtisms.api.errors import (
    RtiSmsAuthenticationError,
    RtiSmsDeliveryError,
    RtiSmsError,
    RtiSmsInputError,
    RtiSmsNotFoundError,
    RtiSmsTransientError,
    shape,
)
from airflow_provider_rtisms.api.models import OPEN_STATUSES, RECORD_FIELDS, SmsDetails, SmsStatus
from airflow_provider_rtisms.api.values.arguments import name_some, plural

if TYPE_CHECKING:
    from decimal import Decimal

    from airflow_provider_rtisms.api.aio import AsyncRtiSmsClient
    from airflow_provider_rtisms.api.settings import ApiSettings

log = logging.getLogger(__name__)

T = TypeVar("T")
Record = dict[str, Any]
#: Opens a client with the credentials that the Connection holds now.
Connect: TypeAlias = "Callable[[], AbstractAsyncContextManager[AsyncRtiSmsClient]]"

#: Waits over more submissions keep their records out of Airflow's database, and fetch them once more at the end.
MAX_RECORDS_IN_DATABASE = 1000
#: Records of final submissions in the arguments of a trigger. MySQL has room for 64 KiB of encrypted arguments: 1,000
#: ids take 27 KiB of them, and 50 records 22 KiB.
MAX_RECORDS_IN_TRIGGER = 50
#: Changes when an older worker would misread an event.
VERSION = 1

#: The event of a wait that a worker begins anew; see ``triggers/start.py``.
BEGIN_AGAIN = {"version": VERSION, "outcome": "begin_again"}

Outcome = Literal["finished", "failed", "timeout"]
#: ``crash``: the wait has failed, since the trigger met an error that it does not know, or the triggerer has another
#: release. Such a task fails even with ``soft_fail``, and may be retried.
#: ``execution_timeout``: not the ``timeout`` of the wait has passed, but the ``execution_timeout`` of its task.
Cause = Literal["", "crash", "execution_timeout"]


@dataclass(frozen=True, slots=True)
class Quota:
    """
    How many messages have to be delivered.

    :param total: of how many. It includes messages without a submission id, which cannot be delivered.
    :param delivered: how many of them are known to be delivered, and are not among the submissions of the wait.
    """

    needed: int
    total: int
    delivered: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the form that goes into the arguments of a trigger: ``Quota(**value)`` reads it."""
        return asdict(self)


def check_min_delivered(value: Any) -> float | None:
    """Return the ``min_delivered`` of a sensor or an operator."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    is_share = isinstance(value, float) and 0 < value <= 1
    if value is None or is_count or is_share:
        return value  # type: ignore[no-any-return]
    raise RtiSmsInputError(
        f"min_delivered is {shape(value)}: use a whole number of messages, 1 or more, or a share such as 0.95."
    )


def make_quota(min_delivered: Any, total: int) -> Quota | None:
    """Return how many messages have to be delivered."""
    checked = check_min_delivered(min_delivered)
    if checked is None:
        return None
    if isinstance(checked, float):
        return Quota(math.ceil(round(checked * total, 6)), total)  # 0.95 * 20 is 19, not a little more
    if checked > total:
        raise RtiSmsInputError(f"min_delivered is {checked}, but there are only {plural(total, 'message')}.")
    return Quota(checked, total)


class DeliveryWait:
    """The state of a wait for the final outcome of some submissions."""

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
        #: Submissions that the last poll did not find, in the order in which they were asked for.
        self._missing: dict[str, None] = {}

    @property
    def open_ids(self) -> list[str]:
        """The submissions that are not known to be final, in their order."""
        return [one for one in self.submission_ids if one not in self._records]

    @property
    def records(self) -> list[Record]:
        """The records of the submissions that are final, in their order."""
        return [self._records[one] for one in self.submission_ids if one in self._records]

    @property
    def is_small(self) -> bool:
        """Whether the records of the wait may stand in Airflow's database."""
        return len(self.submission_ids) <= MAX_RECORDS_IN_DATABASE

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
        """Add what a poll found for one submission."""
        self._missing.pop(submission_id, None)
        if isinstance(outcome, SmsDetails):
            self._seen[submission_id] = outcome.status or "no status"
            if outcome.is_final:
                self._records[submission_id] = outcome.to_record()
        elif isinstance(outcome, RtiSmsNotFoundError):
            self._seen[submission_id] = "not found yet"
            self._missing[submission_id] = None
        elif isinstance(outcome, RtiSmsTransientError):
            self.last_error = outcome
        else:
            raise outcome

    def is_over(self, missing_ok: bool) -> bool:
        """Return whether the wait is over, after a poll."""
        if self.quota is not None:
            return self._is_over_with(self.quota, 0 if missing_ok else len(self._missing))
        failed = [f"{one['submission_id']} {one['status']}" for one in self.records if one["status"] in self.fail_on]
        if failed:
            states = sorted({str(one["status"]) for one in self.records if one["status"] in self.fail_on})
            raise RtiSmsDeliveryError(
                f"{len(failed)} of {plural(len(self.submission_ids), 'submission')} reached a state of fail_on: "
                f"{name_some(failed)}. {explain_states(states)}Take a state out of fail_on to go on in spite of it.",
                subject=name_some(failed),
            )
        if self._missing and not missing_ok:
            total = plural(len(self.submission_ids), "submission is", "submissions are")
            raise RtiSmsNotFoundError(
                f"{len(self._missing)} of {total} unknown to the API (HTTP 404): {name_some(list(self._missing))}. "
                "Check the ids, or raise missing_ok_for if they were sent just now.",
                subject=name_some(list(self._missing)),
                status=404,
            )
        return not self.open_ids

    def _is_over_with(self, quota: Quota, missing: int) -> bool:
        """Return whether the wait is over, if a number of deliveries is enough."""
        undelivered = [record for record in self.records if record["status"] != SmsStatus.DELIVERED]
        possible = quota.delivered + len(self.submission_ids) - len(undelivered) - missing
        if possible < quota.needed:
            names = [f"{record['submission_id']} {record['status']}" for record in undelivered]
            names += [f"{one} not found" for one in self._missing] if missing else []
            named = f"Not delivered: {name_some(names)}" if names else "The others have no submission id"
            total = plural(quota.total, "message")
            raise RtiSmsDeliveryError(
                f"min_delivered can no longer be reached: it needs {quota.needed} of {total}, and at "
                f"most {possible} can be delivered. {named}. "
                + explain_states(sorted({str(one["status"]) for one in undelivered})),
                subject=name_some(names),
            )
        return len(self.open_ids) <= missing

    def progress(self) -> str:
        """Return a line for the log: how many are final, with their states, and the last state of the others."""
        final = Counter(record["status"] or "no status" for record in self.records)
        still_open = Counter(self._seen.get(one, "not fetched yet") for one in self.open_ids)
        text = f"{final.total()} of {plural(len(self.submission_ids), 'submission is', 'submissions are')} final"
        if final:
            text += f" ({_count(final)})"
        return f"{text}; open: {_count(still_open)}" if still_open else text

    def timeout_message(self) -> str:
        """Return the message of a timeout: what is open, and the last error."""
        text = f"Timed out: {self.progress()} ({name_some(self.open_ids)})."
        return f"{text} The last error was: {self.last_error}" if self.last_error else text


#: What a final state means to a person. The vendor documents no reasons for them.
_MEANINGS = {
    SmsStatus.REJECTED: "the vendor or the network refused the message",
    SmsStatus.UNDELIVERED: "the network could not deliver the message",
    SmsStatus.EXPIRED: "the message did not arrive in time, for instance because the phone was off",
    SmsStatus.UNKNOWN: "nobody knows whether the message arrived",
}


def explain_states(states: Iterable[str]) -> str:
    """Return sentences on what some final states mean, and what a person can do."""
    known = [f"{state} means that {_MEANINGS[SmsStatus(state)]}." for state in states if state in set(_MEANINGS)]
    return " ".join([*known, "Check the numbers, and ask RealTime about these ids. "]) if known else ""


def with_names(message: str, names: Mapping[str, str]) -> str:
    """Return an error in which each submission id is followed by what the caller calls its message."""
    return re.sub(
        r"\b[0-9]+(?= (?:[A-Z]{2,}|not found)\b)",
        lambda found: f"{found[0]} ({names[found[0]]})" if found[0] in names else found[0],
        message,
    )


def _count(states: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.most_common())


def check_fail_on(value: Any) -> tuple[str, ...]:
    """Return the states of an operator's ``fail_on``."""
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


def check_records(value: Any) -> list[Record]:
    """Check records that another process has written: into the event of a trigger, or into a store."""
    if not isinstance(value, list):
        raise ValueError("'records' is not a list")
    for position, record in enumerate(value):
        if not isinstance(record, dict) or not record.keys() >= RECORD_FIELDS:
            raise ValueError(f"'records[{position}]' lacks fields of a record")
        if not isinstance(record["submission_id"], str) or not isinstance(record["status"], str | None):
            raise ValueError(f"'records[{position}]' has a field of another type")
    return value


async def with_current_credentials(connect: Connect, work: Callable[[AsyncRtiSmsClient], Awaitable[T]]) -> T:
    """Do work with a client. If its credentials are refused, read the Connection again, and go on if it has changed."""
    refused: tuple[ApiSettings, RtiSmsAuthenticationError] | None = None
    while True:
        try:
            async with connect() as client:
                settings = client.settings
                if refused is not None and refused[0] == settings:
                    raise refused[1]
                return await work(client)
        except RtiSmsAuthenticationError as error:
            if refused is not None and error is refused[1]:
                raise
            refused = settings, error
            log.warning("%s Reading the Connection again, in case its credentials were rotated", error)


async def poll_deliveries(
    client: AsyncRtiSmsClient, wait: DeliveryWait, missing_until: float, *, is_first_time: bool = True
) -> bool:
    """
    Poll every submission that is still open, once; return whether every one is final.

    :param missing_until: wall-clock time (seconds since the epoch) until which an unknown id is accepted.
    :param is_first_time: False if an earlier poll may have found the same deliveries. Then the client's metrics do not
        count them again.
    :raises RtiSmsError: the wait has failed.
    """
    from airflow_provider_rtisms.api.aio import fetch

    earlier_error = wait.last_error
    async with aclosing(fetch(client, wait.open_ids)) as outcomes:
        async for submission_id, outcome in outcomes:
            wait.note(submission_id, outcome)
            if is_first_time and (seconds := _delivery_seconds(outcome)) is not None:
                client.stats.on_delivery(seconds)
    is_done = wait.is_over(missing_ok=time.time() < missing_until)
    if wait.last_error is not earlier_error:
        log.warning("%s The next poll will try again", wait.last_error)
    log.info("%s", wait.progress())
    return is_done


def _delivery_seconds(outcome: SmsDetails | RtiSmsError) -> float | None:
    """Return how long a delivery took by the vendor's clock; None if the message is not delivered."""
    if not isinstance(outcome, SmsDetails) or outcome.status != SmsStatus.DELIVERED:
        return None
    if outcome.registered_at is None or outcome.done_at is None:
        return None
    return max(0.0, (outcome.done_at - outcome.registered_at).total_seconds())


async def poll_balance(client: AsyncRtiSmsClient, minimum: Decimal) -> tuple[bool, Decimal | None]:
    """Poll the balance, once; return whether it is enough, and the balance, which is None after a transient error."""
    try:
        balance = await client.get_balance()
    except RtiSmsTransientError as error:
        log.warning("%s The next poll will try again", error)
        return False, None
    is_done = balance >= minimum
    log.info("The balance is %s, %s %s", balance, "at least" if is_done else "below", minimum)
    return is_done, balance


@dataclass(frozen=True, slots=True)
class WaitLimit:
    """
    How long a deferred wait may last.

    :param seconds: after which Airflow ends the deferral.
    :param deadline: when the trigger gives up, in seconds since the epoch.
    :param is_execution_timeout: whether the task's ``execution_timeout`` ends the wait, and not its ``timeout``.
    """

    seconds: float
    deadline: float
    is_execution_timeout: bool


def limit_wait(now: float, started: float, timeout: float, execution_end: float | None) -> WaitLimit:
    """Return how long a wait may last that is deferred now: until the first of its ends. Times count from the epoch."""
    if execution_end is None or started + timeout < execution_end:
        return WaitLimit(timeout, trigger_deadline(started, timeout), is_execution_timeout=False)
    left = execution_end - now
    return WaitLimit(left, trigger_deadline(now, left), is_execution_timeout=True)


def trigger_deadline(started: float, timeout: float) -> float:
    """
    Return when a trigger gives up: shortly before Airflow ends the deferral, so that the event can say what the trigger
    saw.
    """
    return started + timeout - min(5.0, timeout / 10)


class UnknownEventError(ValueError):
    """The event of a trigger is of a form that this release does not know."""


@dataclass(frozen=True, slots=True)
class WaitEvent:
    """
    How a deferred wait ended.

    :param message: why it failed or timed out.
    :param found: such as ``{"records": [...]}`` or ``{"balance": "457.00"}``; if it did not finish, until then.
    :param cause: why, if it did not end by itself. Releases that do not know it see only the outcome.
    """

    outcome: Outcome
    message: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)
    cause: Cause = ""

    def to_payload(self) -> dict[str, Any]:
        """Return the JSON form: what a trigger yields."""
        message = {} if self.outcome == "finished" else {"message": self.message}
        cause = {"cause": self.cause} if self.cause else {}
        return {"version": VERSION, "outcome": self.outcome, **message, **cause, **self.found}


def parse_trigger_event(payload: Any, expects: str) -> WaitEvent:
    """Return the event that a trigger has yielded. One of a finished wait brings ``records`` or ``balance``."""
    try:
        return _parse(payload, expects)
    except ValueError as error:
        raise UnknownEventError(
            f"The trigger ended with an event of an unknown form ({error}). Install the same version of "
            "airflow-provider-rtisms on the workers and on the triggerer."
        ) from None


def _parse(payload: Any, expects: str) -> WaitEvent:
    match payload:
        case {"version": int(version)} if version != VERSION:
            raise ValueError(f"version {version}")
        case {"outcome": "finished"} if expects in payload:
            return WaitEvent("finished", found=_check_found(payload))
        case {"outcome": "failed" | "timeout" as outcome, "message": str(message)}:
            cause = payload.get("cause", "")
            if cause not in get_args(Cause):
                raise ValueError(f"'cause' is {shape(cause)}")
            return WaitEvent(outcome, message, _check_found(payload), cause)
    raise ValueError(f"it is {shape(payload)}")


def _check_found(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    found = {name: value for name, value in payload.items() if name not in ("version", "outcome", "message", "cause")}
    if "records" in found:
        check_records(found["records"])
    if not isinstance(found.get("balance", ""), str):
        raise ValueError("'balance' is not a string")
    ids = found.get("submission_ids", [])
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise ValueError("'submission_ids' is not a list of strings")
    return found
