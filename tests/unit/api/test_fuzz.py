"""Random responses that echo what was sent: no log, error or result repeats it. Each seed is a test of its own."""

from __future__ import annotations

import html
import json
import random
import traceback
from collections.abc import Sequence
from urllib.parse import quote

import pytest

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.errors import RtiSmsError
from tests.hostile import grant, raw
from tests.unit.api.conftest import Transport
from tests.unit.conftest import Serve

SECRET = "cl1ent/secr3t+value"
TOKEN = "t0ken.of$the/session"
NUMBER = "+56987654321"
TEXT = "Reunión confidencial/privada mañana"
#: Parts that show that something was repeated, however the rest is spelled.
TRACES = ("cl1ent", "secr3t", "t0ken", "87654321", "confidencial", "privada")
SEEDS = range(40)

pytestmark = pytest.mark.usefixtures("quick_retries", "everything_is_logged")


def spell(rng: random.Random, value: str) -> str:
    """Return a value in one of the encodings in which a server may repeat it."""
    return rng.choice(
        [
            value,
            quote(value),
            quote(value, safe=""),
            json.dumps(value)[1:-1],
            json.dumps(value).replace("/", "\\/")[1:-1],
            html.escape(value),
            value[: len(value) - 2],
            " ".join(value[start : start + 4] for start in range(0, len(value), 4)),
        ]
    )


def hostile(rng: random.Random, values: Sequence[str]) -> bytes:
    """Return a response that repeats one of the values somewhere."""
    echo = spell(rng, rng.choice(values))
    status = rng.choice([200, 200, 200, 302, 400, 401, 403, 404, 406, 418, 429, 500, 503])
    body = rng.choice(
        [
            echo,
            json.dumps({"submissions": [{"status": echo, "submissionId": rng.choice([None, "1", echo])}]}),
            json.dumps({"submissions": [{"status": "submitted", "submissionId": values[-2][1:]}]}),
            json.dumps({"id": "1", "info": {"status": {"status": echo, "code": "1"}}}),
            json.dumps({"id": echo, "info": {"cost": echo}}),
            json.dumps({"balance": echo}),
            json.dumps({echo: echo}),
            "<html>" + "x" * rng.randrange(300) + echo,
        ]
    ).encode("utf-8", "replace")
    name = rng.choice(["X-Echo", "Retry-After", "Location", "Set-Cookie", "Content-Type"])
    if status == 429 and name == "Retry-After":
        name = "X-Echo"
    line = echo if rng.random() < 0.2 else "OK"
    start = f"{echo}\r\n" if rng.random() < 0.1 else f"HTTP/1.1 {status} {line}\r\n"
    length = rng.choice([len(body)] * 4 + [len(body) + 3])
    lines = f"{start}{name}: {echo}\r\nContent-Length: {length}\r\n\r\n"
    return lines.encode("utf-8", "replace") + body


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_repeated(transport: Transport, serve: Serve, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    credentials = [SECRET, TOKEN]  # a call that gets something knows no number and no text
    calls = [
        (endpoints.send_sms(recipients=NUMBER, text=TEXT, sender="96000"), [*credentials, NUMBER, TEXT]),
        (endpoints.get_sms("1"), credentials),
        (endpoints.get_balance(), credentials),
    ]
    shown = ""
    for call, values in calls:
        server = serve(raw(hostile(rng, values), then="close"), auth=[grant(TOKEN)])
        try:
            shown += repr(transport.perform(server, call, client_secret=SECRET, max_attempts=1, timeout=5))
        except RtiSmsError as error:
            shown += "".join(traceback.format_exception(error)) + repr(vars(error))
    shown += caplog.text
    for trace in TRACES:
        at = shown.find(trace)
        assert at < 0, shown[max(0, at - 200) : at + 100]
