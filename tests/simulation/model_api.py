"""A model of the API (docs/vendor-api.md): tokens, submissions, a threshold. It acts at once."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from airflow_provider_rtisms.api.calls import HttpRequest
from airflow_provider_rtisms.api.values.text import Charset
from tests.simulation.world import World

#: Seconds since the epoch that the clock of a loop counts from.
EPOCH = 1_790_000_000
VALIDITIES: tuple[Any, ...] = ("3600", "3600", 3600, "240", "30", "2", "0", None, "soon")
FINAL_STATUSES = ("DELIVERED", "DELIVERED", "DELIVERED", "REJECTED", "UNDELIVERED", "EXPIRED", "UNKNOWN")


@dataclass(frozen=True)
class Reply:
    """What the API returns: status, headers, body."""

    status: int
    body: bytes = b""
    retry_after: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": self.retry_after}


@dataclass
class StoredSubmission:
    """A submission: when it becomes known and final, and as what. Times are those of the loop."""

    known_at: float
    final_at: float
    final_status: str


class ModelApi:
    """The API of one account."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = world.rng
        self.secrets = [self.new_client_secret()]
        self.tokens: dict[str, float] = {}
        self.submissions: dict[str, StoredSubmission] = {}
        #: How often a message was accepted, by number and text. This is who was texted how often.
        self.accepted: Counter[tuple[str, str]] = Counter()
        #: Requests that the account may make in a second; None for any number.
        self.threshold = rng.choice((None, None, 2, 5, 20))
        self.refusals = rng.choice((0.0, 0.0, 0.1, 0.4))
        self.is_calm = False
        self._recent: deque[float] = deque()

    def new_client_secret(self) -> str:
        """Return a client secret with characters that need encoding."""
        return self.world.new_secret("s+/&%é=")

    def new_submission(self, known_in: float, final_in: float) -> str:
        """Return the id of a submission that becomes known and final some seconds from now."""
        rng, now = self.world.rng, self.world.loop.time()
        submission_id = "4" + "".join(rng.choices("01234", k=14))
        self.submissions[submission_id] = StoredSubmission(now + known_in, now + final_in, rng.choice(FINAL_STATUSES))
        return submission_id

    def revoke_tokens(self) -> None:
        """Let every token be refused from now on."""
        self.tokens.clear()

    def handle(self, request: HttpRequest) -> Reply:
        """Act on a request."""
        if request.path == "/api/auth":
            return self._authenticate(request)
        now = self.world.loop.time()
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens.get(token, 0.0) <= now:
            return Reply(401)
        if self._is_over_threshold(now):
            return self.throttle()
        if request.path == "/api/balance":
            return _json({"balance": "457.00"})
        if request.method == "GET":
            return self._get(request.path.removeprefix("/api/sms/"), now)
        return self._send(request)

    def throttle(self) -> Reply:
        """Return a 429."""
        return Reply(429, b"slow down", self.world.rng.choice((None, None, "0", "1", "7", "500", "later")))

    def _is_over_threshold(self, now: float) -> bool:
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if self.threshold is None or self.is_calm or len(self._recent) < self.threshold:
            self._recent.append(now)
            return False
        return True

    def _authenticate(self, request: HttpRequest) -> Reply:
        form = parse_qs((request.body or b"").decode())
        if form["client_secret"][0] not in self.secrets:
            return Reply(401, b"wrong client_secret " + (request.body or b""))
        rng = self.world.rng
        token = self.world.new_secret("eyJ.$", length=16)
        validity = rng.choice(VALIDITIES)
        seconds = float(validity) if str(validity).isdigit() else 3600.0
        # A validity of 0 still allows one use, or nobody could ever call.
        self.tokens[token] = self.world.loop.time() + max(seconds, 5.0)
        return _json({"access_token": token, "validity_period": validity})

    def _get(self, submission_id: str, now: float) -> Reply:
        stored = self.submissions.get(submission_id)
        if stored is None or now < stored.known_at:
            return Reply(404, b'{"error": "no such submission"}')
        is_final = now >= stored.final_at
        status = stored.final_status if is_final else "PENDING"
        times = {"registered": EPOCH, "sent": 0, "done": EPOCH + 1 if is_final else 0}
        info = {
            "status": {"code": "1", "status": status},
            "cost": 1,
            "operator": {"id": "188", "mcc": "730", "mnc": "01"},
        }
        return _json({"id": submission_id, "timestamps": times, "info": info})

    def _send(self, request: HttpRequest) -> Reply:
        rng = self.world.rng
        submissions = []
        for message in read_messages(request):
            if not self.is_calm and rng.random() < self.refusals:
                submissions.append({"status": rng.choice(("unknown_error", "account_no_balance"))})
                continue
            self.accepted[message] += 1
            submissions.append({"status": "submitted", "submissionId": self.new_submission(0.0, 10.0)})
        self.world.trace(f"  API: {[one['status'] for one in submissions]} for {read_messages(request)}")
        return _json({"submissions": submissions})


def read_messages(request: HttpRequest) -> list[tuple[str, str]]:
    """Return the numbers of a send, each with the text as a person reads it."""
    payload = json.loads(request.body or b"")
    text, charset = payload["message"]["text"], payload["message"]["charset"]
    characters = bytes.fromhex(text).decode("utf-16-be") if charset == Charset.UCS_2 else text
    return [(number, characters) for number in payload["recipients"]]


def _json(value: Any) -> Reply:
    return Reply(200, json.dumps(value).encode())
