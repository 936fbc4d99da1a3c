"""
What can go wrong with a call, one exception for each documented failure.

Everything here descends from :class:`RtiSmsError` and is either permanent (:class:`RtiSmsPermanentError`: the same
call would fail again until a person changes something) or transient (:class:`RtiSmsTransientError`: worth repeating).
``api.retry`` alone decides what is repeated; the classes only say what happened.

Source: API page, chapter "Errors".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_rtisms.api.models import Submission


class RtiSmsError(Exception):
    """
    Base of every error that this package raises about the API.

    :param message: what was asked, what came, and what to do about it.
    :param call: name of the API call, such as ``get_sms``; ``authenticate`` for POST /auth.
    :param subject: what the call was about, such as the submission id.
    :param status: HTTP status of the response, or None where there was no response.
    :param retry_after: seconds that the server asked to wait for, or None.
    :param submissions: all that was told of submissions before a send failed.
    """

    #: Whether the server may have acted on the request. False only where it surely has not: the request never left, or
    #: it was refused with a status that the API documents as a refusal. Decides whether a send may be repeated.
    may_have_acted: bool = True

    def __init__(
        self,
        message: str,
        *,
        call: str | None = None,
        subject: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        submissions: Sequence[Submission] = (),
    ) -> None:
        super().__init__(message)
        self.call = call
        self.subject = subject
        self.status = status
        self.retry_after = retry_after
        self.submissions = list(submissions)


class RtiSmsPermanentError(RtiSmsError):
    """The same call would fail again; becomes ``AirflowFailException`` in operators."""


class RtiSmsTransientError(RtiSmsError):
    """The same call may succeed later; stays retryable in operators."""


class RtiSmsInputError(RtiSmsPermanentError, ValueError):
    """A value handed to us cannot be sent; nothing has left the machine."""

    may_have_acted = False


class RtiSmsConfigError(RtiSmsPermanentError, ValueError):
    """A field of the Connection is missing or malformed; nothing has left the machine."""

    may_have_acted = False


class RtiSmsBadRequestError(RtiSmsPermanentError):
    """400: malformed request or token."""

    may_have_acted = False


class RtiSmsAuthenticationError(RtiSmsPermanentError):
    """400 or 401 at POST /auth: the client id or the client secret is malformed or wrong."""

    may_have_acted = False


class RtiSmsTokenRefusedError(RtiSmsPermanentError):
    """401 twice in a row: the token was refused, and so was the new one got in its place."""

    may_have_acted = False


class RtiSmsForbiddenError(RtiSmsPermanentError):
    """403: the account may not do this."""

    may_have_acted = False


class RtiSmsNotFoundError(RtiSmsPermanentError):
    """404: no such submission, or Host points at something that is not the API."""

    may_have_acted = False


class RtiSmsMethodNotAllowedError(RtiSmsPermanentError):
    """405: wrong method; Host points at something that is not the API."""

    may_have_acted = False


class RtiSmsSenderRefusedError(RtiSmsPermanentError):
    """406: the sender is malformed or not allowed for this account."""

    may_have_acted = False


class RtiSmsRedirectError(RtiSmsPermanentError):
    """3xx: redirects are never followed, because they would carry the token elsewhere."""


class RtiSmsUnexpectedStatusError(RtiSmsPermanentError):
    """A status that the API does not document."""


class RtiSmsResponseTooLargeError(RtiSmsPermanentError):
    """The response is larger than any response of this API can be; reading it was given up."""


class RtiSmsUnsafeTokenError(RtiSmsPermanentError):
    """The access token holds characters that do not belong in a header (RFC 6750, section 2.1)."""

    may_have_acted = False


class RtiSmsCertificateError(RtiSmsPermanentError):
    """The server's TLS certificate could not be verified."""

    may_have_acted = False


class RtiSmsTokenExpiredError(RtiSmsTransientError):
    """401 outside /auth: the token is missing, malformed or expired; a new one is got and the call repeated once."""

    may_have_acted = False


class RtiSmsRateLimitError(RtiSmsTransientError):
    """429: a threshold of the account was passed."""

    may_have_acted = False
    #: Whether all callers were slowed down for it (:mod:`~airflow_provider_rtisms.api.transport.limiter`); then it is no try.
    is_shared = False


class RtiSmsServerError(RtiSmsTransientError):
    """500, 502, 503 or 504: the vendor's side failed."""


class RtiSmsConnectError(RtiSmsTransientError):
    """No connection could be made: the request never left the machine."""

    may_have_acted = False


class RtiSmsConnectionLostError(RtiSmsTransientError):
    """The connection broke after the request may have left."""


class RtiSmsTimeoutError(RtiSmsTransientError):
    """The exchange was not over within ``timeout`` seconds."""


class RtiSmsInvalidResponseError(RtiSmsTransientError):
    """Status 200, but the response is cut off, not JSON, or not what the call promises."""


class RtiSmsDeliveryError(RtiSmsPermanentError):
    """A submission that was waited for ended in a state that counts as failure."""


class RtiSmsUncertainError(RtiSmsPermanentError):
    """
    A request that must not be repeated got no usable response: it may or may not have been acted on.

    Permanent, so that no task retry repeats it by itself.
    """


class RtiSmsNoBalanceError(RtiSmsPermanentError):
    """``account_no_balance``: the account has no money for some of the recipients."""


class RtiSmsNotAcceptedError(RtiSmsTransientError):
    """``unknown_error`` for some of the recipients, and again when they were tried again."""


#: The class for each documented status that means failure, outside POST /auth.
STATUS_ERRORS: dict[int, type[RtiSmsError]] = {
    400: RtiSmsBadRequestError,
    401: RtiSmsTokenExpiredError,
    403: RtiSmsForbiddenError,
    404: RtiSmsNotFoundError,
    405: RtiSmsMethodNotAllowedError,
    406: RtiSmsSenderRefusedError,
    429: RtiSmsRateLimitError,
    500: RtiSmsServerError,
    502: RtiSmsServerError,
    503: RtiSmsServerError,
    504: RtiSmsServerError,
}

#: What to do about it, for the end of a message.
REMEDIES: dict[type[RtiSmsError], str] = {
    RtiSmsBadRequestError: "The request is malformed; check the values given to the operator.",
    RtiSmsAuthenticationError: "Check Login (client id) and Password (client secret) of the Connection.",
    RtiSmsTokenRefusedError: "A new token was refused as well; ask RealTime whether the account is active.",
    RtiSmsForbiddenError: "The account may not do this; ask RealTime to allow it.",
    RtiSmsNotFoundError: "Check the submission id, and that Host of the Connection points at the API.",
    RtiSmsMethodNotAllowedError: "Check that Host of the Connection points at the API.",
    RtiSmsSenderRefusedError: "Use a sender that RealTime has allowed for this account.",
    RtiSmsRedirectError: "Redirects are not followed; put the API's own address into Host of the Connection.",
    RtiSmsUnexpectedStatusError: "Check that Host of the Connection points at the API.",
    RtiSmsResponseTooLargeError: "Check that Host of the Connection points at the API.",
    RtiSmsUnsafeTokenError: "Check that Host of the Connection points at the API.",
    RtiSmsCertificateError: "Set extra 'ca_bundle' where the server uses a certificate authority of your own.",
    RtiSmsRateLimitError: "Lower 'requests_per_second' or 'max_concurrency' of the Connection.",
    RtiSmsTimeoutError: "Raise 'timeout' of the Connection if the network is slow.",
}


def shape(value: Any) -> str:
    """Describe a refused value without repeating it: it may be a secret, or a phone number in the wrong place."""
    if isinstance(value, str):
        return f"a str of {len(value)} characters"
    return "None" if value is None else f"a value of type {type(value).__name__}"
