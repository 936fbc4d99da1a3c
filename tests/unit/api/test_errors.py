"""The errors: which are permanent, and after which a request that must not be repeated may be repeated."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SendOutcome, Submission

#: Whether it is permanent, and whether the server may have acted on the request.
KINDS: dict[type[errors.RtiSmsError], tuple[bool, bool]] = {
    **dict.fromkeys((errors.RtiSmsInputError, errors.RtiSmsConfigError, errors.RtiSmsBadRequestError), (True, False)),
    **dict.fromkeys((errors.RtiSmsAuthenticationError, errors.RtiSmsTokenRefusedError), (True, False)),
    **dict.fromkeys((errors.RtiSmsForbiddenError, errors.RtiSmsNotFoundError), (True, False)),
    **dict.fromkeys((errors.RtiSmsMethodNotAllowedError, errors.RtiSmsSenderRefusedError), (True, False)),
    **dict.fromkeys((errors.RtiSmsUnsafeTokenError, errors.RtiSmsCertificateError), (True, False)),
    **dict.fromkeys((errors.RtiSmsRedirectError, errors.RtiSmsUnexpectedStatusError), (True, True)),
    **dict.fromkeys((errors.RtiSmsResponseTooLargeError, errors.RtiSmsDeliveryError), (True, True)),
    **dict.fromkeys((errors.RtiSmsUncertainError, errors.RtiSmsNoBalanceError), (True, True)),
    **dict.fromkeys((errors.RtiSmsTokenExpiredError, errors.RtiSmsRateLimitError), (False, False)),
    errors.RtiSmsConnectError: (False, False),
    **dict.fromkeys((errors.RtiSmsServerError, errors.RtiSmsConnectionLostError), (False, True)),
    **dict.fromkeys((errors.RtiSmsTimeoutError, errors.RtiSmsInvalidResponseError), (False, True)),
    errors.RtiSmsNotAcceptedError: (False, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_permanent_or_transient_and_may_have_acted_or_not(kind: type[errors.RtiSmsError]) -> None:
    is_permanent, may_have_acted = KINDS[kind]
    assert issubclass(kind, errors.RtiSmsPermanentError) is is_permanent
    assert issubclass(kind, errors.RtiSmsTransientError) is not is_permanent
    assert kind.may_have_acted is may_have_acted
    assert str(kind("what happened")) == "what happened"


def test_the_table_above_is_complete() -> None:
    families = (errors.RtiSmsError, errors.RtiSmsPermanentError, errors.RtiSmsTransientError)
    public = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RtiSmsError)}
    assert public - set(families) == set(KINDS)


def test_each_documented_status_has_its_class() -> None:
    kinds = {status: kind.__name__[6:-5] for status, kind in errors.STATUS_ERRORS.items()}
    assert kinds == {
        **{400: "BadRequest", 401: "TokenExpired", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed"},
        **{406: "SenderRefused", 429: "RateLimit"},
        **dict.fromkeys((500, 502, 503, 504), "Server"),
    }


def test_a_copy_says_more_and_keeps_the_rest() -> None:
    cause, one = KeyError("cause"), Submission(SendOutcome.SUBMITTED, "submitted", "1")
    fields: Any = {"call": "get_sms", "subject": "1", "status": 429, "retry_after": 2.5, "submissions": (one,)}
    error = errors.RtiSmsRateLimitError("HTTP 429.", **fields)
    error.__cause__ = cause
    copied = error.with_context("Gave up.")
    assert type(copied) is errors.RtiSmsRateLimitError
    assert (str(error), str(copied)) == ("HTTP 429.", "HTTP 429. Gave up.")
    assert vars(copied) == vars(error)
    assert copied.__cause__ is cause
    assert error.with_context("More.", submissions=()).submissions == []
    assert error.submissions == [one]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "None"), ("", "a str of 0 characters"), ("abc", "a str of 3 characters"), (7, "a value of type int")],
)
def test_a_refused_value_is_described_and_not_repeated(value: Any, text: str) -> None:
    assert errors.shape(value) == text
