"""What is known of all messages of a send, in one line. It names references, ids and masked numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

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


def explain_doubt(
    *, has_hole: bool, foreign: AbstractSet[str], foreign_submitted: AbstractSet[str], renamed: int, is_lost: bool
) -> str:
    """
    Return in sentences why it is not known whether messages were sent.

    :param has_hole: whether a part of the journal is missing.
    :param foreign: messages that were sent, or may have been, with another client secret.
    :param foreign_submitted: those of them that were submitted.
    :param renamed: how many messages have a new reference, and a recipient who has got another one.
    :param is_lost: whether the journal has a request without a response.
    """
    reasons = []
    if has_hole:
        reasons.append(
            "A part of the journal of this task is missing in the task state store, so it is not known which messages "
            "this task has sent."
        )
    elif foreign:
        reasons.append(
            f"This task has recorded messages with another client secret: {len(foreign_submitted)} submitted, "
            f"{len(foreign - foreign_submitted)} uncertain. It is not known which of the present messages they are."
        )
    if renamed:
        reasons.append(
            f"Messages with a new reference: {renamed}. Another message to the same recipient, which is no longer "
            "among the messages, was sent by this task, or may have been. If it is the same message, restore its "
            "reference, and the journal recognizes it."
        )
    if is_lost:
        reasons.append(
            "The response to a request was lost, or the worker stopped before it came, so some messages may or may not "
            "have been sent."
        )
    return " ".join(reasons)
