"""What is known of all messages of a send, in one line. It names references, ids and masked numbers only."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_rtisms.api.models import Submission
from airflow_provider_rtisms.api.values.lists import name_some
from airflow_provider_rtisms.sending.message import Message

#: How many messages of each outcome an error names. People have to be asked about them, so it is high.
NAMED_IN_ERROR = 1000


def summarize(
    messages: Sequence[Message],
    submissions: Sequence[Submission],
    unmatched: Sequence[Submission] = (),
    vanished: Sequence[Submission] = (),
) -> str:
    """
    Return in one line what is known of all messages.

    :param messages: all messages.
    :param submissions: what is known of each, by position.
    :param unmatched: submissions of responses that could not be matched with recipients.
    :param vanished: what is known of messages that an earlier attempt had and this one does not have.
    """
    names: dict[str, list[str]] = {}
    for message, submission in zip(messages, submissions, strict=True):
        outcome = str(submission.outcome)
        if submission.status not in (None, outcome):
            outcome += f" ({submission.status})"
        names.setdefault(outcome, []).append(submission.submission_id or message.name)
    if unmatched:
        names["listed in responses that match no recipient"] = [describe(one) for one in unmatched]
    counts = (f"{len(some)} {outcome}: {name_some(some, limit=NAMED_IN_ERROR)}" for outcome, some in names.items())
    left = f" No longer among the messages: {describe_vanished(vanished)}." if vanished else ""
    return f"Of {len(messages)} messages: {'; '.join(counts)}.{left}"


def describe(submission: Submission) -> str:
    """Return the status and the id of a submission."""
    return " ".join(filter(None, (submission.status, submission.submission_id)))


def describe_vanished(vanished: Sequence[Submission]) -> str:
    """
    Return what is known of messages that an earlier attempt had and this one does not have.

    :param vanished: each submitted or uncertain.
    """
    ids = [one.submission_id or "" for one in vanished if one.is_submitted]
    uncertain = len(vanished) - len(ids)
    parts = [f"{len(ids)} submitted messages ({name_some(ids, limit=NAMED_IN_ERROR)})"] if ids else []
    return " and ".join(parts + ([f"{uncertain} uncertain messages"] if uncertain else []))
