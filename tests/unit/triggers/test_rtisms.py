"""The delivery trigger: one event, few requests, no socket left, whatever the server and the triggerer do."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from inspect import signature
from typing import Any, NamedTuple

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.triggers.base import BaseTrigger

from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.polling import WaitTrigger
from airflow_provider_rtisms.triggers.rtisms import RtiSmsDeliveryTrigger
from tests.hostile import Step, details, grant, hang, response, until
from tests.open_submissions import final_after_first_poll
from tests.patience import PATIENCE, with_more_time
from tests.unit.conftest import Serve

pytestmark = pytest.mark.usefixtures("quick_retries")

Payload = dict[str, Any]


class Pause(NamedTuple):
    """
    How long the work on an event loop held it up, in seconds of its thread's CPU time.

    :param longest: without a turn for others.
    :param all: in all.
    """

    longest: float
    all: float


def new_trigger(*submission_ids: str, **arguments: Any) -> RtiSmsDeliveryTrigger:
    now = time.time()
    return RtiSmsDeliveryTrigger(
        **{
            "rtisms_conn_id": "rtisms_default",
            "submission_ids": submission_ids,
            "poke_interval": 0.1,
            "deadline": now + PATIENCE,
            "missing_until": now,
            "fail_on": ("REJECTED", "EXPIRED"),
            **arguments,
        }
    )


async def fire(trigger: BaseTrigger) -> Payload:
    """Run a trigger to its only event."""
    (event,) = [event async for event in trigger.run()]
    return event.payload


def payload_of(trigger: BaseTrigger) -> Payload:
    return asyncio.run(fire(trigger))


def test_it_brings_the_records_in_order(rtisms_sandbox: Sandbox) -> None:
    done = rtisms_sandbox.add_submission("UNDELIVERED", pending_for=0, sent_for=0)
    with final_after_first_poll(rtisms_sandbox) as later:
        payload = payload_of(new_trigger(later, done))
    assert payload["outcome"] == "finished"
    assert [(record["submission_id"], record["status"]) for record in payload["records"]] == [
        (later, "DELIVERED"),
        (done, "UNDELIVERED"),
    ]
    assert json.loads(json.dumps(payload)) == payload
    asked = rtisms_sandbox.state().requests_by_id
    assert asked[done] == 1
    assert asked[later] > 1
    rtisms_sandbox.reset()
    assert payload_of(new_trigger(later, done, finished=payload["records"])) == payload
    assert not rtisms_sandbox.state().requests_by_id, "what was finished before is not asked for"
    rtisms_sandbox.add_submission(submission_id=done, pending_for=0, sent_for=0)
    large = {"version": 1, "outcome": "finished", "records": [], "submission_ids": [done]}
    assert payload_of(new_trigger(done, with_records=False)) == large


def test_the_deadline_ends_a_request_that_hangs(serve_default: Serve) -> None:
    server = serve_default(hang)

    async def main() -> Payload:
        payload = await fire(new_trigger("1", deadline=time.time() + 0.5))
        await until(lambda: server.connections_open == 0)
        return payload

    assert asyncio.run(main())["outcome"] == "timeout"


def test_a_timeout_names_what_is_open_and_the_last_error(serve_default: Serve) -> None:
    serve_default(response(status=503))
    payload = with_more_time(
        lambda seconds: payload_of(new_trigger("77", deadline=time.time() + seconds)),
        was_enough=lambda payload: "HTTP 503" in payload["message"],
    )
    assert payload["outcome"] == "timeout"
    assert "77" in payload["message"]


def test_a_wrong_connection_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", json.dumps({"conn_type": "rtisms", "login": "me"}))
    payload = payload_of(new_trigger("1"))
    assert payload["outcome"] == "failed"
    assert "client_secret" in payload["message"]


OUTAGE = [response(status=503)] * 12


@pytest.mark.parametrize(
    ("calls", "auth"),
    [
        ([*OUTAGE, details()], [grant()]),
        ([details()], [*OUTAGE, grant("token-after-an-outage")]),
        ([*[response(status=404)] * 3, details()], [grant()]),
    ],
    ids=["503", "503 of auth", "an unknown id within the grace"],
)
def test_what_may_pass_is_retried(serve_default: Serve, calls: list[Step], auth: list[Step]) -> None:
    server = serve_default(*calls, auth=auth)
    assert payload_of(new_trigger("1", missing_until=time.time() + PATIENCE))["outcome"] == "finished"
    assert (len(server.calls), len(server.grants)) == (len(calls), len(auth))


def test_an_unknown_id_fails_it_after_the_grace(serve_default: Serve) -> None:
    def attempt(seconds: float) -> tuple[Payload, int]:
        server = serve_default(response(status=404))
        return payload_of(new_trigger("77", missing_until=time.time() + seconds)), len(server.calls)

    payload, _ = with_more_time(attempt, was_enough=lambda result: result[1] > 1)
    assert payload["outcome"] == "failed"
    assert "77" in payload["message"]
    assert "404" in payload["message"]


@pytest.mark.parametrize("status", [400, 403, 405])
def test_a_refusal_fails_it_at_once(serve_default: Serve, status: int) -> None:
    server = serve_default(response(status=status))
    payload = payload_of(new_trigger("1"))
    assert payload["outcome"] == "failed"
    assert f"HTTP {status}" in payload["message"]
    assert len(server.calls) == 1


def test_a_rotated_secret_is_read_from_the_connection(rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = rtisms_sandbox.add_submission("SENT")

    async def main() -> Payload:
        firing = asyncio.ensure_future(fire(new_trigger(waiting)))
        await until(lambda: bool(rtisms_sandbox.state().requests_by_id))
        rtisms_sandbox.rotate_secret("another-secret")
        monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", rtisms_sandbox.connection_json())
        rtisms_sandbox.revoke_tokens()
        rtisms_sandbox.add_submission(submission_id=waiting, pending_for=0, sent_for=0)
        return await firing

    assert asyncio.run(main())["outcome"] == "finished"


def test_a_rotated_secret_that_no_one_stored_fails_it(rtisms_sandbox: Sandbox) -> None:
    waiting = rtisms_sandbox.add_submission("SENT")
    rtisms_sandbox.rotate_secret("another-secret")
    payload = payload_of(new_trigger(waiting))
    assert payload["outcome"] == "failed"
    assert "Password" in payload["message"]
    assert rtisms_sandbox.state().requests == {"POST auth": 1}


class TestSerialization:
    def test_holds_every_argument(self) -> None:
        """An argument that serialize leaves out is lost on the way to the triggerer."""
        signatures = [signature(kind.__init__) for kind in (WaitTrigger, RtiSmsDeliveryTrigger)]
        names = {one.name for found in signatures for one in found.parameters.values() if one.kind is one.KEYWORD_ONLY}
        assert set(new_trigger("1", is_execution_timeout=True).serialize()[1]) == names

    def test_holds_no_secret(self, rtisms_sandbox: Sandbox) -> None:
        """Airflow stores what a sensor defers with. This sensor has polled before that, so it has a token."""
        waiting = rtisms_sandbox.add_submission("SENT")
        with pytest.raises(TaskDeferred) as deferred:
            RtiSmsDeliverySensor(task_id="wait", submission_ids=[waiting], deferrable=True).execute({})
        stored = json.dumps([deferred.value.trigger.serialize(), deferred.value.kwargs])
        (token,) = rtisms_sandbox.state().tokens
        assert waiting in stored
        assert rtisms_sandbox.client_secret not in stored
        assert token not in stored


class TestOneProcess:
    def test_a_cancelled_wait_closes_its_sockets(self, serve_default: Serve) -> None:
        server = serve_default(hang)

        async def main() -> set[Any]:
            firing = asyncio.ensure_future(fire(new_trigger("1", "2", "3")))
            await until(lambda: server.connections_open == 3)
            firing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await firing
            await until(lambda: server.connections_open == 0)
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert asyncio.run(main()) == set()

    def test_many_waits_share_a_token_and_some_sockets(self, serve_default: Serve) -> None:
        """300 waits of 3 submissions; the server sees the sockets, a ticker feels how long the loop is held up."""
        server = serve_default(*[details("PENDING")] * 1500, details())

        async def main() -> tuple[list[Payload], Pause]:
            ticker = asyncio.ensure_future(_longest_pause())
            triggers = [
                new_trigger(f"1{number}", f"2{number}", f"3{number}", poke_interval=0.5) for number in range(300)
            ]
            payloads = await asyncio.gather(*map(fire, triggers))
            await until(lambda: server.connections_open == 0)
            ticker.cancel()
            return payloads, await ticker

        gc.collect()
        gc.freeze()  # or collecting what Airflow and pytest have piled up is a pause of its own
        try:
            payloads, pause = asyncio.run(main())
        finally:
            gc.unfreeze()
        assert [payload["outcome"] for payload in payloads] == ["finished"] * 300
        assert len(server.grants) == 1
        assert server.connections_peak <= 40
        print(f"{pause}, {server.connections_peak} sockets")
        assert pause.longest < pause.all / 5

    def test_polls_never_overlap(self, rtisms_sandbox: Sandbox) -> None:
        """A poll that takes longer than poke_interval delays the next one."""
        ids = [rtisms_sandbox.add_submission("SENT") for _ in range(3)]
        rtisms_sandbox.set_faults(Fault("latency", seconds=0.2, path="sms"))

        async def main() -> list[tuple[int, ...]]:
            firing = asyncio.ensure_future(fire(new_trigger(*ids, poke_interval=0.01)))
            counts = []
            while not counts or min(counts[-1]) < 4:
                polls = rtisms_sandbox.state().requests_by_id
                counts.append(tuple(polls.get(one, 0) for one in ids))
                await asyncio.sleep(0.02)
            firing.cancel()
            return counts

        counts = asyncio.run(main())
        assert max(max(some) - min(some) for some in counts) <= 1
        assert rtisms_sandbox.state().sockets_peak <= len(ids) + 1  # one for the token


async def _longest_pause() -> Pause:
    """Tick until cancelled; return the CPU time in which the loop came round to nothing: the longest, and all of it."""
    longest, began = 0.0, time.thread_time()
    try:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.01)
            longest = max(longest, time.thread_time() - before)
    except asyncio.CancelledError:
        return Pause(longest, time.thread_time() - began)
