"""What arrives at a StatsD server: it equals what the sandbox has counted, and names nobody."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.providers.common.compat.sdk import Stats as AirflowStats

from airflow_provider_rtisms.api import calls as endpoints
from airflow_provider_rtisms.api.calls import Call
from airflow_provider_rtisms.api.errors import RtiSmsError, RtiSmsNotFoundError
from airflow_provider_rtisms.hooks import metrics
from airflow_provider_rtisms.hooks.metrics import METRICS, stats_for
from airflow_provider_rtisms.hooks.rtisms import RtiSmsHook
from airflow_provider_rtisms.sandbox import Fault, Sandbox
from airflow_provider_rtisms.sensors.rtisms import DeliveryPolling, RtiSmsDeliverySensor
from airflow_provider_rtisms.triggers.rtisms import RtiSmsBalanceTrigger, RtiSmsDeliveryTrigger
from tests.hostile import until
from tests.open_submissions import final_after_first_poll
from tests.patience import PATIENCE
from tests.statsd import StatsdListener

#: Airflow's StatsD client, which is an extra of Airflow.
StatsClient = pytest.importorskip("statsd", reason="not in the environment of the lowest versions").StatsClient

pytestmark = pytest.mark.usefixtures("quick_retries")

RECIPIENTS = ["+56912345001", "+56912345002", "+56912345003"]
#: The sandbox refuses it for want of a balance.
OUT_OF_BALANCE = "+56912345005"
KNOWN, UNKNOWN = "4193366853543393", "9999999999999"
TEXT = "Confidential: the nightly load is late"
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"

Restart = Callable[..., None]
Perform = Callable[..., Any]


def restart_airflow_stats() -> None:
    """Let Airflow's Stats and this package read the settings again, as a new process does."""
    for function in vars(metrics).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    if hasattr(AirflowStats, "initialize"):
        metrics._initialize()
    else:  # up to Airflow 3.1, Stats reads the settings when its class is made
        kind: Any = type(AirflowStats)
        del kind.factory
        AirflowStats.instance = None  # type: ignore[attr-defined]
        kind.__init__(AirflowStats)


@pytest.fixture
def statsd() -> Iterator[StatsdListener]:
    with StatsdListener() as listener:
        yield listener


@pytest.fixture
def restart(statsd: StatsdListener, monkeypatch: pytest.MonkeyPatch) -> Iterator[Restart]:
    """Change settings of the section ``metrics``."""

    def restart(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__{name.upper()}", value)
        restart_airflow_stats()

    yield restart
    monkeypatch.undo()
    restart_airflow_stats()


@pytest.fixture
def reported(
    statsd: StatsdListener, restart: Restart, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StatsdListener]:
    """A plain StatsD server that gets the metrics. At the end nothing in it names anybody, or holds a secret."""
    for name, value in statsd.settings.items():
        monkeypatch.setenv(name, value)
    restart()
    yield statsd
    text = "\n".join(statsd.lines())
    state = rtisms_sandbox.state()
    private = [
        rtisms_sandbox.client_id,
        rtisms_sandbox.client_secret,
        *state.tokens,
        *state.requests_by_id,
        "onfidential",
    ]
    private += [message.recipient.removeprefix("+") for message in state.messages]
    private += [message.submission_id for message in state.messages if message.submission_id]
    assert text
    assert [one for one in private if one in text] == []


def blocking(*calls: Call[Any], **_: Any) -> None:
    with RtiSmsHook() as hook:
        for call in calls:
            with suppress(RtiSmsError):
                hook.get_conn().perform(call)


def asynchronous(*calls: Call[Any]) -> None:
    """As a worker does."""

    async def perform_all(client: Any) -> None:
        for call in calls:
            with suppress(RtiSmsError):
                await client.perform(call)

    RtiSmsHook().run_async(perform_all)


def in_a_trigger(*calls: Call[Any]) -> None:
    async def main() -> None:
        async with RtiSmsHook().get_async_conn() as client:
            for call in calls:
                with suppress(RtiSmsError):
                    await client.perform(call)

    asyncio.run(main())


@pytest.fixture(params=[blocking, asynchronous, in_a_trigger])
def perform(request: pytest.FixtureRequest) -> Perform:
    """Do calls in each of the three ways in which the package does them, whatever their outcome."""
    return request.param  # type: ignore[no-any-return]


def send(*recipients: str) -> Call[Any]:
    return endpoints.send_sms(recipients=recipients or RECIPIENTS, text=TEXT, sender="96000")


class TestCalls:
    def test_fetches(self, reported: StatsdListener, rtisms_sandbox: Sandbox, perform: Perform) -> None:
        calls = [endpoints.get_sms(rtisms_sandbox.add_submission()) for _ in range(5)]
        perform(*calls, endpoints.get_sms(UNKNOWN))
        state = rtisms_sandbox.state()
        assert reported.counts() == {
            "rtisms.requests.rtisms_default.authenticate.2xx": state.count_responses(200, "POST auth"),
            "rtisms.requests.rtisms_default.get_sms.2xx": state.count_responses(200, "GET sms"),
            "rtisms.requests.rtisms_default.get_sms.4xx": state.count_responses(404, "GET sms"),
            "rtisms.call_duration.rtisms_default.authenticate.success": 1,
            "rtisms.call_duration.rtisms_default.get_sms.success": 5,
            "rtisms.call_duration.rtisms_default.get_sms.permanent_error": 1,
            "rtisms.tokens.rtisms_default": state.tokens_issued,
        }
        assert state.requests == {"POST auth": 1, "GET sms": 6}

    @pytest.mark.parametrize(
        ("faults", "calls", "expected"),
        [
            pytest.param(
                [Fault("error", statuses=(503, 429, 500), times=3, path="sms"), Fault("reset", times=1, path="sms")],
                # The first call succeeds. After that, a 429 slows down all requests of an asyncio client.
                [endpoints.get_balance(), endpoints.get_sms(KNOWN)],
                {
                    **{f"requests.get_sms.{status}": 1 for status in ("2xx", "4xx", "no_response")},
                    **{"requests.get_sms.5xx": 2, "retries.get_sms": 4, "throttled.get_sms": 1},
                },
                id="retries",
            ),
            pytest.param(
                [Fault("error", statuses=(401,), times=1, path="balance")],
                [endpoints.get_balance()],
                {"tokens": 2, "retries.get_balance": 1, "requests.get_balance.4xx": 1}
                | {"call_duration.get_balance.success": 1},
                id="a refused token",
            ),
            pytest.param(
                [Fault("error", statuses=(503,), path="sms")],
                [endpoints.get_sms(UNKNOWN)],
                {"call_duration.get_sms.transient_error": 1, "requests.get_sms.5xx": 5, "retries.get_sms": 4},
                id="an API that is down",
            ),
            pytest.param(
                [], [send(), send(OUT_OF_BALANCE)], {"messages.submitted": 3, "messages.refused": 1}, id="sent"
            ),
            pytest.param(
                [Fault("lost_response", times=1, path="sms", method="POST")],
                [send()],
                {"messages.uncertain": 3, "requests.send_sms.no_response": 1},
                id="uncertain",
            ),
            # The path may hold anything, so it is in no metric.
            pytest.param(
                [], [endpoints.request("GET", f"/sms/{KNOWN}")], {"requests.request.2xx": 1}, id="another call"
            ),
        ],
    )
    def test_what_is_counted(
        self,
        reported: StatsdListener,
        rtisms_sandbox: Sandbox,
        perform: Perform,
        faults: list[Fault],
        calls: list[Call[Any]],
        expected: dict[str, int],
    ) -> None:
        rtisms_sandbox.set_faults(*faults)
        perform(*calls)
        counts = {name.replace(".rtisms_default", ""): count for name, count in reported.counts().items()}
        assert {name: counts.get(f"rtisms.{name}") for name in expected} == expected
        messages = sum(count for name, count in counts.items() if name.startswith("rtisms.messages."))
        assert messages == sum(call.messages for call in calls)
        assert counts["rtisms.tokens"] == rtisms_sandbox.state().tokens_issued
        assert KNOWN not in "".join(reported.lines())

    def test_the_time_of_a_call_and_the_balance(
        self, reported: StatsdListener, rtisms_sandbox: Sandbox, perform: Perform
    ) -> None:
        rtisms_sandbox.set_faults(Fault("latency", seconds=0.3, path="balance"))
        rtisms_sandbox.set_balance("12.75")
        perform(endpoints.get_balance())
        (milliseconds,) = reported.timers()["rtisms.call_duration.rtisms_default.get_balance.success"]
        assert 300 <= milliseconds < 20_000
        assert reported.gauges() == {"rtisms.balance.rtisms_default": [12.75]}


class TestStats:
    @pytest.mark.parametrize(
        ("status", "name"),
        [(None, "no_response"), (99, "other"), (100, "1xx"), (299, "2xx"), (404, "4xx"), (599, "5xx"), (600, "other")],
    )
    def test_the_class_of_a_status(self, reported: StatsdListener, status: int | None, name: str) -> None:
        stats_for("mine").on_request(endpoints.get_sms(UNKNOWN), status)
        assert reported.counts() == {f"rtisms.requests.mine.get_sms.{name}": 1}

    def test_datadog_has_tags_unless_they_are_off(self, restart: Restart, reported: StatsdListener) -> None:
        stats_for("mine").on_token()
        restart(statsd_on="False", statsd_datadog_enabled="True")
        assert metrics._has_tags()
        restart(statsd_datadog_metrics_tags="False")
        assert not metrics._has_tags()


class TestBulk:
    def test_records(self, reported: StatsdListener, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
        ids = [rtisms_sandbox.add_submission() for _ in range(50)]
        RtiSmsHook().bulk_get_sms([*ids, UNKNOWN], output_path=tmp_path / "a.jsonl", on_missing="skip")
        counts = reported.counts()
        assert counts["rtisms.bulk_records.rtisms_default"] == 50
        assert counts["rtisms.requests.rtisms_default.get_sms.2xx"] == 50
        assert counts["rtisms.requests.rtisms_default.get_sms.4xx"] == 1

    def test_records_of_an_earlier_attempt_do_not_count_again(
        self, reported: StatsdListener, rtisms_sandbox: Sandbox, tmp_path: Path
    ) -> None:
        ids = [rtisms_sandbox.add_submission("DELIVERED", pending_for=0, sent_for=0) for _ in range(20)]
        for _ in range(2):
            with pytest.raises(RtiSmsNotFoundError):
                RtiSmsHook().bulk_get_sms([*ids, UNKNOWN], output_path=tmp_path / "a.jsonl")
        assert rtisms_sandbox.state().requests_by_id == {**dict.fromkeys(ids, 1), UNKNOWN: 2}
        assert reported.counts()["rtisms.bulk_records.rtisms_default"] == 20


async def fire(trigger: Any) -> None:
    async for _ in trigger.run():
        pass


def new_trigger(
    *submission_ids: str, conn_id: str = "rtisms_default", deadline: float = PATIENCE
) -> RtiSmsDeliveryTrigger:
    return RtiSmsDeliveryTrigger(
        rtisms_conn_id=conn_id,
        submission_ids=submission_ids,
        poke_interval=0.1,
        deadline=time.time() + deadline,
        missing_until=time.time() + PATIENCE,
        fail_on=["REJECTED"],
    )


def new_balance_trigger(minimum: str) -> RtiSmsBalanceTrigger:
    return RtiSmsBalanceTrigger(
        rtisms_conn_id="rtisms_default", minimum=minimum, poke_interval=0.1, deadline=time.time() + PATIENCE
    )


def open_waits(reported: StatsdListener, conn_id: str = "rtisms_default") -> list[float]:
    """Return the values of the gauge; the host of this machine may have dots."""
    found = [one for name, one in reported.gauges().items() if name.startswith(f"rtisms.waits_open.{conn_id}.")]
    return found[0] if found else []


class TestWaits:
    def test_the_gauge_goes_up_and_down(self, reported: StatsdListener, rtisms_sandbox: Sandbox) -> None:
        """Some waits finish, one fails, one times out, and one is cancelled, as Airflow does to move it."""
        rejected = rtisms_sandbox.add_submission("REJECTED", pending_for=0, sent_for=0)
        never = rtisms_sandbox.add_submission("PENDING")

        async def main(later: str) -> None:
            moved = asyncio.ensure_future(fire(new_trigger(never)))
            await until(lambda: rtisms_sandbox.state().requests_by_id.get(never, 0) > 0)
            await asyncio.gather(
                fire(new_trigger(later)),
                fire(new_balance_trigger("1")),
                fire(new_trigger(rejected)),
                fire(new_trigger(never, deadline=0.5)),
            )
            assert open_waits(reported)[-1] == 1
            moved.cancel()
            await asyncio.gather(moved, return_exceptions=True)

        with final_after_first_poll(rtisms_sandbox) as later:
            asyncio.run(main(later))
        values = open_waits(reported)
        assert max(values) == 5
        assert values[-1] == 0
        assert all(abs(after - before) <= 1 for before, after in pairwise(values))

    @pytest.mark.parametrize(("interval", "values"), [(0.2, [1, 1, 1, 0]), (metrics.REFRESH_INTERVAL, [1, 0])])
    def test_a_number_that_stays_is_reported_again_but_not_with_every_poll(
        self,
        reported: StatsdListener,
        rtisms_sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
        interval: float,
        values: list[int],
    ) -> None:
        """A server that was restarted, or that forgets old values, learns it."""
        monkeypatch.setattr(metrics, "REFRESH_INTERVAL", interval)
        never = rtisms_sandbox.add_submission("PENDING")

        async def main() -> None:
            wait = asyncio.ensure_future(fire(new_trigger(never)))
            await until(lambda: rtisms_sandbox.state().requests_by_id.get(never, 0) >= 3)
            await until(lambda: len(open_waits(reported)) >= len(values) - 1)
            wait.cancel()
            await asyncio.gather(wait, return_exceptions=True)

        asyncio.run(main())
        assert open_waits(reported)[-1] == 0
        assert open_waits(reported)[: len(values) - 1] == values[:-1]
        assert (len(open_waits(reported)) == 2) is (len(values) == 2)

    def test_the_loop_waits_for_no_host_name(
        self, restart: Restart, reported: StatsdListener, rtisms_sandbox: Sandbox
    ) -> None:
        """Airflow's Stats looks one up when it is first used."""
        restart(statsd_custom_client_path=f"{__name__}.RecordingClient")
        RecordingClient.threads.clear()
        asyncio.run(fire(new_balance_trigger("1")))
        assert RecordingClient.threads
        assert threading.get_ident() not in RecordingClient.threads
        assert reported.lines()


class RecordingClient(StatsClient):  # type: ignore[misc,valid-type]
    """Remembers in which threads it was made."""

    threads: ClassVar[set[int]] = set()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.threads.add(threading.get_ident())
        super().__init__(*args, **kwargs)


class TestDeliveries:
    NAME = "rtisms.delivery_duration.rtisms_default"

    def test_the_time_to_delivery(self, reported: StatsdListener, rtisms_sandbox: Sandbox) -> None:
        """It is what the records say, once for each delivered submission, in a worker and in the triggerer."""
        done = rtisms_sandbox.add_submission(pending_for=0, sent_for=0)
        failed = rtisms_sandbox.add_submission("UNDELIVERED", pending_for=0, sent_for=0)
        with final_after_first_poll(rtisms_sandbox) as later:
            ids = [done, failed, later]
            polling = DeliveryPolling("rtisms_default", ids, [], 0)
            assert not polling.poll()
            trigger = polling.deferral(0.1, 60)["trigger"]
            (payload,) = asyncio.run(self.payloads(trigger))
        records = DeliveryPolling("rtisms_default", ids, [], 0).complete(payload)
        assert [record["status"] for record in records] == ["DELIVERED", "UNDELIVERED", "DELIVERED"]
        moments = [
            (record["registered_at"], record["done_at"]) for record in records if record["status"] == "DELIVERED"
        ]
        expected = [1000 * (timestamp(done) - timestamp(registered)) for registered, done in moments]
        assert sorted(reported.timers()[self.NAME]) == sorted(expected)

    def test_a_large_wait_counts_none_twice(
        self, reported: StatsdListener, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its records stay out of the event, so the worker fetches them once more."""
        monkeypatch.setattr("airflow_provider_rtisms.waiting.MAX_RECORDS_IN_DATABASE", 2)
        ids = [rtisms_sandbox.add_submission(pending_for=0, sent_for=0) for _ in range(4)]
        trigger = DeliveryPolling("rtisms_default", ids, [], 0).deferral(0.1, 60)["trigger"]
        (payload,) = asyncio.run(self.payloads(trigger))
        assert payload["records"] == []
        DeliveryPolling("rtisms_default", ids, [], 0).complete(payload)
        assert rtisms_sandbox.state().requests["GET sms"] == 8
        assert reported.counts()[self.NAME] == 4

    @pytest.mark.parametrize(("mode", "expected"), [("poke", 2), ("reschedule", None)])
    def test_a_sensor_knows_what_it_remembers(
        self, reported: StatsdListener, rtisms_sandbox: Sandbox, mode: str, expected: int | None
    ) -> None:
        """The context has no task state store, as below Airflow 3.3."""
        ids = [rtisms_sandbox.add_submission(pending_for=0, sent_for=0) for _ in range(2)]
        assert RtiSmsDeliverySensor(task_id="wait", submission_ids=ids, mode=mode).poke({}).is_done
        assert reported.counts().get(self.NAME) == expected

    @staticmethod
    async def payloads(trigger: Any) -> list[Any]:
        return [event.payload async for event in trigger.run()]


def timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class TestSettings:
    def test_nothing_is_sent_where_metrics_are_off(
        self, statsd: StatsdListener, restart: Restart, rtisms_sandbox: Sandbox
    ) -> None:
        restart(**{name.rpartition("__")[2]: value for name, value in statsd.settings.items()}, statsd_on="False")
        blocking(endpoints.get_balance())
        in_a_trigger(endpoints.get_balance())
        asyncio.run(fire(new_balance_trigger("1")))
        assert rtisms_sandbox.state().requests["GET balance"] == 3
        assert statsd.lines() == []
        assert metrics.stats_for("rtisms_default").report is None
        assert metrics._label.cache_info().misses == 0  # Airflow's Stats, which does nothing, was not called

    def test_tags(self, restart: Restart, reported: StatsdListener, rtisms_sandbox: Sandbox) -> None:
        restart(statsd_influxdb_enabled="True")
        ids = [rtisms_sandbox.add_submission(pending_for=0, sent_for=0) for _ in range(3)]
        rtisms_sandbox.set_faults(Fault("error", statuses=(429,), times=1, path="sms", method="GET"))
        asyncio.run(fire(new_trigger(*ids)))
        blocking(endpoints.get_balance(), send())
        RtiSmsHook().bulk_get_sms(ids)
        kinds = {"counter": "c", "timer": "ms", "gauge": "g"}
        found = {re.sub(r"=[\w.-]+|:[\d.]+", "", line) for line in reported.lines()}
        assert found == {",".join([metric.name, *metric.tags]) + f"|{kinds[metric.kind]}" for metric in METRICS}
        assert "rtisms.balance,conn_id=rtisms_default" in reported.gauges()

    @pytest.mark.parametrize("has_tags", ["True", "False"])
    def test_odd_connection_ids(
        self,
        restart: Restart,
        reported: StatsdListener,
        rtisms_sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
        has_tags: str,
    ) -> None:
        """A Connection id may hold what separates the parts of a metric."""
        restart(statsd_influxdb_enabled=has_tags)
        odd = "prod:é|a,b=c.d" + 200 * "x"
        clean = ("prod___a_b_c.d" + 200 * "x")[:64]
        stats_for(odd).on_token()
        blocking(endpoints.get_balance())
        tagged = f"rtisms.tokens,conn_id={clean}"
        plain = f"rtisms.tokens.{clean.replace('.', '_')}"
        assert reported.counts()[tagged if has_tags == "True" else plain] == 1

    def test_metrics_that_cannot_be_sent_fail_no_call(
        self, restart: Restart, statsd: StatsdListener, rtisms_sandbox: Sandbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = {name.rpartition("__")[2]: value for name, value in statsd.settings.items()}
        restart(**settings, statsd_custom_client_path=f"{__name__}.BrokenClient")
        with RtiSmsHook() as hook:
            assert hook.send_sms(recipients=RECIPIENTS, text=TEXT, sender="96000")[2].is_submitted
        assert statsd.lines() == []
        assert caplog.text.count("Metrics cannot be sent: RuntimeError: full") == 1

    def test_metrics_that_cannot_be_set_up_fail_no_wait(
        self, restart: Restart, statsd: StatsdListener, rtisms_sandbox: Sandbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = {name.rpartition("__")[2]: value for name, value in statsd.settings.items()}
        restart(**settings, statsd_custom_client_path=f"{__name__}.ImpossibleClient")
        asyncio.run(fire(new_balance_trigger("1")))
        assert rtisms_sandbox.state().requests["GET balance"] == 1
        assert caplog.text.count("Metrics cannot be sent: RuntimeError: no server") == 1


class ImpossibleClient(StatsClient):  # type: ignore[misc,valid-type]
    """Cannot be made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no server")


class BrokenClient(StatsClient):  # type: ignore[misc,valid-type]
    """Cannot send."""

    def _send(self, data: str) -> None:
        raise RuntimeError("full")


class TestDocuments:
    """The operations page and the code name the same metrics."""

    PAGE = OPERATIONS.read_text()

    def test_the_page_lists_every_metric(self) -> None:
        rows = re.findall(r"^\| `(rtisms\.\w+)` \| (\w+) \| ([^|]+) \|", self.PAGE, re.MULTILINE)
        listed = [(name, kind, tuple(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows]
        assert listed == [tuple(metric) for metric in METRICS]

    def test_the_alerts_use_metrics_that_exist(self) -> None:
        exported = {f"airflow_{metric.name.replace('.', '_')}": metric for metric in METRICS}
        blocks = re.findall(r"```(?:promql|yaml)\n(.+?)```", self.PAGE, re.DOTALL)
        used = {name for block in blocks for name in re.findall(r"airflow_rtisms_\w+?(?=\b|_count\b|_sum\b)", block)}
        assert used
        assert {re.sub("_(count|sum|bucket)$", "", name) for name in used} <= set(exported)
