"""
The errors: one exception for each failure that the vendor documents.

Every class here is a :class:`RtiSmsError`. It is either permanent (:class:`RtiSmsPermanentError`: the same call fails
again until a person changes something) or transient (:class:`RtiSmsTransientError`: the same call may succeed later).
``retrying.py`` decides what is repeated; the classes only say what happened.

Source: docs/vendor-api.md, "Errors".
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from airflow_provider_rtisms.api.models import Submission


class RtiSmsError(Exception):
    """
    The base class of all errors of the API.

    :param message: what was requested, what happened, and what to do.
    :param call: name of the API call, such as ``get_sms``; ``authenticate`` for POST /auth.
    :param subject: what the call was about, such as the submission id.
    :param status: HTTP status of the response, or None if there was no response.
    :param retry_after: seconds that the server asked to wait for, or None.
    :param submissions: what is known of each recipient of a send that failed.
    """

    #: Whether the server may have acted on the request. False if the request never left this machine, or if the
    #: server refused it with a status that the API documents as a refusal. Decides whether a send may be repeated.
    may_have_acted: bool = True

    def __init_subclass__(cls, may_have_acted: bool | None = None) -> None:
        if may_have_acted is not None:
            cls.may_have_acted = may_have_acted

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

    def naming(self, conn_id: str) -> Self:
        """Return a copy of the error in which the Connection has its name, wherever the message speaks of it."""
        error = copy.copy(self)
        unnamed = rf"the Connection\b(?! {re.escape(conn_id)})"
        error.args = (re.sub(unnamed, lambda found: f"{found[0]} {conn_id}", str(self)),)
        error.__cause__ = self.__cause__
        return error

    def with_context(self, context: str, *, submissions: Sequence[Submission] | None = None) -> Self:
        """
        Return a copy of the error whose message says more; raise it in place of the original.

        :param context: sentences that follow the message.
        :param submissions: what is known of each recipient; default: those of this error.
        """
        error = copy.copy(self)
        error.args = (f"{self} {context}",)
        error.__cause__ = self.__cause__
        if submissions is not None:
            error.submissions = list(submissions)
        return error


class RtiSmsPermanentError(RtiSmsError):
    """The same call fails again until a person changes something. Operators raise ``AirflowFailException`` for it."""


class RtiSmsTransientError(RtiSmsError):
    """The same call may succeed later. Operators let it pass, so that Airflow can retry the task."""


class RtiSmsInputError(RtiSmsPermanentError, ValueError, may_have_acted=False):
    """An argument cannot be used. Nothing has left the machine."""


class RtiSmsConfigError(RtiSmsPermanentError, ValueError, may_have_acted=False):
    """A field of the Connection is missing or malformed. Nothing has left the machine."""


class RtiSmsBadRequestError(RtiSmsPermanentError, may_have_acted=False):
    """400: the request or the token is malformed."""


class RtiSmsAuthenticationError(RtiSmsPermanentError, may_have_acted=False):
    """400 or 401 at POST /auth: the client id or the client secret is malformed or wrong."""


class RtiSmsTokenRefusedError(RtiSmsPermanentError, may_have_acted=False):
    """401 twice in a row: the server refused the token, and then a new one."""


class RtiSmsForbiddenError(RtiSmsPermanentError, may_have_acted=False):
    """403: the account may not do this."""


class RtiSmsNotFoundError(RtiSmsPermanentError, may_have_acted=False):
    """404: the submission does not exist, or Host points at something that is not the API."""


class RtiSmsMethodNotAllowedError(RtiSmsPermanentError, may_have_acted=False):
    """405: the method is wrong, or Host points at something that is not the API."""


class RtiSmsSenderRefusedError(RtiSmsPermanentError, may_have_acted=False):
    """406: the sender is malformed or not allowed for this account."""


class RtiSmsRedirectError(RtiSmsPermanentError):
    """3xx: redirects are never followed, because they can carry the token to another server."""


class RtiSmsUnexpectedStatusError(RtiSmsPermanentError):
    """The server returned a status that the API does not document."""


class RtiSmsResponseTooLargeError(RtiSmsPermanentError):
    """The response is larger than any response of this API. It was not read to its end."""


class RtiSmsUnsafeTokenError(RtiSmsPermanentError, may_have_acted=False):
    """The access token holds characters that do not belong in a header (RFC 6750, section 2.1)."""


class RtiSmsCertificateError(RtiSmsPermanentError, may_have_acted=False):
    """The server's TLS certificate could not be verified."""


class RtiSmsTokenExpiredError(RtiSmsTransientError, may_have_acted=False):
    """401 outside /auth: the token is missing, malformed or expired. The call is repeated once with a new token."""


class RtiSmsRateLimitError(RtiSmsTransientError, may_have_acted=False):
    """429: a threshold of the account was passed."""


class RtiSmsServerError(RtiSmsTransientError):
    """500, 502, 503 or 504: the vendor's side failed."""


class RtiSmsConnectError(RtiSmsTransientError, may_have_acted=False):
    """No connection could be made. The request never left the machine."""


class RtiSmsConnectionLostError(RtiSmsTransientError):
    """The connection broke after the request may have left."""


class RtiSmsTimeoutError(RtiSmsTransientError):
    """The response was not complete within ``timeout`` seconds."""


class RtiSmsInvalidResponseError(RtiSmsTransientError):
    """Status 200, but the response is cut off, is not JSON, or is not what the API documents."""


class RtiSmsDeliveryError(RtiSmsPermanentError):
    """A submission reached a final state that counts as a failure."""


class RtiSmsUncertainError(RtiSmsPermanentError):
    """
    A request that must not be repeated got no usable response, so the server may or may not have acted on it.

    It is permanent, so that no task retry repeats the request without a decision by a person.
    """


class RtiSmsNoBalanceError(RtiSmsPermanentError):
    """``account_no_balance``: the account has no money for some of the recipients."""


class RtiSmsNotAcceptedError(RtiSmsTransientError):
    """``unknown_error``: the vendor did not accept some of the recipients in any attempt."""


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

_CHECK_HOST = 'Check "Base URL (Host)" of the Connection: maybe it is not the API.'
#: What a person can do about an error. Messages end with it.
REMEDIES: dict[type[RtiSmsError], str] = {
    RtiSmsBadRequestError: "The request is malformed; check the values given to the operator.",
    RtiSmsAuthenticationError: "Check Login (client id) and Password (client secret) of the Connection.",
    RtiSmsTokenRefusedError: "Ask RealTime whether the account is active.",
    RtiSmsForbiddenError: "The account may not do this; ask RealTime to allow it.",
    RtiSmsNotFoundError: 'Check the submission id, and "Base URL (Host)" of the Connection.',
    RtiSmsMethodNotAllowedError: _CHECK_HOST,
    RtiSmsSenderRefusedError: "Use a sender that RealTime has allowed for this account.",
    RtiSmsRedirectError: 'Redirects are not followed: put the address of the API into "Base URL (Host)".',
    RtiSmsUnexpectedStatusError: _CHECK_HOST,
    RtiSmsResponseTooLargeError: _CHECK_HOST,
    RtiSmsUnsafeTokenError: _CHECK_HOST,
    RtiSmsCertificateError: "If your company's authority signs it, set the field 'ca_bundle' in the extra of the "
    "Connection to the authority's PEM file.",
    RtiSmsRateLimitError: "Lower the field 'requests_per_second' or 'max_concurrency' in the extra of the Connection.",
    RtiSmsTimeoutError: "If the network is slow, raise the field 'timeout' in the extra of the Connection.",
}


def shape(value: Any) -> str:
    """Describe a refused value without repeating it, since it may be a secret or a phone number."""
    if isinstance(value, str):
        return f"a str of {len(value)} characters"
    return "None" if value is None else f"a value of type {type(value).__name__}"
