"""Drive a sandbox that runs somewhere, over its control calls."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from airflow_provider_rtisms.sandbox.faults import Fault
from airflow_provider_rtisms.sandbox.state import Message, Snapshot

_TIMEOUT = 30.0


class SandboxClient:
    """A sandbox that was started elsewhere. Safe to use from several threads.

    :param url: its base URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._opener = build_opener(ProxyHandler({}))  # a proxy of the environment does not lead to it

    @property
    def client_id(self) -> str:
        """The client id that can authenticate now."""
        return str(self._control("GET", "settings")["client_id"])

    @property
    def client_secret(self) -> str:
        """The client secret that can authenticate now."""
        return str(self._control("GET", "settings")["client_secret"])

    def connection_json(self) -> str:
        """A Connection to this sandbox.

        :returns: what an environment variable such as ``AIRFLOW_CONN_RTISMS_DEFAULT`` holds.
        """
        settings = self._control("GET", "settings")
        return json.dumps(
            {
                "conn_type": "rtisms",
                "login": settings["client_id"],
                "password": settings["client_secret"],
                "host": self.url,
            }
        )

    def state(self) -> Snapshot:
        """What was asked of the sandbox since its start or its last reset, and what it holds.

        :returns: a snapshot, which does not change any more.
        """
        fields = self._control("GET", "state")
        return Snapshot(**{**fields, "messages": [Message(**message) for message in fields["messages"]]})

    def reset(self, **settings: Any) -> None:
        """Go back to the start: no tokens, no submissions but the seeded ones, counters at zero.

        :param settings: settings that differ from those it was started with, until the next reset; see
            :class:`~airflow_provider_rtisms.sandbox.settings.Settings`.
        :raises ValueError: if a name is unknown or a value makes no sense.
        """
        self._control("POST", "reset", **settings)

    def set_faults(self, *faults: Fault) -> None:
        """Make things go wrong, instead of whatever went wrong so far.

        :param faults: the faults; none of them for none.
        """
        self._control("POST", "faults", faults=faults)

    def set_timing(self, **seconds: float) -> None:
        """Change durations, for tokens and submissions to come.

        :param seconds: any of ``token_lifetime``, ``pending_for`` and ``sent_for``.
        :raises ValueError: for another name, or a negative duration.
        """
        self._control("POST", "timing", **seconds)

    def set_balance(self, balance: str) -> None:
        """Set the account's balance.

        :param balance: a decimal string.
        :raises ValueError: if it is not one.
        """
        self._control("POST", "balance", balance=balance)

    def rotate_secret(self, client_secret: str) -> None:
        """Change the client secret. Tokens that were issued stay good; see :meth:`revoke_tokens`.

        :param client_secret: the new one.
        """
        self._control("POST", "credentials", client_secret=client_secret)

    def revoke_tokens(self) -> None:
        """Make every token issued so far invalid."""
        self._control("POST", "tokens/revoke")

    def add_submission(
        self,
        status: str = "DELIVERED",
        *,
        submission_id: str | None = None,
        pending_for: float | None = None,
        sent_for: float | None = None,
        cost: int = 1,
    ) -> str:
        """Register a submission now, without sending anything.

        :param status: the status it ends in; PENDING and SENT are never left, other names are kept.
        :param submission_id: its id, decimal digits; the next free one by default. A known one is replaced.
        :param pending_for: seconds that it stays PENDING; as in the settings by default.
        :param sent_for: seconds that it then stays SENT; as in the settings by default.
        :param cost: what it cost.
        :returns: its id.
        :raises ValueError: if the id is not made of digits.
        """
        response = self._control(
            "POST",
            "submissions",
            status=status,
            submission_id=submission_id,
            pending_for=pending_for,
            sent_for=sent_for,
            cost=cost,
        )
        return str(response["submission_id"])

    def _control(self, method: str, name: str, **fields: Any) -> dict[str, Any]:
        body = json.dumps(fields, default=vars).encode() if method == "POST" else None
        request = Request(f"{self.url}/sandbox/{name}", body, method=method)  # noqa: S310  # http only
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as response:
                return dict(json.load(response))
        except HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from None
