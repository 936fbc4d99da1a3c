"""The balance: waited for in a worker, waited for in the triggerer, watched for a fall."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, Asset, TaskDeferred
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sensors.rtisms import RtiSmsBalanceSensor
from airflow_provider_rtisms.triggers.rtisms import RtiSmsBalanceFallTrigger, RtiSmsBalanceTrigger
from tests.hostile import Step, response, until
from tests.patience import PATIENCE, with_more_time
from tests.unit.attempts import AssetStore
from tests.unit.conftest import Serve

pytestmark = pytest.mark.usefixtures("quick_retries")


def sensor(**arguments: Any) -> RtiSmsBalanceSensor:
    defaults = {"minimum": "10", "poke_interval": 0.1, "timeout": PATIENCE, "deferrable": False}
    return RtiSmsBalanceSensor(task_id="balance", **{**defaults, **arguments})


class TestSensor:
    def test_it_returns_a_balance_that_is_enough(self, rtisms_sandbox: Sandbox) -> None:
        rtisms_sandbox.set_balance("10.00")
        assert sensor().execute({}) == "10.00"

    def test_transient_errors_are_retried_with_one_token(self, rtisms_sandbox: Sandbox) -> None:
        rtisms_sandbox.set_faults(Fault("error", path="balance", times=8))
        assert sensor().execute({}) == "457.00"
        assert rtisms_sandbox.state().tokens_issued == 1

    def test_it_follows_a_rotated_secret(self, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        waiting = sensor(minimum=1000)
        assert not waiting.poke({})
        rtisms_sandbox.rotate_secret("new")
        rtisms_sandbox.revoke_tokens()
        monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", rtisms_sandbox.connection_json())
        assert not waiting.poke({})
        rtisms_sandbox.set_balance("1000")
        assert waiting.poke({})

    @pytest.mark.parametrize("minimum", ["much", None, "NaN", True])
    def test_a_minimum_that_is_no_amount_is_refused(self, rtisms_sandbox: Sandbox, minimum: Any) -> None:
        with pytest.raises(AirflowFailException, match=r"^minimum "):
            sensor(minimum=minimum).execute({})

    def test_it_defers_and_returns_what_the_trigger_saw(self, rtisms_sandbox: Sandbox) -> None:
        rtisms_sandbox.set_balance("1")
        with pytest.raises(TaskDeferred) as deferred:
            sensor(deferrable=True, exponential_backoff=True, max_wait=15).execute({})
        path, arguments = deferred.value.trigger.serialize()
        assert path == "airflow_provider_rtisms.triggers.balance.RtiSmsBalanceTrigger"
        # The deadline comes shortly before the deferral times out.
        assert arguments.pop("deadline") - arguments["deferred_at"] == pytest.approx(PATIENCE - 5)
        assert arguments == {
            **{"rtisms_conn_id": "rtisms_default", "minimum": "10", "poke_interval": 0.1, "max_poke_interval": 15},
            "deferred_at": arguments["deferred_at"],
        }
        assert deferred.value.timeout == timedelta(seconds=PATIENCE)
        rtisms_sandbox.set_balance("10")
        event = asyncio.run(anext(RtiSmsBalanceTrigger(**arguments, deadline=time.time() + PATIENCE).run()))
        assert getattr(sensor(), deferred.value.method_name)({}, event.payload) == "10"


def wait_for_balance(minimum: str, seconds: float) -> dict[str, Any]:
    """Run a trigger, and return the payload of its event."""
    trigger = RtiSmsBalanceTrigger(
        rtisms_conn_id="rtisms_default", minimum=minimum, poke_interval=0.1, deadline=time.time() + seconds
    )
    return dict(asyncio.run(anext(trigger.run())).payload)


class TestTrigger:
    @pytest.mark.parametrize(
        ("steps", "seen"), [([], "was never received"), ([response({"balance": "5.0"})], "was last 5.0, below 10")]
    )
    def test_an_outage_hides_no_balance_from_before_it(
        self, serve_default: Serve, steps: list[Step], seen: str
    ) -> None:
        def attempt(seconds: float) -> tuple[str, int]:
            server = serve_default(*steps, response(status=503), extra={"max_attempts": 1})
            return wait_for_balance("10", seconds)["message"], len(server.calls)

        message, _ = with_more_time(attempt, was_enough=lambda result: result[1] > len(steps))
        assert message == f"Timed out: the balance {seen}."


def watch(store: AssetStore | None = None) -> RtiSmsBalanceFallTrigger:
    trigger = RtiSmsBalanceFallTrigger(threshold="100", poke_interval=0.1)
    trigger.asset_state_store = store
    return trigger


async def next_fall(events: AsyncIterator[Any], sandbox: Sandbox) -> dict[str, Any] | None:
    """Return the payload of the next event, or None if three polls bring none. In that case the watch ends."""
    event = asyncio.ensure_future(anext(events))
    three_polls = asyncio.ensure_future(polls(sandbox, 3))
    await asyncio.wait([event, three_polls], return_when=asyncio.FIRST_COMPLETED)
    if event.done():
        three_polls.cancel()
        return event.result().payload
    event.cancel()
    await asyncio.wait([event])
    return None


@pytest.fixture
def times_logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[str], int]:
    """How often a text was logged: Airflow 2 prints what logging keeps, and Airflow 3 does only one of the two."""
    return lambda text: max(caplog.text.count(text), "".join(capsys.readouterr()).count(text))


class TestFall:
    def test_it_reports_each_fall_once(self, rtisms_sandbox: Sandbox) -> None:
        async def main() -> list[str]:
            reported: list[str] = []

            async def listen() -> None:
                async for event in watch().run():
                    reported.append(event.payload["balance"])

            listener = asyncio.create_task(listen())
            for balance, expected in [("100", 0), ("99", 1), ("98", 1), ("150", 1), ("97", 2)]:
                await asyncio.to_thread(rtisms_sandbox.set_balance, balance)
                await polls(rtisms_sandbox, 2)
                assert len(reported) == expected, balance
            listener.cancel()
            return reported

        assert asyncio.run(main()) == ["99", "97"]

    def test_the_store_remembers_a_fall_across_restarts(self, rtisms_sandbox: Sandbox) -> None:
        store = AssetStore()
        assert asyncio.run(next_fall(watch(store).run(), rtisms_sandbox)) is None
        assert store == {}, "a balance that stays high is not stored"
        rtisms_sandbox.set_balance("5")

        async def main(watcher: RtiSmsBalanceFallTrigger) -> dict[str, Any] | None:
            events = watcher.run()
            first = await next_fall(events, rtisms_sandbox)
            assert await next_fall(events, rtisms_sandbox) is None
            return first

        assert asyncio.run(main(watch(store))) == {"balance": "5", "threshold": "100"}
        assert store.writes == 1
        assert asyncio.run(next_fall(watch(store).run(), rtisms_sandbox)) is None

    def test_transient_errors_do_not_end_it(self, rtisms_sandbox: Sandbox, logged: Callable[[], str]) -> None:
        rtisms_sandbox.set_balance("5")
        rtisms_sandbox.set_faults(Fault("error", path="balance", statuses=(403,), times=2))
        assert asyncio.run(anext(watch().run())).payload["balance"] == "5"
        shown = logged()
        assert shown.count("HTTP 403") >= 2
        assert "The next poll will try again" in shown
        assert "The balance has fallen to 5, below 100" in shown

    @pytest.mark.parametrize("broken", [["aget"], ["aset"], ["aget", "aset"]])
    def test_a_store_that_fails_ends_nothing_and_repeats_no_fall(
        self, rtisms_sandbox: Sandbox, broken: list[str], times_logged: Callable[[str], int]
    ) -> None:
        class BrokenStore(AssetStore):
            failures = 0

            async def fail(self, *_: Any, **__: Any) -> None:
                type(self).failures += 1
                raise ConnectionError("the API server is away")

        rtisms_sandbox.set_balance("5")
        store = BrokenStore()
        for name in broken:
            setattr(store, name, store.fail)

        async def main() -> list[str]:
            events: list[str] = []

            async def listen() -> None:
                async for event in watch(store).run():
                    events.append(event.payload["balance"])

            listener = asyncio.create_task(listen())
            await until(lambda: store.failures >= (3 if "aset" in broken else 1))
            for name in broken:
                delattr(store, name)  # it works again
            await until(lambda: bool(store))
            await polls(rtisms_sandbox, 2)
            listener.cancel()
            return events

        assert asyncio.run(main()) == ["5"]
        assert times_logged("the API server is away") == 1
        assert store == {"rtisms_balance_below_100_of_rtisms_default": True}  # a later release has to find it there
        assert asyncio.run(next_fall(watch(store).run(), rtisms_sandbox)) is None

    @pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="the asset state store is new in Airflow 3.3")
    def test_the_store_of_several_assets_is_not_needed(
        self, rtisms_sandbox: Sandbox, times_logged: Callable[[str], int]
    ) -> None:
        """Assets with equal watchers share one trigger. Airflow then does not know which asset a value belongs to."""
        from airflow.sdk.execution_time.context import AssetStateStoreAccessors

        rtisms_sandbox.set_balance("5")
        store: Any = AssetStateStoreAccessors(inlets=[Asset("low"), Asset("low_too")])

        async def main() -> list[Any]:
            events = watch(store).run()
            return [await next_fall(events, rtisms_sandbox) for _ in range(2)]

        assert asyncio.run(main()) == [{"balance": "5", "threshold": "100"}, None]
        assert times_logged("asset state store cannot be used") == 1

    def test_its_pauses_grow_while_polls_fail(
        self, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, times_logged: Callable[[str], int]
    ) -> None:
        """No task waits for it, so nothing fails; a person reads the log."""
        monkeypatch.delenv("AIRFLOW_CONN_RTISMS_DEFAULT")
        pauses: list[float] = []

        async def note(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 10:
                monkeypatch.setenv("AIRFLOW_CONN_RTISMS_DEFAULT", rtisms_sandbox.connection_json())

        monkeypatch.setattr("airflow_provider_rtisms.triggers.balance.pause", note)
        rtisms_sandbox.set_balance("5")
        assert asyncio.run(anext(watch().run())).payload["balance"] == "5"
        assert len(pauses) == 10
        assert pauses[:3] == [0.1, pytest.approx(1.2), pytest.approx(3.4)]
        assert pauses[-1] == 300
        missing = "There is no Connection 'rtisms_default' that Airflow can read: add it, or correct it."
        assert times_logged(f"The balance was not polled: {missing} The next") == 10


async def polls(sandbox: Sandbox, count: int) -> None:
    """Wait until the balance has been asked for so many times more."""

    def asked() -> int:
        return sandbox.state().requests.get("GET balance", 0)

    target = await asyncio.to_thread(asked) + count
    async with asyncio.timeout(PATIENCE):
        while await asyncio.to_thread(asked) < target:  # noqa: ASYNC110  # the sandbox sets no event
            await asyncio.sleep(0.02)
