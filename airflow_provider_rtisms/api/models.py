"""
What the API's responses hold, as immutable values.

Parsing checks the type of each field that is present. It ignores unknown fields, and reads absent ones as None.

Source: docs/vendor-api.md, "Get SMS info" and "Send SMS".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any


class SmsStatus(StrEnum):
    """The documented delivery states of a submission. Only the name decides; the numeric code is not used."""

    PENDING = "PENDING"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    REJECTED = "REJECTED"
    UNDELIVERED = "UNDELIVERED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"


#: The same as plain strings.
DOCUMENTED_STATUSES = frozenset(str(status) for status in SmsStatus)
#: States that never change again.
FINAL_STATUSES = frozenset({SmsStatus.DELIVERED, SmsStatus.REJECTED, SmsStatus.UNDELIVERED, SmsStatus.EXPIRED})
#: States that can still change, even where ``done`` is set.
OPEN_STATUSES = frozenset({SmsStatus.PENDING, SmsStatus.SENT})

#: The form of a status. Results go to XCom, so free text of a server is not accepted as a status.
STATUS_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
#: The form of a submission id. The vendor does not promise its length.
SUBMISSION_ID = re.compile(r"[0-9]{1,100}")

#: Send statuses that mean: the message was not accepted, and nothing was sent.
REFUSED_STATUSES = frozenset({"account_no_balance", "unknown_error"})
#: All documented send statuses.
DOCUMENTED_SEND_STATUSES = REFUSED_STATUSES | {"submitted"}

_NETWORK_FIELDS = ("operator_id", "operator_name", "operator_mcc", "operator_mnc")
#: Larger numbers are refused, since other JSON parsers may round them (RFC 8259, section 6).
LARGEST_NUMBER = 1e15


@dataclass(frozen=True, slots=True)
class Operator:
    """
    The recipient's network.

    :param id: the vendor's id for it.
    :param name: its name, such as ``Entel Pcs``.
    :param mcc: mobile country code, a digit string whose leading zeros matter; so is ``mnc``.
    :param mnc: mobile network code.
    """

    id: str | None = None
    name: str | None = None
    mcc: str | None = None
    mnc: str | None = None


_known_operator = lru_cache(maxsize=64)(Operator)  # most submissions have one of a few networks


@dataclass(frozen=True, slots=True)
class SmsDetails:
    """
    One submission, as Get SMS info describes it.

    :param submission_id: decimal string.
    :param status: the vendor's word for the state; :class:`SmsStatus` has the documented ones.
    :param status_code: its numeric form, a string.
    :param registered_at: when the vendor accepted it, UTC.
    :param sent_at: when it was handed to the recipient's operator, UTC; None if that has not happened.
    :param done_at: when it became final, UTC; None if that has not happened.
    :param cost: a number without a documented unit.
    :param operator: the recipient's network.
    :param raw: the JSON of the response, if it was asked for; never shown in a repr.
    """

    submission_id: str
    status: str | None = None
    status_code: str | None = None
    registered_at: datetime | None = None
    sent_at: datetime | None = None
    done_at: datetime | None = None
    cost: int | float | None = None
    operator: Operator = Operator()
    raw: str | None = field(default=None, repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        """Whether the outcome can no longer change (docs/vendor-api.md, "Get SMS info")."""
        if self.status in FINAL_STATUSES:
            return True
        return self.status not in OPEN_STATUSES and self.done_at is not None

    def to_record(self) -> dict[str, Any]:
        """
        Return the flat, JSON-safe form, ready for XCom or a warehouse.

        :return: ``submission_id, status, status_code, is_final, registered_at, sent_at, done_at`` (ISO 8601 UTC or
            None), ``cost, operator_id, operator_name, operator_mcc, operator_mnc``, in this order.
        """
        return {
            "submission_id": self.submission_id,
            "status": self.status,
            "status_code": self.status_code,
            "is_final": self.is_final,
            "registered_at": self.registered_at and self.registered_at.isoformat(),
            "sent_at": self.sent_at and self.sent_at.isoformat(),
            "done_at": self.done_at and self.done_at.isoformat(),
            "cost": self.cost,
            "operator_id": self.operator.id,
            "operator_name": self.operator.name,
            "operator_mcc": self.operator.mcc,
            "operator_mnc": self.operator.mnc,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SmsDetails:
        """
        Read what :meth:`to_record` returned. Only a caller that compares knows whether somebody else wrote the record.

        :raises ValueError: a field is missing, or has a value that no response gives.
        """
        try:
            if not SUBMISSION_ID.fullmatch(record["submission_id"]):
                raise ValueError("submission_id is not a string of digits")
            return cls(
                submission_id=record["submission_id"],
                status=_word(record["status"], "status"),
                status_code=_text(record["status_code"], "status_code"),
                registered_at=parse_utc(record["registered_at"]),
                sent_at=parse_utc(record["sent_at"]),
                done_at=parse_utc(record["done_at"]),
                cost=_number(record["cost"], "cost"),
                operator=Operator(*(_text(record[name], name) for name in _NETWORK_FIELDS)),
            )
        except (KeyError, TypeError) as problem:
            raise ValueError(f"not a record of a submission ({problem!r})") from None

    @classmethod
    def from_response(cls, submission_id: str, response: Any) -> SmsDetails:
        """
        Read the response of GET /sms/{submissionId}.

        :param submission_id: the id that was asked for.
        :param response: the decoded JSON.
        :raises ValueError: the response is not about that submission, or a field has an impossible value.
        """
        response = _object(response, "the response")
        if not response.keys() & {"id", "timestamps", "info"}:
            raise ValueError("it has none of 'id', 'timestamps' and 'info'")
        returned_id = _text(response.get("id"), "id")
        if returned_id is not None and returned_id.lstrip("0") != submission_id.lstrip("0"):
            raise ValueError("it is about another submission")
        times = _object(response.get("timestamps") or {}, "timestamps")
        info = _object(response.get("info") or {}, "info")
        status = _object(info.get("status") or {}, "info.status")
        network = _object(info.get("operator") or {}, "info.operator")
        return cls(
            submission_id=submission_id,
            status=_word(status.get("status"), "info.status.status"),
            status_code=_text(status.get("code"), "info.status.code"),
            registered_at=_moment(times.get("registered"), "timestamps.registered"),
            sent_at=_moment(times.get("sent"), "timestamps.sent"),
            done_at=_moment(times.get("done"), "timestamps.done"),
            cost=_number(info.get("cost"), "info.cost"),
            operator=_known_operator(
                _text(network.get("id"), "info.operator.id"),
                _text(network.get("name"), "info.operator.name"),
                _text(network.get("mcc"), "info.operator.mcc"),
                _text(network.get("mnc"), "info.operator.mnc"),
            ),
        )


class SendOutcome(StrEnum):
    """What is known of one recipient of a send: our verdict, as opposed to the status that the vendor returned."""

    SUBMITTED = "submitted"
    REFUSED = "refused"
    UNCERTAIN = "uncertain"
    NOT_SENT = "not_sent"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class Submission:
    """
    What is known of one recipient of a send.

    :param outcome: ``submitted``: the vendor has accepted the message. ``refused``: the vendor has refused it.
        ``uncertain``: a request went out, but no usable response came back. ``not_sent``: no request went out.
        ``excluded``: none went out, since the recipient is on the list of numbers that are never texted.
    :param status: the vendor's word, such as ``submitted`` or ``account_no_balance``; None if there was no response.
    :param submission_id: decimal string, only where the outcome is ``submitted``.
    """

    outcome: SendOutcome
    status: str | None = None
    submission_id: str | None = None

    @property
    def is_submitted(self) -> bool:
        """Whether the vendor has accepted the message."""
        return self.outcome is SendOutcome.SUBMITTED

    @property
    def is_uncertain(self) -> bool:
        """Whether a message may have been sent although no usable response came back."""
        return self.outcome is SendOutcome.UNCERTAIN

    def to_record(self) -> dict[str, Any]:
        """Return the flat, JSON-safe form: ``outcome, status, submission_id``."""
        return {"outcome": str(self.outcome), "status": self.status, "submission_id": self.submission_id}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Submission:
        """
        Read what :meth:`to_record` returned.

        :raises ValueError: the record is of another form.
        """
        try:
            return cls(SendOutcome(record["outcome"]), record["status"], record["submission_id"])
        except KeyError as missing:
            raise ValueError(f"a record of a submission has no {missing}") from None

    @classmethod
    def from_response(cls, response: Any) -> Submission:
        """
        Read one element of ``submissions`` in the response of POST /sms.

        A submission that has an id was accepted, whatever its status. One that has neither an id nor a documented
        status is uncertain.

        :raises ValueError: a field is missing or has an impossible value.
        """
        response = _object(response, "submission")
        status = _word(response.get("status"), "status")
        submission_id = _text(response.get("submissionId"), "submissionId")
        if status is None:
            raise ValueError("a submission has no 'status'")
        if submission_id is not None:
            if not SUBMISSION_ID.fullmatch(submission_id):
                raise ValueError("a 'submissionId' is not a string of digits")
            return cls(SendOutcome.SUBMITTED, status, submission_id)
        if status == "submitted":
            raise ValueError("a submission is 'submitted' but has no 'submissionId'")
        return cls(SendOutcome.REFUSED if status in REFUSED_STATUSES else SendOutcome.UNCERTAIN, status)


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{field} is a JSON {_kind(value)} where an object was expected")
    return value


def _text(value: Any, field: str) -> str | None:
    if value is None:
        return None
    if type(value) is str and value.isprintable():  # the fast path, for bulk fetches; half a character is not printable
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{field} is a JSON {_kind(value)} where a string was expected")
    # PostgreSQL cannot store a NUL, and UTF-8 cannot encode a lone surrogate.
    return printable(value.encode("utf-8", "replace").decode().replace("\x00", "�"))


def printable(text: str) -> str:
    """Return a text that a terminal shows as it is, with Python's escape in place of each other character."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _word(value: Any, field: str) -> str | None:
    text = _text(value, field)
    if text in DOCUMENTED_STATUSES:  # nearly always; bulk fetches feel the check below
        return text
    if text is not None and not STATUS_WORD.fullmatch(text):
        raise ValueError(f"{field} is not one word of letters, digits, '_' and '-'")
    return text


def _number(value: Any, field: str) -> int | float | None:
    if type(value) is int and 0 <= value < LARGEST_NUMBER:  # the fast path, for bulk fetches
        return value
    if isinstance(value, str):
        with suppress(ValueError):  # a text that is no number is refused below
            value = float(value) if "." in value else int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST_NUMBER:
        raise ValueError(f"{field} is a JSON {_kind(value)} where a number was expected")
    return value


def _moment(value: Any, field: str) -> datetime | None:
    seconds = value if type(value) is int else _number(value, field)
    if not seconds:  # 0 or missing: that stage has not happened yet
        return None
    try:
        if seconds > 0:
            return datetime.fromtimestamp(int(seconds), tz=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise ValueError(f"{field} is not a time in seconds since 1970")


def parse_utc(value: str | None) -> datetime | None:
    """Return a time of a record: ISO 8601 in UTC, since 1970, in whole seconds. None stays None."""
    if value is None:
        return None
    moment = datetime.fromisoformat(value)
    if moment.tzinfo != UTC or moment.microsecond or moment.year < 1970:
        raise ValueError("not a time in UTC since 1970, in whole seconds")
    return moment


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


#: The fields of :meth:`SmsDetails.to_record`, in their order.
RECORD_FIELDS = SmsDetails("").to_record().keys()
