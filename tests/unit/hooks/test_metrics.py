"""What arrives at a StatsD server: it equals what the sandbox has counted, and names nobody."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Stats as AirflowStats

from airflow_provider_rtisms.api import calls as endpoints
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
Restart = Callable[..., None]


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Iterator[Restart]:
    """Change settings of the section ``metrics``, and let Airflow and this package read them, as a new process does."""

    def has(owner: object, name: str) -> bool:
        """Unlike hasattr, do not let Stats make its client."""
        return inspect.getattr_static(owner, name, None) is not None

    def read_settings() -> None:
        for function in vars(metrics).values():
            if has(function, "cache_clear"):
                function.cache_clear()
        if has(AirflowStats, "initialize"):
            metrics._initialize()
        else:  # up to Airflow 3.1, Stats reads the settings when its class is made
            kind: Any = type(AirflowStats)
            del kind.factory
            AirflowStats.instance = None  # type: ignore[attr-defined]
            kind.__init__(AirflowStats)

    def restart(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name if name.isupper() else f"AIRFLOW__METRICS__{name.upper()}", value)
        read_settings()

    yield restart
    monkeypatch.undo()
    read_settings()


@pytest.fixture
def statsd(restart: Restart) -> Iterator[StatsdListener]:
    with StatsdListener() as listener:
        restart(**listener.settings)
        yield listener


@pytest.fixture
def reported(statsd: StatsdListener, rtisms_sandbox: Sandbox) -> Iterator[StatsdListener]:
    """A StatsD server that gets the metrics. At the end nothing in it names anybody, or holds a secret."""
    yield statsd
    text, state = "\n".join(statsd.lines()), rtisms_sandbox.state()
    private = [rtisms_sandbox.client_id, rtisms_sandbox.client_secret, *state.tokens, *state.requests_by_id, KNOWN]
    private += [one for message in state.messages for one in (message.recipient[1:], message.submission_id) if one]
    assert text
    assert [one for one in [*private, "onfidential"] if one in text] == []


def blocking(*calls: Any) -> None:
    with RtiSmsHook() as hook:
        for call in calls:
            with suppress(RtiSmsError):
                hook.get_conn().perform(call)


async def perform_all(client: Any, *calls: Any) -> None:
    for call in calls:
        with suppress(RtiSmsError):
            await client.perform(call)


def asynchronous(*calls: Any) -> None:
    """As a worker does."""
    RtiSmsHook().run_async(lambda client: perform_all(client, *calls))


def in_a_trigger(*calls: Any) -> None:
    async def main() -> None:
        async with RtiSmsHook().get_async_conn() as client:
            await perform_all(client, *calls)

    asyncio.run(main())


def send(*recipients: str) -> Any:
    return endpoints.send_sms(recipients=recipients or RECIPIENTS, text=TEXT, sender="96000")


@pytest.mark.parametrize("perform", [blocking, asynchronous, in_a_trigger])
@pytest.mark.parametrize(
    ("faults", "calls", "expected"),
    [
        pytest.param(
            [Fault("error", statuses=(503, 429, 500), times=3, path="sms"), Fault("reset", times=1, path="sms")],
            # The first call succeeds. After that, a 429 slows down all requests of an asyncio client.
            [endpoints.get_balance(), endpoints.get_sms(KNOWN)],
            {**{f"requests.get_sms.{status}": 1 for status in ("2xx", "4xx", "no_response")}}
            | {"requests.get_sms.5xx": 2, "retries.get_sms": 4, "throttled.get_sms": 1},
            id="retries",
        ),
        pytest.param(
            [Fault("error", statuses=(401,), times=1, path="balance")],
            [endpoints.get_balance()],
            {
                "tokens": 2,
                "retries.get_balance": 1,
                "requests.get_balance.4xx": 1,
                "call_duration.get_balance.success": 1,
            }
            | {"requests.authenticate.2xx": 2, "call_duration.authenticate.success": 2},
            id="a refused token",
        ),
        pytest.param(
            [Fault("error", statuses=(503,), path="sms")],
            [endpoints.get_sms(UNKNOWN)],
            {"call_duration.get_sms.transient_error": 1, "requests.get_sms.5xx": 5, "retries.get_sms": 4},
            id="an API that is down",
        ),
        pytest.param(
            [], [endpoints.get_sms(UNKNOWN)], {"call_duration.get_sms.permanent_error": 1}, id="an unknown submission"
        ),
        pytest.param([], [send(), send(OUT_OF_BALANCE)], {"messages.submitted": 3, "messages.refused": 1}, id="sent"),
        pytest.param(
            [Fault("lost_response", times=1, path="sms", method="POST")],
            [send()],
            {"messages.uncertain": 3, "requests.send_sms.no_response": 1},
            id="uncertain",
        ),
        # The path may hold anything, so it is in no metric.
        pytest.param([], [endpoints.request("GET", f"/sms/{KNOWN}")], {"requests.request.2xx": 1}, id="another call"),
    ],
)
def test_what_is_counted(
    reported: StatsdListener,
    rtisms_sandbox: Sandbox,
    perform: Callable[..., Any],
    faults: list[Fault],
    calls: list[Any],
    expected: dict[str, int],
) -> None:
    rtisms_sandbox.set_faults(*faults)
    perform(*calls)
    counts = {name.replace(".rtisms_default", ""): count for name, count in reported.counts().items()}
    assert {name: counts.get(f"rtisms.{name}") for name in expected} == expected
    messages = sum(count for name, count in counts.items() if name.startswith("rtisms.messages."))
    assert messages == sum(call.messages for call in calls)
    assert counts["rtisms.tokens"] == rtisms_sandbox.state().tokens_issued


def test_the_time_of_a_call_and_the_balance(reported: StatsdListener, rtisms_sandbox: Sandbox) -> None:
    rtisms_sandbox.set_faults(Fault("latency", seconds=0.3, path="balance"))
    rtisms_sandbox.set_balance("12.75")
    blocking(endpoints.get_balance())
    (milliseconds,) = reported.timers()["rtisms.call_duration.rtisms_default.get_balance.success"]
    assert 300 <= milliseconds < 20_000
    assert reported.gauges() == {"rtisms.balance.rtisms_default": [12.75]}


def test_the_class_of_a_status(reported: StatsdListener) -> None:
    statuses = {None: "no_response", 99: "other", 100: "1xx", 299: "2xx", 404: "4xx", 599: "5xx", 600: "other"}
    for status in statuses:
        stats_for(f"mine{status}").on_request(endpoints.get_sms(UNKNOWN), status)
    assert reported.counts() == {f"rtisms.requests.mine{one}.get_sms.{name}": 1 for one, name in statuses.items()}


def test_records_of_a_bulk_fetch_count_once(reported: StatsdListener, rtisms_sandbox: Sandbox, tmp_path: Path) -> None:
    ids = [rtisms_sandbox.add_submission(pending_for=0, sent_for=0) for _ in range(20)]
    for _ in range(2):
        with pytest.raises(RtiSmsNotFoundError):
            RtiSmsHook().bulk_get_sms([*ids, UNKNOWN], output_path=tmp_path / "a.jsonl")
    counts = reported.counts()
    assert counts["rtisms.bulk_records.rtisms_default"] == counts["rtisms.requests.rtisms_default.get_sms.2xx"] == 20


def new_trigger(*submission_ids: str, deadline: float = PATIENCE) -> RtiSmsDeliveryTrigger:
    limits = {"poke_interval": 0.1, "deadline": time.time() + deadline, "missing_until": time.time() + PATIENCE}
    return RtiSmsDeliveryTrigger(
        rtisms_conn_id="rtisms_default", submission_ids=submission_ids, fail_on=["REJECTED"], **limits
    )


def new_balance_trigger() -> RtiSmsBalanceTrigger:
    return RtiSmsBalanceTrigger(
        rtisms_conn_id="rtisms_default", minimum="1", poke_interval=0.1, deadline=time.time() + PATIENCE
    )


async def fire(trigger: Any) -> list[Any]:
    return [event.payload async for event in trigger.run()]


def open_waits(reported: StatsdListener) -> list[float]:
    """Return the values of the gauge; the host of this machine may have dots."""
    found = [one for name, one in reported.gauges().items() if name.startswith("rtisms.waits_open.rtisms_default.")]
    return found[0] if found else []


@pytest.mark.parametrize("interval", [0.2, metrics.REFRESH_INTERVAL])
def test_the_gauge_of_waits(
    reported: StatsdListener, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """Waits finish, one fails, one times out, and one is cancelled. A number that stays is reported now and then."""
    monkeypatch.setattr(metrics, "REFRESH_INTERVAL", interval)
    rejected = rtisms_sandbox.add_submission("REJECTED", pending_for=0, sent_for=0)
    never = rtisms_sandbox.add_submission("PENDING")

    async def main(later: str) -> None:
        moved = asyncio.ensure_future(fire(new_trigger(never)))
        await until(lambda: rtisms_sandbox.state().requests_by_id.get(never, 0) > 3)
        await until(lambda: len(open_waits(reported)) >= (2 if interval < 1 else 1))
        others = new_trigger(later), new_balance_trigger(), new_trigger(rejected), new_trigger(never, deadline=0.5)
        await asyncio.gather(*map(fire, others))
        assert open_waits(reported)[-1] == 1
        moved.cancel()
        await asyncio.gather(moved, return_exceptions=True)

    with final_after_first_poll(rtisms_sandbox) as later:
        asyncio.run(main(later))
    values = open_waits(reported)
    assert (max(values), values[-1]) == (5, 0)
    assert all(abs(after - before) <= 1 for before, after in pairwise(values))
    assert interval < 1 or values[1] == 2


class TestDeliveries:
    NAME = "rtisms.delivery_duration.rtisms_default"

    @pytest.mark.parametrize("is_large", [False, True])
    def test_each_counts_once(
        self,
        reported: StatsdListener,
        rtisms_sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
        is_large: bool,
    ) -> None:
        """It is what the records say, in a worker and in the triggerer; a large wait fetches the records once more."""
        if is_large:
            monkeypatch.setattr("airflow_provider_rtisms.waiting.MAX_RECORDS_IN_DATABASE", 2)
        ids = [rtisms_sandbox.add_submission(one, pending_for=0, sent_for=0) for one in ("DELIVERED", "UNDELIVERED")]
        with final_after_first_poll(rtisms_sandbox) as later:
            polling = DeliveryPolling("rtisms_default", [*ids, later], [], 0)
            assert not polling.poll()
            (payload,) = asyncio.run(fire(polling.deferral(0.1, 60)["trigger"]))
        assert bool(payload["records"]) is not is_large
        records = DeliveryPolling("rtisms_default", [*ids, later], [], 0).complete(payload)
        moments = [(one["registered_at"], one["done_at"]) for one in records if one["status"] == "DELIVERED"]
        seconds = [(datetime.fromisoformat(done) - datetime.fromisoformat(start)).seconds for start, done in moments]
        assert sorted(reported.timers()[self.NAME]) == sorted(1000 * one for one in seconds)
        assert len(seconds) == 2

    @pytest.mark.parametrize(("mode", "expected"), [("poke", 2), ("reschedule", None)])
    def test_a_sensor_knows_what_it_remembers(
        self, reported: StatsdListener, rtisms_sandbox: Sandbox, mode: str, expected: int | None
    ) -> None:
        """The context has no task state store, as below Airflow 3.3."""
        ids = [rtisms_sandbox.add_submission(pending_for=0, sent_for=0) for _ in range(2)]
        assert RtiSmsDeliverySensor(task_id="wait", submission_ids=ids, mode=mode).poke({}).is_done
        assert reported.counts().get(self.NAME) == expected


class TestSettings:
    def test_nothing_is_sent_where_metrics_are_off(
        self, statsd: StatsdListener, restart: Restart, rtisms_sandbox: Sandbox
    ) -> None:
        restart(statsd_on="False")
        blocking(endpoints.get_balance())
        in_a_trigger(endpoints.get_balance())
        asyncio.run(fire(new_balance_trigger()))
        assert rtisms_sandbox.state().requests["GET balance"] == 3
        assert statsd.lines() == []
        assert metrics.stats_for("rtisms_default").report is None
        assert metrics._label.cache_info().misses == 0  # Airflow's Stats, which does nothing, was not called

    def test_tags(
        self, restart: Restart, reported: StatsdListener, rtisms_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A task has those of Airflow too. A trigger has not, since tasks share its client."""
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

        tags = {"dag_id": "d 1", "task_id": "group.t", "team_name": "red"}
        for number, ti in enumerate([SimpleNamespace(**tags), SimpleNamespace(stats_tags=tags)]):
            monkeypatch.setattr(metrics, "get_current_context", lambda ti=ti: {"ti": ti})
            stats_for(f"c{number}").on_token()
        tags["task_id"] = 200 * "t"  # Airflow drops a metric of more than 250 characters
        stats_for("c2").on_token()
        assert [name for name in reported.counts() if "conn_id=c" in name] == [
            "rtisms.tokens,conn_id=c0,dag_id=d_1,task_id=group.t",
            "rtisms.tokens,conn_id=c1,team_name=red,dag_id=d_1,task_id=group.t",
            "rtisms.tokens,conn_id=c2",
        ]

    def test_datadog_has_tags_unless_they_are_off(self, restart: Restart, statsd: StatsdListener) -> None:
        restart(statsd_on="False", statsd_datadog_enabled="True")
        assert metrics._has_tags()
        restart(statsd_datadog_metrics_tags="False")
        assert not metrics._has_tags()

    @pytest.mark.parametrize("has_tags", ["True", "False"])
    def test_odd_connection_ids(self, restart: Restart, statsd: StatsdListener, has_tags: str) -> None:
        """A Connection id may hold what separates the parts of a metric."""
        restart(statsd_influxdb_enabled=has_tags)
        stats_for("prod:é|a,b=c.d" + 200 * "x").on_token()
        clean = ("prod___a_b_c.d" + 200 * "x")[:64]
        name = f"rtisms.tokens,conn_id={clean}" if has_tags == "True" else f"rtisms.tokens.{clean.replace('.', '_')}"
        assert statsd.counts() == {name: 1}

    @pytest.mark.parametrize(("kind", "problem"), [("Broken", "full"), ("Impossible", "no server")])
    def test_metrics_that_cannot_be_sent_fail_nothing(
        self,
        restart: Restart,
        statsd: StatsdListener,
        rtisms_sandbox: Sandbox,
        caplog: pytest.LogCaptureFixture,
        kind: str,
        problem: str,
    ) -> None:
        restart(statsd_custom_client_path=f"{__name__}.{kind}Client")
        asyncio.run(fire(new_balance_trigger()))
        with RtiSmsHook() as hook:
            assert hook.send_sms(recipients=RECIPIENTS, text=TEXT, sender="96000")[2].is_submitted
        assert statsd.lines() == []
        assert caplog.text.count(f"Metrics cannot be sent: RuntimeError: {problem}") == 1

    def test_the_loop_waits_for_no_host_name(self, restart: Restart, reported: StatsdListener) -> None:
        """Airflow's Stats looks one up when it is first used."""
        restart(statsd_custom_client_path=f"{__name__}.RecordingClient")
        asyncio.run(fire(new_balance_trigger()))
        assert MADE_IN
        assert threading.get_ident() not in MADE_IN
        assert reported.lines()


#: The threads in which clients were made.
MADE_IN: set[int] = set()


class RecordingClient(StatsClient):  # type: ignore[misc,valid-type]
    """Remembers in which thread it was made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        MADE_IN.add(threading.get_ident())
        super().__init__(*args, **kwargs)


class ImpossibleClient(StatsClient):  # type: ignore[misc,valid-type]
    """Cannot be made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no server")


class BrokenClient(StatsClient):  # type: ignore[misc,valid-type]
    """Cannot send."""

    def _send(self, data: str) -> None:
        raise RuntimeError("full")


def test_the_operations_page_lists_every_metric_and_its_alerts_use_no_other() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(rtisms\.\w+)` \| (counter|timer|gauge) \| ([^|]+) \|", page, re.MULTILINE)
    assert [(name, kind, tuple(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows] == [*map(tuple, METRICS)]
    blocks = re.findall(r"```(?:promql|yaml)\n(.+?)```", page, re.DOTALL)
    used = {name for block in blocks for name in re.findall(r"airflow_rtisms_\w+?(?=\b|_count\b|_sum\b)", block)}
    exported = {f"airflow_{metric.name.replace('.', '_')}" for metric in METRICS}
    assert used
    assert {re.sub("_(count|sum|bucket)$", "", name) for name in used} <= exported
