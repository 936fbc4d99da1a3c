"""The errors: which are permanent, and after which a request that must not be repeated may be repeated."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_rtisms.api import errors
from airflow_provider_rtisms.api.models import SendOutcome, Submission

#: Whether it is permanent, and whether the server may have acted on the request.
KINDS: dict[type[errors.RtiSmsError], tuple[bool, bool]] = {
    errors.RtiSmsInputError: (True, False),
    errors.RtiSmsConfigError: (True, False),
    errors.RtiSmsBadRequestError: (True, False),
    errors.RtiSmsAuthenticationError: (True, False),
    errors.RtiSmsTokenRefusedError: (True, False),
    errors.RtiSmsForbiddenError: (True, False),
    errors.RtiSmsNotFoundError: (True, False),
    errors.RtiSmsMethodNotAllowedError: (True, False),
    errors.RtiSmsSenderRefusedError: (True, False),
    errors.RtiSmsRedirectError: (True, True),
    errors.RtiSmsUnexpectedStatusError: (True, True),
    errors.RtiSmsResponseTooLargeError: (True, True),
    errors.RtiSmsUnsafeTokenError: (True, False),
    errors.RtiSmsCertificateError: (True, False),
    errors.RtiSmsTokenExpiredError: (False, False),
    errors.RtiSmsRateLimitError: (False, False),
    errors.RtiSmsServerError: (False, True),
    errors.RtiSmsConnectError: (False, False),
    errors.RtiSmsConnectionLostError: (False, True),
    errors.RtiSmsTimeoutError: (False, True),
    errors.RtiSmsInvalidResponseError: (False, True),
    errors.RtiSmsDeliveryError: (True, True),
    errors.RtiSmsUncertainError: (True, True),
    errors.RtiSmsNoBalanceError: (True, True),
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


class TestContext:
    def test_a_copy_says_more_and_keeps_the_rest(self) -> None:
        cause = KeyError("cause")
        error = errors.RtiSmsRateLimitError("HTTP 429.", call="get_sms", subject="1", status=429, retry_after=2.5)
        error.__cause__ = cause
        copied = error.with_context("Gave up.")
        assert type(copied) is errors.RtiSmsRateLimitError
        assert str(copied) == "HTTP 429. Gave up."
        assert vars(copied) == vars(error)
        assert copied.__cause__ is cause
        assert str(error) == "HTTP 429."

    def test_it_can_bring_submissions(self) -> None:
        one = Submission(SendOutcome.SUBMITTED, "submitted", "1")
        error = errors.RtiSmsError("lost", submissions=(one,))
        assert error.submissions == [one]
        assert error.with_context("More.").submissions == [one]
        assert error.with_context("More.", submissions=()).submissions == []
        assert error.submissions == [one]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "None"), ("", "a str of 0 characters"), ("abc", "a str of 3 characters"), (7, "a value of type int")],
)
def test_a_refused_value_is_described_and_not_repeated(value: Any, text: str) -> None:
    assert errors.shape(value) == text
